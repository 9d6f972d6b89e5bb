package change

import (
	"encoding/binary"
	"math"

	"parley/internal/problem"
	"parley/internal/topology"
)

// The encoding, version 1: the version, the kind, then the numbers as uvarints
// (TS as a zigzag varint), the strings with their length before them, and the
// lists with their count before them, in the order of Append. A field that is
// added later goes to the end under a new version, and the versions before it
// stay readable: they are in every log and snapshot.
const version = 1

// Bounds of what Decode accepts. They are far above what a post may hold (the
// API's bounds), so that a log never has a change that can't be read again, and
// low enough that no damaged length makes a reader allocate much.
const (
	idMax    = 255      // an id or a name: bytes
	textMax  = 1 << 20  // Text: bytes
	namesMax = 100_000  // Mentions, Subjects: entries
	sizeMax  = 16 << 20 // all of it: bytes
)

// Append encodes c behind b.
func (c Change) Append(b []byte) []byte {
	b = append(b, version, byte(c.Kind))
	b = binary.AppendUvarint(b, uint64(c.Rev))
	b = binary.AppendUvarint(b, uint64(c.Seq))
	b = binary.AppendVarint(b, c.TS)
	b = appendText(b, c.ID)
	b = appendText(b, c.Author)
	b = appendText(b, c.ClientMsgID)
	b = appendText(b, c.Root)
	b = appendText(b, c.Text)
	b = appendNames(b, c.Mentions)
	b = appendNames(b, c.Subjects)
	b = binary.AppendUvarint(b, uint64(c.Confirmed))
	return binary.AppendUvarint(b, uint64(c.HeadSeq))
}

// Check refuses with kind TooLarge a change that Decode would not take back.
func (c Change) Check() error {
	for _, s := range []string{string(c.ID), string(c.Author), c.ClientMsgID, string(c.Root)} {
		if len(s) > idMax {
			return problem.New(problem.TooLarge, "an id of a change has %d bytes; at most %d are kept", len(s), idMax)
		}
	}
	if len(c.Text) > textMax {
		return problem.New(problem.TooLarge, "the text has %d bytes; at most %d are kept", len(c.Text), textMax)
	}
	if n := len(c.Mentions) + len(c.Subjects); n > namesMax {
		return problem.New(problem.TooLarge, "a change names %d users; at most %d are kept", n, namesMax)
	}
	size := len(c.Text)
	for _, names := range [][]topology.UserID{c.Mentions, c.Subjects} {
		for _, n := range names {
			if size += len(n) + 2; len(n) > idMax || size > sizeMax-4096 {
				return problem.New(problem.TooLarge, "the users that a change names take too many bytes")
			}
		}
	}
	return nil
}

// Decode reads what Append wrote. What is damaged is refused with kind Internal,
// another version with kind Unsupported. The change shares no memory with b.
func Decode(b []byte) (Change, error) {
	if len(b) < 2 || len(b) > sizeMax {
		return Change{}, problem.New(problem.Internal, "a change in the log is damaged: it has %d bytes", len(b))
	}
	if b[0] != version {
		return Change{}, problem.New(problem.Unsupported, "a change in the log has version %d; this release reads version %d", b[0], version)
	}
	r := reader{b: b[2:]}
	c := Change{
		Kind: Kind(b[1]),
		Rev:  topology.Rev(r.uvarint()), Seq: topology.Seq(r.uvarint()), TS: r.varint(),
		ID: topology.MessageID(r.text(idMax)), Author: topology.UserID(r.text(idMax)),
		ClientMsgID: r.text(idMax), Root: topology.MessageID(r.text(idMax)), Text: r.text(textMax),
		Mentions: r.names(), Subjects: r.names(),
		Confirmed: topology.Rev(r.uvarint()), HeadSeq: topology.Seq(r.uvarint()),
	}
	if r.bad || len(r.b) != 0 {
		return Change{}, problem.New(problem.Internal, "a change in the log is damaged: its fields don't fit its %d bytes", len(b))
	}
	return c, nil
}

func appendText[S ~string](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendNames(b []byte, names []topology.UserID) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, n := range names {
		b = appendText(b, n)
	}
	return b
}

// reader takes fields off the front of b. After the first that does not fit it
// is bad and gives zeros: one check at the end is enough.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() {
	r.b, r.bad = nil, true
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	// One value has one encoding: a longer one is damage (0x80 0x00 for 0).
	if n <= 0 || (n > 1 && r.b[n-1] == 0) {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

// length reads a length or count of at most limit, and at most what is left: an
// entry has one byte at least.
func (r *reader) length(limit uint64) int {
	n := r.uvarint()
	if n > min(limit, uint64(len(r.b)), math.MaxInt32) {
		r.fail()
		return 0
	}
	return int(n) //nolint:gosec // at most 2^31-1
}

func (r *reader) text(limit uint64) string {
	n := r.length(limit)
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) names() []topology.UserID {
	n := r.length(namesMax)
	if n == 0 {
		return nil
	}
	names := make([]topology.UserID, 0, n) // 16 bytes for each byte that is left at most
	for range n {
		names = append(names, topology.UserID(r.text(idMax)))
		if r.bad {
			return nil
		}
	}
	return names
}
