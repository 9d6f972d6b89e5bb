package redisdb

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

// nameMax bounds ids: their length is one byte of a key.
const nameMax = 255

func checkNames(u readstate.User, ch topology.ChannelID) error {
	check := func(field, s string) error {
		if l := len(s); l == 0 || l > nameMax {
			return problem.Field(field, "must have 1 to %d bytes, not %d", nameMax, l)
		}
		return nil
	}
	if err := check("workspace", string(u.Workspace)); err != nil {
		return err
	}
	if err := check("user", string(u.ID)); err != nil {
		return err
	}
	return check("channel", string(ch))
}

// owner names a user, or a channel, of a place: no two have one name.
func owner(p topology.Place, id string) string { return string(appendOwner(nil, p, id)) }

func appendOwner(b []byte, p topology.Place, id string) []byte {
	b = append(strconv.AppendUint(b, uint64(p.Generation), 10), ':')
	b = append(strconv.AppendInt(b, int64(len(p.Workspace)), 10), ':')
	return append(append(b, p.Workspace...), id...)
}

// markDigits is the length of what marks are compared by.
const markDigits = 32

// encodeMark is a mark as it is stored: version and seq in hexadecimal digits,
// which order as text (Lua's numbers are too short), then the message.
func encodeMark(m readstate.Mark) string {
	var room [markDigits + 32]byte
	return string(appendMark(room[:0], m))
}

func appendMark(b []byte, m readstate.Mark) []byte {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], m.Version)
	binary.BigEndian.PutUint64(raw[8:], uint64(m.Seq))
	return append(hex.AppendEncode(b, raw[:]), m.Message...)
}

func decodeMark(s string) (readstate.Mark, error) {
	var raw [16]byte
	if len(s) < markDigits {
		return readstate.Mark{}, errUnreadable()
	}
	if _, err := hex.Decode(raw[:], []byte(s[:markDigits])); err != nil {
		return readstate.Mark{}, errUnreadable()
	}
	return readstate.Mark{
		Version: binary.BigEndian.Uint64(raw[:8]), Seq: topology.Seq(binary.BigEndian.Uint64(raw[8:])),
		Message: topology.MessageID(s[markDigits:]),
	}, nil
}

func errUnreadable() error {
	return problem.New(problem.Internal, "the read state stored in Redis can't be read")
}

// isHigher reports whether a stored mark is higher than another.
func isHigher(a, b string) bool { return a[:markDigits] > b[:markDigits] }

// Rows of mentions order by channel, seq and rev; the author follows. A channel's
// own rows, of mentions of everybody, have no channel in them.
const rowNumbers = 16

func rowPrefix(ch topology.ChannelID) string { return string(appendName(nil, string(ch))) }

func appendNumber(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func row(prefix string, seq topology.Seq, rev topology.Rev, author topology.UserID) string {
	b := make([]byte, 0, len(prefix)+rowNumbers+len(author))
	b = appendNumber(appendNumber(append(b, prefix...), uint64(seq)), uint64(rev))
	return string(append(b, author...))
}

// Kinds of entries in the journal.
const (
	entryMark    = 'm'
	entryMention = 'n'
)

func appendName(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) } //nolint:gosec // checked: at most nameMax

func appendEntryKey(b []byte, kind byte, u readstate.User, ch topology.ChannelID) []byte {
	b = appendNumber(append(b, kind), uint64(u.Generation))
	return appendName(appendName(appendName(b, string(u.Workspace)), string(u.ID)), string(ch))
}

// appendMarkKey has the process in it: of two processes' marks, whichever came later in
// the journal would win, and not the higher one.
func appendMarkKey(b []byte, u readstate.User, ch topology.ChannelID, process string) []byte {
	return append(appendEntryKey(b, entryMark, u, ch), process...)
}

func mentionEntry(m readstate.Mention) readstate.Entry {
	key := appendNumber(appendNumber(appendEntryKey(nil, entryMention, m.User, m.Channel), uint64(m.Seq)), uint64(m.Rev))
	return readstate.Entry{Key: key, Value: append([]byte{1}, m.Author...)} // never empty: that would be a deletion
}

// decodeEntry reads an entry: a mark (stored form), or a mention. It has neither if
// another version wrote it.
func decodeEntry(e readstate.Entry) (u readstate.User, ch topology.ChannelID, mark string, mention *readstate.Mention) {
	if len(e.Key) < 9 || len(e.Value) == 0 {
		return u, ch, "", nil
	}
	rest := string(e.Key[9:])
	u.Generation = topology.Generation(binary.BigEndian.Uint64(e.Key[1:9]))
	var names [3]string
	for i := range names {
		if len(rest) == 0 || len(rest) <= int(rest[0]) {
			return u, ch, "", nil
		}
		names[i], rest = rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
	}
	u.Workspace, u.ID, ch = topology.WorkspaceID(names[0]), topology.UserID(names[1]), topology.ChannelID(names[2])
	switch {
	case e.Key[0] == entryMark:
		if _, err := decodeMark(string(e.Value)); err == nil {
			mark = strings.Clone(string(e.Value))
		}
	case e.Key[0] == entryMention && len(rest) == rowNumbers:
		mention = &readstate.Mention{
			User: u, Channel: ch, Author: topology.UserID(e.Value[1:]),
			Seq: topology.Seq(binary.BigEndian.Uint64([]byte(rest[:8]))), Rev: topology.Rev(binary.BigEndian.Uint64([]byte(rest[8:]))),
		}
	}
	return u, ch, mark, mention
}
