package cassandra

import (
	"math"
	"unicode/utf8"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// nameMax bounds a name in a key, as in the embedded store.
const nameMax = 255

// partition is the values of a channel's partition key, with more behind them.
// Generations are numbers to compare for equality only: their bits fit.
func partition(ch topology.ChannelRef, more ...any) []any {
	key := make([]any, 0, 4+len(more)+4)
	key = append(key, string(ch.Workspace), int64(ch.Generation), string(ch.Channel)) //nolint:gosec // bits, see above
	return append(key, more...)
}

// number is a counter as a bigint. Counters that don't fit are refused before
// (checkRows), or name nothing that can be there.
func number[N ~uint64](n N) int64 { return int64(min(uint64(n), math.MaxInt64)) }

// checkRef refuses names that are no text for a key.
func checkRef(ch topology.ChannelRef) error {
	if !validName(string(ch.Workspace)) {
		return problem.Field("workspace", "must have 1 to %d bytes of text", nameMax)
	}
	if !validName(string(ch.Channel)) {
		return problem.Field("channel", "must have 1 to %d bytes of text", nameMax)
	}
	return nil
}

func validName(s string) bool { return s != "" && len(s) <= nameMax && utf8.ValidString(s) }

// checkChannels refuses channels of another shard, and one that is named twice.
func checkChannels(s topology.Shard, chs []topology.ChannelRef) error {
	if s >= topology.Shards {
		return problem.New(problem.Invalid, "there is no shard %d", s)
	}
	seen := make(map[topology.ChannelRef]struct{}, len(chs))
	for _, ch := range chs {
		if err := checkRef(ch); err != nil {
			return err
		}
		if ch.Shard() != s {
			return problem.New(problem.Invalid, "channel %s is not in shard %d", ch.Channel, s)
		}
		if _, ok := seen[ch]; ok {
			return problem.New(problem.Invalid, "channel %s is named twice in one write", ch.Channel)
		}
		seen[ch] = struct{}{}
	}
	return nil
}

const (
	// tokenMax keeps every write time in a bigint: 8 million takeovers of a shard, one
	// a minute for 15 years.
	tokenMax = 1<<23 - 2
	// rowBytesMax is under the mutation that a node with commit log segments of 8 MiB
	// takes; the longest message is a quarter of it.
	rowBytesMax = 3 << 20
)

// checkRows refuses rows that are not of the token, whose revs don't rise one by
// one, or that Cassandra would not take.
func checkRows(t topology.Token, rows []msglog.Row) error {
	if t > tokenMax {
		return problem.New(problem.Invalid, "token %d is past the last that a write time can carry", t)
	}
	for i, r := range rows {
		switch {
		case r.Time <= msglog.Time(t, 0) || r.Time >= msglog.Time(t+1, 0):
			return problem.New(problem.Invalid, "a row's time must be one of token %d", t)
		case r.Rev == 0 || r.Rev != rows[0].Rev+topology.Rev(i) || r.Rev >= math.MaxInt64:
			return problem.New(problem.Invalid, "rows must have revs from 1 up, without gaps")
		case len(r.Blob) > rowBytesMax:
			return problem.New(problem.TooLarge, "a change has %d bytes; at most %d are kept", len(r.Blob), rowBytesMax)
		}
	}
	return nil
}
