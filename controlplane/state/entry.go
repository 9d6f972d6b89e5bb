// Package state is the control plane's record of truth: a pure function of its
// log. Every entry carries its time, ids and randomness, put there by the leader,
// so that all nodes come to the same state; nothing here looks at a clock.
package state

import (
	"encoding/json"
	"errors"
	"time"

	"parley/internal/problem"
)

// Version is the entry format that this build writes and the highest it reads.
const Version = 1

// ErrUnknownEntry is an entry of a type or version that this build does not know:
// a newer build wrote it. The node must stop before it, not skip it.
var ErrUnknownEntry = errors.New("the log holds an entry that this build does not know: run the newer build")

// Type names what an entry does. Append-only.
type Type string

// The types.
const (
	Initialise      Type = "init"
	CreateRegion    Type = "region.create"
	CreateCell      Type = "cell.create"
	SetCellState    Type = "cell.state"
	CreateWorkspace Type = "workspace.create"
	Activate        Type = "workspace.active"
	CreateToken     Type = "operator_token.create"
	RevokeToken     Type = "operator_token.revoke"
	AddKey          Type = "signing_key.add"
	DropKey         Type = "signing_key.drop"
	Note            Type = "note" // changes nothing but the audit log
)

// Entry is one entry of the log.
type Entry struct {
	V     int             `json:"v"`
	Type  Type            `json:"type"`
	At    int64           `json:"at"`    // µs since 1970, the leader's clock
	Audit string          `json:"audit"` // id of the audit record; "" = none is kept
	Actor string          `json:"actor"` // who
	From  string          `json:"from"`  // from where
	Body  json.RawMessage `json:"body"`
}

// NewEntry makes an entry.
func NewEntry(t Type, at time.Time, body any) (Entry, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return Entry{}, problem.Wrap(err, problem.Internal, "the entry can't be encoded")
	}
	return Entry{V: Version, Type: t, At: at.UnixMicro(), Body: b}, nil
}

// Encode is the entry as it stands in the log.
func (e Entry) Encode() ([]byte, error) { return json.Marshal(e) }

// DecodeEntry reads an entry; ErrUnknownEntry for one that this build does not know.
func DecodeEntry(b []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return e, errors.Join(ErrUnknownEntry, err)
	}
	if e.V < 1 || e.V > Version {
		return e, ErrUnknownEntry
	}
	if _, ok := appliers()[e.Type]; !ok {
		return e, ErrUnknownEntry
	}
	return e, nil
}

// Bodies of entries whose body is not the object itself.
type (
	// InitBody is Initialise's: the first operator token and signing key.
	InitBody struct {
		Token OperatorToken `json:"token"`
		Key   SigningKey    `json:"key"`
	}
	// CellStateBody is SetCellState's.
	CellStateBody struct {
		ID       string `json:"id"`
		State    string `json:"state"`
		Expected uint64 `json:"expected"` // version; 0 = any
	}
	// ActivateBody is Activate's.
	ActivateBody struct {
		ID    string `json:"id"`
		Epoch uint64 `json:"epoch"`
	}
	// RevokeBody is RevokeToken's and DropKey's.
	RevokeBody struct {
		ID       string `json:"id"`
		Expected uint64 `json:"expected"`
	}
	// NoteBody is Note's.
	NoteBody struct {
		Action string `json:"action"`
		Object string `json:"object"`
	}
)
