//nolint:gosec // the numbers are small
package historytest

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"parley/cell/history"
	"parley/internal/topology"
)

// runModel applies random, overlapping batches of a few channels, with crashes,
// and compares all that can be read with the naive model.
func runModel(t *testing.T, h Harness) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		in, err := h()
		if err != nil {
			rt.Fatalf("open: %v", err)
		}
		defer func() {
			if err := in.Close(); err != nil {
				rt.Errorf("close: %v", err)
			}
		}()
		m := &machine{in: in}
		for i := range 3 {
			m.channels = append(m.channels, &modelChannel{
				channelLog: newLog(ref("W", topology.Generation(i/2), topology.ChannelID(fmt.Sprintf("C%d", i%2))), uint64(i)+1),
			})
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":      m.check,
			"write": m.write,
			"apply": m.apply,
			"emit":  m.emit,
			"page":  m.page,
			"crash": m.crash,
		})
	})
}

type modelChannel struct {
	*channelLog
	applied, emitted topology.Rev
}

func (c *modelChannel) head() topology.Rev { return topology.Rev(len(c.changes)) }

type machine struct {
	in       Instance
	channels []*modelChannel
}

func (m *machine) channel(t *rapid.T) *modelChannel {
	return m.channels[rapid.IntRange(0, len(m.channels)-1).Draw(t, "channel")]
}

// write makes the log longer; the store learns of it by apply.
func (m *machine) write(t *rapid.T) {
	c := m.channel(t)
	v := derive(c.changes)
	for range rapid.IntRange(1, 12).Draw(t, "changes") {
		author := topology.UserID(rapid.SampledFrom([]string{"", "U", "Uann", "Ubob"}).Draw(t, "author"))
		key := rapid.SampledFrom([]string{"", "a", "b", strconv.Itoa(len(c.changes))}).Draw(t, "key")
		text := rapid.StringN(0, 20, -1).Draw(t, "text")
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind == 0:
			c.joined(author, key)
		case kind < 5 && len(v.messages) > 0:
			root := v.messages[rapid.IntRange(0, len(v.messages)-1).Draw(t, "root")]
			c.reply(root.ID, author, text, key)
		default:
			c.message(author, text, key)
		}
	}
}

// apply hands in a range that begins at or below what the store holds, of one
// channel or of all.
func (m *machine) apply(t *rapid.T) {
	var bs []history.Batch
	picked := []*modelChannel{m.channel(t)}
	if rapid.Bool().Draw(t, "all channels") {
		picked = m.channels
	}
	for _, c := range picked {
		if c.head() == 0 {
			continue
		}
		from := topology.Rev(rapid.Uint64Range(1, min(uint64(c.applied)+1, uint64(c.head()))).Draw(t, "from"))
		to := topology.Rev(rapid.Uint64Range(uint64(from), uint64(c.head())).Draw(t, "to"))
		bs = append(bs, c.batch(from, to))
		c.applied = max(c.applied, to)
	}
	apply(t, m.in.Store(), bs...)
}

func (m *machine) emit(t *rapid.T) {
	c := m.channel(t)
	rev := topology.Rev(rapid.Uint64Range(0, uint64(c.applied)).Draw(t, "emitted"))
	if err := m.in.Store().SetEmitted(context.Background(), c.ref, rev); err != nil {
		t.Fatalf("SetEmitted(%d): %v", rev, err)
	}
	c.emitted = max(c.emitted, rev)
}

func (m *machine) page(t *rapid.T) {
	c := m.channel(t)
	v := derive(c.changes[:c.applied])
	seq := topology.Seq(rapid.IntRange(0, len(v.messages)+2).Draw(t, "seq"))
	q := history.PageQuery{Before: seq, Limit: rapid.IntRange(0, 9).Draw(t, "limit")}
	if rapid.Bool().Draw(t, "forward") {
		q = history.PageQuery{Forward: true, After: seq, Limit: q.Limit}
	}
	wantPage(t, m.in.Store(), c.ref, q, v)
	after := topology.Seq(rapid.IntRange(0, 4).Draw(t, "after"))
	wantThread(t, m.in.Store(), c.ref, seq, after, q.Limit, v)
}

// crash may set a channel back to an earlier rev, but to a whole one.
func (m *machine) crash(t *rapid.T) {
	if err := m.in.Crash(); err != nil {
		t.Fatalf("crash: %v", err)
	}
	for _, c := range m.channels {
		got := mark(t, m.in.Store(), c.ref)
		if got.Applied > c.applied || got.Emitted > c.emitted {
			t.Fatalf("mark %+v after a crash, was %d and %d", got, c.applied, c.emitted)
		}
		c.applied, c.emitted = got.Applied, got.Emitted
	}
}

func (m *machine) check(t *rapid.T) {
	for _, c := range m.channels {
		if got := mark(t, m.in.Store(), c.ref).Emitted; got != c.emitted {
			t.Fatalf("emitted = %d, want %d", got, c.emitted)
		}
		wantView(t, m.in.Store(), c.ref, derive(c.changes[:c.applied]))
	}
}
