//nolint:gosec // the numbers are small
package readstatetest

import (
	"testing"

	"pgregory.net/rapid"

	"parley/cell/change"
	"parley/cell/readstate"
	"parley/internal/topology"
)

// runModel puts random marks and mentions, with crashes, and compares with maps.
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
		m := &machine{in: in, marks: map[readstate.User]marks{}, mentions: map[readstate.Mention]bool{}}
		rt.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"put":     m.put,
			"mention": m.mention,
			"count":   m.count,
			"crash":   m.crash,
		})
	})
}

type machine struct {
	in       Instance
	marks    map[readstate.User]marks
	mentions map[readstate.Mention]bool
}

func drawUser(t *rapid.T, ids ...topology.UserID) readstate.User {
	return user("W", topology.Generation(rapid.IntRange(1, 2).Draw(t, "generation")), rapid.SampledFrom(ids).Draw(t, "user"))
}

func drawChannel(t *rapid.T) topology.ChannelID {
	return rapid.SampledFrom([]topology.ChannelID{"C", "C1", "C2"}).Draw(t, "channel")
}

func (m *machine) put(t *rapid.T) {
	u, ch := drawUser(t, "U", "U1"), drawChannel(t)
	want := mark(rapid.Uint64Range(1, 3).Draw(t, "version"), topology.Seq(rapid.Uint64Range(1, 20).Draw(t, "seq")))
	if m.marks[u] == nil {
		m.marks[u] = marks{}
	}
	put := want
	if old, ok := m.marks[u][ch]; ok && !old.Less(put) {
		want = old
	}
	m.marks[u][ch] = want
	got, err := m.in.Store().Put(t.Context(), u, ch, put)
	if err != nil || got != want {
		t.Fatalf("Put(%v) = %v, %v; want %v", put, got, err, want)
	}
}

// mention derives seq and author from the rev, as a log would.
func (m *machine) mention(t *rapid.T) {
	var ms []readstate.Mention
	for range rapid.IntRange(1, 5).Draw(t, "mentions") {
		rev := topology.Rev(rapid.Uint64Range(1, 20).Draw(t, "rev"))
		ms = append(ms, readstate.Mention{
			User: drawUser(t, "U", "U1", change.MentionAll), Channel: drawChannel(t),
			Seq: topology.Seq(rev/2 + 1), Rev: rev, Author: []topology.UserID{"U", "U1", "U2"}[rev%3],
		})
	}
	mention(t, m.in.Store(), ms...)
	for _, one := range ms {
		m.mentions[one] = true
	}
}

func (m *machine) count(t *rapid.T) {
	u := drawUser(t, "U", "U1", "U2")
	above, want := seqs{}, counts{}
	for range rapid.IntRange(0, 3).Draw(t, "channels") {
		above[drawChannel(t)] = topology.Seq(rapid.IntRange(0, 12).Draw(t, "above"))
	}
	type place struct {
		ch  topology.ChannelID
		rev topology.Rev
	}
	seen := map[place]bool{}
	for one := range m.mentions {
		seq, asked := above[one.Channel]
		mine := one.User.Place == u.Place && (one.User.ID == u.ID || one.User.ID == change.MentionAll) && one.Author != u.ID
		if p := (place{one.Channel, one.Rev}); asked && mine && one.Seq > seq && !seen[p] {
			seen[p] = true
			want[one.Channel]++
		}
	}
	wantMentions(t, m.in.Store(), u, above, want)
}

// crash may lose mentions: they are handed in again, as the event log would.
func (m *machine) crash(t *rapid.T) {
	crash(t, m.in)
	ms := make([]readstate.Mention, 0, len(m.mentions))
	for one := range m.mentions {
		ms = append(ms, one)
	}
	mention(t, m.in.Store(), ms...)
}

func (m *machine) check(t *rapid.T) {
	for u, want := range m.marks {
		wantMarks(t, m.in.Store(), u, want)
	}
}
