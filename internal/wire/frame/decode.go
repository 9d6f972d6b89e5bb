package frame

import (
	"encoding/binary"
	"errors"
	"fmt"

	"parley/internal/topology"
)

// ErrMalformed is what every error of Decode is: the peer sent bytes that no
// build of this version writes. The link is closed.
var ErrMalformed = errors.New("frame: malformed")

// Decode appends to fs the whole frames at the start of buf and returns what
// is left: the beginning of the next frame, or nothing. Payloads are copies, so
// buf may be used again. A malformed frame ends it with an error that names the
// frame's type; frames before it are returned.
func Decode(fs []Frame, buf []byte) ([]Frame, []byte, error) {
	for len(buf) > 0 {
		head, size, err := measure(buf)
		if err != nil || size == 0 || size > len(buf) {
			return fs, buf, err
		}
		body := buf[head:size]
		d := decoder{b: body[1:]}
		f, name := d.frame(body[0])
		if d.err == nil && len(d.b) > 0 {
			d.err = fmt.Errorf("%d bytes left over", len(d.b))
		}
		if d.err != nil {
			return fs, buf, fmt.Errorf("%w: %s: %w", ErrMalformed, name, d.err)
		}
		fs = append(fs, f)
		buf = buf[size:]
	}
	return fs, nil, nil
}

// Size is how many bytes the first frame of buf takes, its length included; 0
// as long as buf is too short to tell.
func Size(buf []byte) (int, error) {
	_, size, err := measure(buf)
	return size, err
}

func measure(buf []byte) (head, size int, err error) {
	n, k := binary.Uvarint(buf)
	if k == 0 && len(buf) < binary.MaxVarintLen64 {
		return 0, 0, nil
	}
	if k <= 0 || n == 0 || n > BytesMax {
		return 0, 0, fmt.Errorf("%w: length %d is not in 1 … %d", ErrMalformed, n, BytesMax)
	}
	return k, k + int(n), nil
}

// decoder reads fields from the front of b; the first fault sticks, and what
// is read after it is zero.
type decoder struct {
	b   []byte
	err error
}

//nolint:ireturn // Frame is a closed sum type
func (d *decoder) frame(t byte) (Frame, string) {
	switch t {
	case typeHello:
		return Hello{
			Version: d.num(), Edge: topology.EdgeID(d.str()), Region: topology.RegionID(d.str()),
			Incarnation: topology.Incarnation(d.num()),
		}, "Hello"
	case typeOpen:
		f := Open{
			Session: d.session(), Workspace: topology.WorkspaceID(d.str()), User: topology.UserID(d.str()),
			Epoch: topology.Epoch(d.num()),
		}
		f.ResumeExpected, f.Rehomed = d.flags()
		return f, "Open"
	case typeResume:
		f := Resume{Session: d.session(), Cursors: d.cursors()}
		f.Last = d.flag()
		return f, "Resume"
	case typeResumeGroup:
		return ResumeGroup{
			Workspace: topology.WorkspaceID(d.str()), Channel: d.channel(), Rev: d.rev(), Sessions: d.sessions(),
		}, "ResumeGroup"
	case typeClose:
		return Close{Session: d.session()}, "Close"
	case typeActivity:
		return Activity{Session: d.session(), Active: d.flag()}, "Activity"
	case typePost:
		return Post{
			Session: d.session(), Req: d.num(), Channel: d.channel(), Key: d.str(),
			ThreadRoot: topology.MessageID(d.str()), Text: string(d.raw(BytesMax)),
		}, "Post"
	case typeMarkRead:
		return MarkRead{
			Session: d.session(), Req: d.num(), Channel: d.channel(), Message: topology.MessageID(d.str()),
		}, "MarkRead"
	case typeTyping:
		return Typing{Session: d.session(), Channel: d.channel()}, "Typing"
	case typePing:
		return Ping{N: d.num()}, "Ping"
	case typePong:
		return Pong{N: d.num()}, "Pong"
	default:
		return d.fromGateway(t)
	}
}

