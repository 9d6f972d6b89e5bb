package pebbledb

import (
	"encoding/binary"

	"parley/internal/problem"
	"parley/internal/topology"
)

// The first byte of every key says what the row is. Numbers in keys are
// big-endian, so that rows lie in the order of what they count; names carry
// their length, so that no two run together into another pair. The letters are
// in every database there is: append-only.
//
//	f  fences          shard                           → token, owner
//	l  log rows        channel, rev                    → write time, change
//	d  dirty channels  shard, channel                  → nothing
//	m  marks           channel                         → applied, emitted, seq, ts (history)
//	h  messages        channel, seq                    → message and thread facts (history)
//	t  threads         channel, root seq, number       → reply (history)
//	k  dedupe keys     channel, author, client_msg_id  → what it led to (history)
//	x  dedupe times    ts, dedupe key                  → nothing: what a sweep may forget (history)
//	e  events          partition, offset               → event (event log)
//	o  offsets         consumer group, partition       → offset (event log)
//	r  read state      user, channel                   → mark (read state)
//	n  mentions        user, channel, seq, rev         → author (read state)
const (
	prefixFence    byte = 'f'
	prefixLog      byte = 'l'
	prefixDirty    byte = 'd'
	prefixMark     byte = 'm'
	prefixMessage  byte = 'h'
	prefixThread   byte = 't'
	prefixDedupe   byte = 'k'
	prefixDedupeTS byte = 'x'
	prefixEvent    byte = 'e'
	prefixOffset   byte = 'o'
	prefixRead     byte = 'r'
	prefixMention  byte = 'n'
)

// nameMax bounds a name in a key: its length is one byte.
const nameMax = 255

// appendName appends a length and a name; the name must be checked by checkRef
// or be short by its making: a longer one is cut.
func appendName[S ~string](b []byte, s S) []byte {
	n := min(len(s), nameMax)
	return append(append(b, byte(n)), s[:n]...)
}

// cutName reads what appendName wrote.
func cutName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

// appendPlace appends workspace and generation.
func appendPlace(b []byte, p topology.Place) []byte {
	return binary.BigEndian.AppendUint64(appendName(b, p.Workspace), uint64(p.Generation))
}

// appendRef appends a channel's partition: place and channel.
func appendRef(b []byte, ch topology.ChannelRef) []byte {
	return appendName(appendPlace(b, ch.Place), ch.Channel)
}

// cutRef reads what appendRef wrote.
func cutRef(b []byte) (ch topology.ChannelRef, rest []byte, ok bool) {
	ws, b, ok := cutName(b)
	if !ok || len(b) < 8 {
		return topology.ChannelRef{}, nil, false
	}
	gen := binary.BigEndian.Uint64(b)
	id, b, ok := cutName(b[8:])
	if !ok {
		return topology.ChannelRef{}, nil, false
	}
	return topology.ChannelRef{
		Place:   topology.Place{Workspace: topology.WorkspaceID(ws), Generation: topology.Generation(gen)},
		Channel: topology.ChannelID(id),
	}, b, true
}

// appendUint64 appends a number, big-endian.
func appendUint64[N ~uint64](b []byte, n N) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(n))
}

// appendShard appends a shard, big-endian.
func appendShard(b []byte, s topology.Shard) []byte {
	return binary.BigEndian.AppendUint16(b, uint16(s))
}

// refKey is a key of a channel's partition without its last part.
func refKey(prefix byte, ch topology.ChannelRef) []byte {
	b := make([]byte, 0, 1+1+len(ch.Workspace)+8+1+len(ch.Channel)+16)
	return appendRef(append(b, prefix), ch)
}

// keyEnd is the first key after all that begin with prefix; nil = there is none.
func keyEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// checkRef refuses names that no key can hold.
func checkRef(ch topology.ChannelRef) error {
	if l := len(ch.Workspace); l == 0 || l > nameMax {
		return problem.Field("workspace", "must have 1 to %d bytes, not %d", nameMax, l)
	}
	if l := len(ch.Channel); l == 0 || l > nameMax {
		return problem.Field("channel", "must have 1 to %d bytes, not %d", nameMax, l)
	}
	return nil
}
