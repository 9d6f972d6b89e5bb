package frame

import (
	"encoding/binary"
	"fmt"

	"parley/internal/problem"
	"parley/internal/topology"
)

// The type byte of each frame. Append-only: peers of other builds know them.
const (
	typeHello        byte = 1
	typeOpen         byte = 2
	typeResume       byte = 3
	typeResumeGroup  byte = 4
	typeClose        byte = 5
	typeActivity     byte = 6
	typePost         byte = 7
	typeMarkRead     byte = 8
	typeTyping       byte = 9
	typeWelcome      byte = 10
	typeOpened       byte = 11
	typeRefused      byte = 12
	typeDraining     byte = 13
	typeMoved        byte = 14
	typeGroupOpen    byte = 15
	typeJoin         byte = 16
	typeLeave        byte = 17
	typeGroupFrame   byte = 18
	typeGroupClose   byte = 19
	typeSessionFrame byte = 20
	typeAnswer       byte = 21
	typePing         byte = 22
	typePong         byte = 23
)

// StringBytesMax bounds every string of a frame except a post's text: ids,
// keys and details are all far shorter.
const StringBytesMax = 4 << 10

// Append encodes f behind dst: uvarint length of what follows, type byte,
// fields. A frame that a peer would refuse is refused here, with dst unchanged.
func Append(dst []byte, f Frame) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0) // one byte of length, which most frames need no more than
	e := encoder{b: dst}
	e.frame(f)
	n := len(e.b) - start - 1
	if e.err == nil && n > BytesMax {
		e.err = fmt.Errorf("frame: %s of %d bytes, at most %d are allowed", Name(f), n, BytesMax)
	}
	if e.err != nil {
		return dst[:start], e.err
	}
	if n < 0x80 {
		e.b[start] = byte(n) //nolint:gosec // below 0x80
		return e.b, nil
	}
	var head [binary.MaxVarintLen64]byte
	k := binary.PutUvarint(head[:], uint64(n))
	e.b = append(e.b, head[1:k]...) // any bytes: only to grow by k-1
	copy(e.b[start+k:], e.b[start+1:start+1+n])
	copy(e.b[start:], head[:k])
	return e.b, nil
}

// Name is a frame's type as errors and logs say it.
func Name(f Frame) string {
	if f == nil {
		return "nil frame"
	}
	return fmt.Sprintf("%T", f)
}

type encoder struct {
	b   []byte
	err error
}

func (e *encoder) frame(f Frame) {
	switch f := f.(type) {
	case Hello:
		e.kind(typeHello).num(f.Version).str(string(f.Edge)).str(string(f.Region)).num(uint64(f.Incarnation))
	case Open:
		e.kind(typeOpen).num(uint64(f.Session)).str(string(f.Workspace)).str(string(f.User)).
			num(uint64(f.Epoch)).flags(f.ResumeExpected, f.Rehomed)
	case Resume:
		e.kind(typeResume).num(uint64(f.Session)).cursors(f.Cursors).flags(f.Last, false)
	case ResumeGroup:
		e.kind(typeResumeGroup).str(string(f.Workspace)).str(string(f.Channel)).num(uint64(f.Rev)).sessions(f.Sessions)
	case Close:
		e.kind(typeClose).num(uint64(f.Session))
	case Activity:
		e.kind(typeActivity).num(uint64(f.Session)).flags(f.Active, false)
	case Post:
		e.kind(typePost).num(uint64(f.Session)).num(f.Req).str(string(f.Channel)).str(f.Key).
			str(string(f.ThreadRoot)).text(f.Text)
	case MarkRead:
		e.kind(typeMarkRead).num(uint64(f.Session)).num(f.Req).str(string(f.Channel)).str(string(f.Message))
	case Typing:
		e.kind(typeTyping).num(uint64(f.Session)).str(string(f.Channel))
	case Ping:
		e.kind(typePing).num(f.N)
	case Pong:
		e.kind(typePong).num(f.N)
	default:
		e.fromGateway(f)
	}
}