//nolint:ireturn // Frame is a closed sum type
func (d *decoder) fromGateway(t byte) (Frame, string) {
	switch t {
	case typeWelcome:
		return Welcome{
			Version: d.num(), Gateway: topology.GatewayID(d.str()), Cell: topology.CellID(d.str()),
			Incarnation: topology.Incarnation(d.num()),
		}, "Welcome"
	case typeOpened:
		return Opened{Session: d.session(), Payload: d.payload()}, "Opened"
	case typeRefused:
		return Refused{Session: d.session(), Kind: kindOf(d.str()), Detail: d.str(), RetryMS: d.num()}, "Refused"
	case typeDraining:
		return Draining{AfterMS: d.num()}, "Draining"
	case typeMoved:
		return Moved{
			Workspace: topology.WorkspaceID(d.str()), Epoch: topology.Epoch(d.num()), Cell: topology.CellID(d.str()),
		}, "Moved"
	case typeGroupOpen:
		return GroupOpen{
			Group: d.group(), Workspace: topology.WorkspaceID(d.str()), Channel: d.channel(), Rev: d.rev(),
		}, "GroupOpen"
	case typeJoin:
		return Join{Group: d.group(), Rev: d.rev(), Sessions: d.sessions()}, "Join"
	case typeLeave:
		return Leave{Group: d.group(), Rev: d.rev(), Sessions: d.sessions()}, "Leave"
	case typeGroupFrame:
		return GroupFrame{Group: d.group(), From: d.rev(), To: d.rev(), Payload: d.payload()}, "GroupFrame"
	case typeGroupClose:
		return GroupClose{Group: d.group()}, "GroupClose"
	case typeSessionFrame:
		return SessionFrame{
			Session: d.session(), Channel: d.channel(), From: d.rev(), To: d.rev(), Payload: d.payload(),
		}, "SessionFrame"
	case typeAnswer:
		return Answer{Session: d.session(), Req: d.num(), Body: d.answer()}, "Answer"
	default:
		d.fail("unknown type")
		return nil, fmt.Sprintf("type %d", t)
	}
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = errors.New(why)
	}
	d.b = nil
}

func (d *decoder) num() uint64 {
	n, k := binary.Uvarint(d.b)
	if k <= 0 {
		d.fail("a number is cut short or too large")
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) signed() int64 {
	n, k := binary.Varint(d.b)
	if k <= 0 {
		d.fail("a number is cut short or too large")
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) flags() (first, second bool) {
	if len(d.b) == 0 || d.b[0] > 3 {
		d.fail("flags are cut short or unknown")
		return false, false
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v&1 != 0, v&2 != 0
}

func (d *decoder) flag() bool {
	v, second := d.flags()
	if second {
		d.fail("unknown flag")
	}
	return v
}

// raw is a length and that many bytes, as a part of the buffer.
func (d *decoder) raw(bytesMax uint64) []byte {
	n := d.num()
	if n > bytesMax || n > uint64(len(d.b)) {
		d.fail("a text or payload is cut short or too long")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) str() string { return string(d.raw(StringBytesMax)) }

func (d *decoder) payload() []byte {
	v := d.raw(BytesMax)
	if len(v) == 0 {
		return nil
	}
	return append([]byte(nil), v...)
}

func (d *decoder) session() topology.SessionID { return topology.SessionID(d.num()) }
func (d *decoder) channel() topology.ChannelID { return topology.ChannelID(d.str()) }
func (d *decoder) rev() topology.Rev           { return topology.Rev(d.num()) }
func (d *decoder) group() GroupID              { return GroupID(d.num()) }

// count is the length of a list whose items take at least itemBytesMin each,
// so that no frame makes the decoder reserve more than its own size.
func (d *decoder) count(most, itemBytesMin int) int {
	n := d.num()
	if n > uint64(most) || n*uint64(itemBytesMin) > uint64(len(d.b)) { //nolint:gosec // constants of the codec
		d.fail("a list is cut short or too long")
		return 0
	}
	return int(n) //nolint:gosec // at most `most`
}

func (d *decoder) sessions() []topology.SessionID {
	n := d.count(SessionsMax, 1)
	if n == 0 {
		return nil
	}
	ids := make([]topology.SessionID, n)
	for i := range ids {
		ids[i] = d.session()
	}
	return ids
}

func (d *decoder) cursors() []Cursor {
	n := d.count(CursorsMax, 2)
	if n == 0 {
		return nil
	}
	cs := make([]Cursor, n)
	for i := range cs {
		cs[i] = Cursor{Channel: d.channel(), Rev: d.rev()}
	}
	return cs
}

func (d *decoder) answer() AnswerBody {
	a := AnswerBody{Kind: kindOf(d.str())}
	if a.Kind != "" {
		a.Detail, a.Field, a.RetryMS, a.Channel = d.str(), d.str(), d.num(), d.channel()
		return a
	}
	a.Channel, a.Message, a.TS = d.channel(), topology.MessageID(d.str()), d.signed()
	a.Seq, a.Rev = topology.Seq(d.num()), d.rev()
	return a
}
