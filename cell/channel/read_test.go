package channel_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

// model is what a naive reader makes of a channel's log.
type model struct {
	messages []history.Message
	threads  map[topology.MessageID][]history.Message
}

func modelOf(log []channel.Event) model {
	m := model{threads: map[topology.MessageID][]history.Message{}}
	for _, e := range log {
		switch e.Kind { //nolint:exhaustive // the others are no messages
		case change.Message:
			m.messages = append(m.messages, history.Message{Change: e.Change})
		case change.Reply:
			for i := range m.messages {
				if r := &m.messages[i]; r.ID == e.Root {
					r.ReplyCount++
					r.LastReplyTS = e.TS
				}
			}
			m.threads[e.Root] = append(m.threads[e.Root], history.Message{Change: e.Change})
		}
	}
	return m
}

func (m model) page(q history.PageQuery) []history.Message {
	var out []history.Message
	for _, x := range m.messages {
		if (q.Forward && x.Seq > q.After) || (!q.Forward && (q.Before == 0 || x.Seq < q.Before)) {
			out = append(out, x)
		}
	}
	if !q.Forward {
		slices.Reverse(out)
	}
	return out[:min(len(out), q.Limit)]
}

// Whatever is derived already, and whoever owns the channel, readers see all
// that is confirmed, as the log has it.
func TestRead_TwoPagesThreadsAndLogAgree(t *testing.T) {
	c := newCell(t)
	server := c.start("cs-0")
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		ref := c.channel(runs, "U1")
		check := func() {
			log := c.logOf(ref)
			m := modelOf(log)
			n := len(m.messages)
			q := history.PageQuery{Limit: rapid.IntRange(1, 12).Draw(rt, "limit")}
			if q.Forward = rapid.Bool().Draw(rt, "forward"); q.Forward {
				q.After = topology.Seq(rapid.IntRange(0, n+1).Draw(rt, "after"))
			} else {
				q.Before = topology.Seq(rapid.IntRange(0, n+1).Draw(rt, "before"))
			}
			got, err := c.cluster.Page(c.ctx(), ref, q)
			if err != nil {
				rt.Fatal(err)
			}
			if want := m.page(q); !slices.EqualFunc(got, want, func(a, b history.Message) bool { return cmp.Equal(a, b) }) {
				rt.Fatalf("page %+v: %s", q, cmp.Diff(want, got))
			}
			if n == 0 {
				return
			}
			root := m.messages[rapid.IntRange(0, n-1).Draw(rt, "root")]
			if got, err := c.cluster.Get(c.ctx(), ref, root.ID); err != nil || !cmp.Equal(got, root) {
				rt.Fatalf("%v, %s", err, cmp.Diff(root, got))
			}
			after := rapid.IntRange(0, int(root.ReplyCount)).Draw(rt, "after reply")
			replies, err := c.cluster.Thread(c.ctx(), ref, root.ID, topology.Seq(after), q.Limit)
			if err != nil {
				rt.Fatal(err)
			}
			want := m.threads[root.ID][after:]
			want = want[:min(len(want), q.Limit)]
			if !slices.EqualFunc(replies, want, func(a, b history.Message) bool { return cmp.Equal(a, b) }) {
				rt.Fatalf("thread after %d: %s", after, cmp.Diff(want, replies))
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"post": func(rt *rapid.T) {
				for i := range rapid.IntRange(1, 60).Draw(rt, "n") {
					c.post(ref, "U1", fmt.Sprintf("message %d", i), "")
				}
			},
			"reply": func(rt *rapid.T) {
				ms := modelOf(c.logOf(ref)).messages
				if len(ms) == 0 {
					rt.Skip()
				}
				root := ms[rapid.IntRange(0, len(ms)-1).Draw(rt, "root")]
				c.reply(ref, root.ID, "reply")
			},
			"hold":   func(*rapid.T) { c.history.down.Store(true) },
			"derive": func(*rapid.T) { c.history.down.Store(false); c.derived(ref) },
			"restart": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
					server.kill()
					server = c.start("cs-0")
				}
			},
			"": func(*rapid.T) { check() },
		})
		c.history.down.Store(false)
	})
}

// The store comes further while a page is being read.
func TestRead_TwoAPageDuringDerivationHasEachOnce(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1")
	for i := range 150 {
		c.post(ref, "U1", fmt.Sprintf("message %d", i), "")
	}
	c.derived(ref)
	c.history.down.Store(true)
	for i := range 5 {
		c.post(ref, "U1", fmt.Sprintf("newer %d", i), "")
	}
	for _, q := range []history.PageQuery{{Forward: true, After: 10, Limit: 200}, {Limit: 200}, {Before: 154, Limit: 200}} {
		came := c.history.pages.close()
		got := make(chan []history.Message, 1)
		go func() {
			ms, err := c.cluster.Page(context.Background(), ref, q)
			if err != nil {
				t.Error(err)
			}
			got <- ms
		}()
		<-came
		c.history.down.Store(false)
		c.derived(ref)
		c.history.pages.open()
		if diff := cmp.Diff(modelOf(c.logOf(ref)).page(q), <-got); diff != "" {
			t.Errorf("page %+v: %s", q, diff)
		}
		c.history.down.Store(true)
	}
	c.history.down.Store(false)
}

func TestChanges_WhereTheyEnd(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1")
	for i := range 300 {
		c.post(ref, "U1", fmt.Sprintf("message %d", i), "")
	}
	c.derived(ref)
	_, err := c.cluster.Changes(c.ctx(), ref, 302, 10)
	wantKind(t, err, problem.Conflict)
	for _, after := range []topology.Rev{0, 1, 100, 170, 172, 173, 200, 300, 301} {
		es, err := c.cluster.Changes(c.ctx(), ref, after, 50)
		if err != nil || len(es) != min(50, int(301-after)) {
			t.Fatalf("after %d: %d changes, %v", after, len(es), err)
		}
		for i, e := range es {
			if e.Rev != after+topology.Rev(i)+1 || len(e.Payload) == 0 {
				t.Fatalf("after %d: rev %d at %d with %q", after, e.Rev, i, e.Payload)
			}
		}
	}
	long := c.channel(3, "U1")
	for i := range 150 { // 6 MB
		c.post(long, "U1", fmt.Sprintf("%d%s", i, strings.Repeat("x", 39_000)), "")
	}
	c.derived(long)
	if es, err := c.cluster.Changes(c.ctx(), long, 0, 151); err != nil || len(es) < 100 || len(es) > 120 {
		t.Errorf("%d long changes, %v", len(es), err)
	}
	if es, err := c.cluster.Changes(c.ctx(), long, 40, 151); err != nil || len(es) < 100 || len(es) > 110 {
		t.Errorf("%d long changes, %v", len(es), err)
	}
	big := c.importing(2)
	for n := 0; n < 12_000; n += 2000 {
		if _, err := c.cluster.Import(c.ctx(), channel.Import{Channel: big, From: uint64(n), Messages: old(c, n, 2000)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.cluster.Changes(c.ctx(), big, 2000, 10)
	wantKind(t, err, problem.Conflict)
	if es, err := c.cluster.Changes(c.ctx(), big, 2001, 10); err != nil || len(es) != 10 {
		t.Errorf("%d changes, %v", len(es), err)
	}
}
