package history

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"parley/internal/topology"
)

// Sealer puts into each message's text where it belongs and a MAC over all of
// it, so that its origin can be proven from its bytes wherever they turn up.
//
//	‹text› ⟦workspace channel client_msg_id mac⟧
type Sealer struct{ key []byte }

// DefaultKey is the key of seals where nobody names another.
const DefaultKey = "parley"

// NewSealer makes a Sealer; a run's swarm and its checker share the key.
func NewSealer(key string) Sealer { return Sealer{[]byte(key)} }

// Origin is where a text says that it belongs.
type Origin struct {
	Workspace   topology.WorkspaceID
	Channel     topology.ChannelID
	ClientMsgID string
}

const (
	sealOpens  = " ⟦"
	sealCloses = "⟧"
)

// Seal is a text with its origin.
func (s Sealer) Seal(text string, o Origin) string {
	return text + sealOpens + strings.Join([]string{string(o.Workspace), string(o.Channel), o.ClientMsgID, s.mac(text, o)}, " ") + sealCloses
}

// Unseal reads a sealed text; ok is false when it carries no seal, or a false one.
func (s Sealer) Unseal(sealed string) (text string, o Origin, ok bool) {
	body, found := strings.CutSuffix(sealed, sealCloses)
	at := strings.LastIndex(body, sealOpens)
	if !found || at < 0 {
		return sealed, Origin{}, false
	}
	parts := strings.Split(body[at+len(sealOpens):], " ")
	if len(parts) != 4 {
		return sealed, Origin{}, false
	}
	text, o = body[:at], Origin{topology.WorkspaceID(parts[0]), topology.ChannelID(parts[1]), parts[2]}
	return text, o, hmac.Equal([]byte(parts[3]), []byte(s.mac(text, o)))
}

// macBytes of a SHA-256 are plenty against accidents, which is all that a test has.
const macBytes = 8

func (s Sealer) mac(text string, o Origin) string {
	h := hmac.New(sha256.New, s.key)
	for _, part := range []string{string(o.Workspace), string(o.Channel), o.ClientMsgID, text} {
		_, _ = h.Write(append([]byte(part), 0)) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil)[:macBytes])
}
