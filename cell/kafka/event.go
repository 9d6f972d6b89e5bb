package kafka

import (
	"encoding/binary"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// nameMax bounds a name in a key: its length is one byte.
const nameMax = 255

// recordVersion begins each value, so that a later form can be told from this one.
const recordVersion = 1

// plainBit stands in a kind's byte for Event.Plain; kinds are far below it.
const plainBit = 0x80

// appendKey appends a record's key, which is its channel: whoever reads the topic
// with other tools finds a channel's events by it.
func appendKey(b []byte, ch topology.ChannelRef) []byte {
	b = append(append(b, byte(len(ch.Workspace))), ch.Workspace...) //nolint:gosec // checkEvents looked
	b = binary.AppendUvarint(b, uint64(ch.Generation))
	return append(b, ch.Channel...)
}

func cutKey(b []byte) (ch topology.ChannelRef, ok bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return ch, false
	}
	workspace, rest := b[1:1+int(b[0])], b[1+int(b[0]):]
	generation, n := binary.Uvarint(rest)
	if n <= 0 {
		return ch, false
	}
	return topology.ChannelRef{
		Place:   topology.Place{Workspace: topology.WorkspaceID(workspace), Generation: topology.Generation(generation)},
		Channel: topology.ChannelID(rest[n:]),
	}, true
}

func appendValue(b []byte, e eventlog.Event) []byte {
	kind := byte(e.Kind)
	if e.Plain {
		kind |= plainBit
	}
	return append(binary.AppendUvarint(append(b, recordVersion), uint64(e.Rev)), kind)
}

// decode reads an event. A record that is none of ours gives the zero event: its
// rev 0 is below any that a consumer waits for, so it is passed by and does not
// stop the partition.
func decode(key, value []byte) (e eventlog.Event, ok bool) {
	ch, ok := cutKey(key)
	if !ok || len(value) < 3 || value[0] != recordVersion {
		return eventlog.Event{}, false
	}
	rev, n := binary.Uvarint(value[1:])
	if n <= 0 || len(value) != 1+n+1 {
		return eventlog.Event{}, false
	}
	kind := value[1+n]
	return eventlog.Event{Channel: ch, Rev: topology.Rev(rev), Kind: change.Kind(kind &^ plainBit), Plain: kind&plainBit != 0}, true
}

// checkEvents refuses what no record can hold.
func checkEvents(events []eventlog.Event) error {
	for i := range events {
		ch := events[i].Channel
		if l := len(ch.Workspace); l == 0 || l > nameMax {
			return problem.Field("workspace", "must have 1 to %d bytes, not %d", nameMax, l)
		}
		if l := len(ch.Channel); l == 0 || l > nameMax {
			return problem.Field("channel", "must have 1 to %d bytes, not %d", nameMax, l)
		}
	}
	return nil
}