func (e *encoder) fromGateway(f Frame) {
	switch f := f.(type) {
	case Welcome:
		e.kind(typeWelcome).num(f.Version).str(string(f.Gateway)).str(string(f.Cell)).num(uint64(f.Incarnation))
	case Opened:
		e.kind(typeOpened).num(uint64(f.Session)).bytes(f.Payload)
	case Refused:
		e.kind(typeRefused).num(uint64(f.Session)).str(string(f.Kind)).str(f.Detail).num(f.RetryMS)
	case Draining:
		e.kind(typeDraining).num(f.AfterMS)
	case Moved:
		e.kind(typeMoved).str(string(f.Workspace)).num(uint64(f.Epoch)).str(string(f.Cell))
	case GroupOpen:
		e.kind(typeGroupOpen).num(uint64(f.Group)).str(string(f.Workspace)).str(string(f.Channel)).num(uint64(f.Rev))
	case Join:
		e.kind(typeJoin).num(uint64(f.Group)).num(uint64(f.Rev)).sessions(f.Sessions)
	case Leave:
		e.kind(typeLeave).num(uint64(f.Group)).num(uint64(f.Rev)).sessions(f.Sessions)
	case GroupFrame:
		e.kind(typeGroupFrame).num(uint64(f.Group)).num(uint64(f.From)).num(uint64(f.To)).bytes(f.Payload)
	case GroupClose:
		e.kind(typeGroupClose).num(uint64(f.Group))
	case SessionFrame:
		e.kind(typeSessionFrame).num(uint64(f.Session)).str(string(f.Channel)).
			num(uint64(f.From)).num(uint64(f.To)).bytes(f.Payload)
	case Answer:
		e.kind(typeAnswer).num(uint64(f.Session)).num(f.Req).answer(f.Body)
	default:
		e.err = fmt.Errorf("frame: %s can't be encoded", Name(f))
	}
}

func (e *encoder) kind(t byte) *encoder {
	e.b = append(e.b, t)
	return e
}

func (e *encoder) num(n uint64) *encoder {
	e.b = binary.AppendUvarint(e.b, n)
	return e
}

func (e *encoder) flags(a, b bool) {
	var v byte
	if a {
		v |= 1
	}
	if b {
		v |= 2
	}
	e.b = append(e.b, v)
}

func (e *encoder) str(s string) *encoder {
	if len(s) > StringBytesMax && e.err == nil {
		e.err = fmt.Errorf("frame: a string of %d bytes, at most %d are allowed", len(s), StringBytesMax)
	}
	return e.text(s)
}

func (e *encoder) text(s string) *encoder {
	e.num(uint64(len(s)))
	e.b = append(e.b, s...)
	return e
}

func (e *encoder) bytes(p []byte) {
	e.num(uint64(len(p)))
	e.b = append(e.b, p...)
}

func (e *encoder) sessions(ids []topology.SessionID) {
	if len(ids) > SessionsMax && e.err == nil {
		e.err = fmt.Errorf("frame: %d sessions, at most %d are allowed", len(ids), SessionsMax)
	}
	e.num(uint64(len(ids)))
	for _, id := range ids {
		e.num(uint64(id))
	}
}

func (e *encoder) cursors(cs []Cursor) *encoder {
	if len(cs) > CursorsMax && e.err == nil {
		e.err = fmt.Errorf("frame: %d cursors, at most %d are allowed", len(cs), CursorsMax)
	}
	e.num(uint64(len(cs)))
	for _, c := range cs {
		e.str(string(c.Channel)).num(uint64(c.Rev))
	}
	return e
}

func (e *encoder) answer(a AnswerBody) *encoder {
	e.str(string(a.Kind))
	if a.Kind != "" { // a refusal has no message, an outcome no refusal
		return e.str(a.Detail).str(a.Field).num(a.RetryMS).str(string(a.Channel))
	}
	e.str(string(a.Channel)).str(string(a.Message))
	e.b = binary.AppendVarint(e.b, a.TS)
	return e.num(uint64(a.Seq)).num(uint64(a.Rev))
}

// kindOf keeps the conversion in one place: kinds are append-only names, and a
// newer peer's kind passes through as it is.
func kindOf(s string) problem.Kind { return problem.Kind(s) }
