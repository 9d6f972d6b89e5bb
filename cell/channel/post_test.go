package channel_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestPost_IsNumberedShownAndDerived(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1", "U2")
	l := c.follow(ref)
	first := c.post(ref, "U1", "hello", "k1")
	second := c.post(ref, "U2", "hello yourself", "k2")
	rep := c.reply(ref, first.ID, "a reply")
	if first.Seq != 1 || second.Seq != 2 || rep.Seq != 1 || rep.Rev != 4 || rep.HeadSeq != 2 || rep.Root != first.ID {
		t.Fatalf("got %+v, %+v, %+v", first, second, rep)
	}
	log := c.logOf(ref)
	if len(log) != 4 {
		t.Fatalf("the log has %d changes", len(log))
	}
	eventually(t, "three events", func() bool { return len(l.of(ref.Channel)) == 3 })
	for i, e := range l.of(ref.Channel) {
		if e.From != topology.Rev(i+2) || e.To != e.From || string(e.Payload) != string(log[i+1].Payload) {
			t.Errorf("event %d is %+v with %s, the log says %s", i, e, e.Payload, log[i+1].Payload)
		}
	}
	c.derived(ref)
	if h := c.head(ref); h.Rev != 4 || h.Seq != 2 || h.TS != rep.TS {
		t.Errorf("head %+v", h)
	}
	es, _, err := c.events.Read(c.ctx(), ref.Shard(), 0, 10)
	if err != nil || len(es) != 4 || es[3].Rev != 4 || es[3].Kind != change.Reply {
		t.Errorf("the event log has %v, %v", es, err)
	}
}

func TestPost_WhatIsRefused(t *testing.T) {
	c := newCell(t)
	s := c.start("cs-1")
	ref, other := c.channel(1, "U1"), c.channel(2, "U1")
	hidden := topology.ChannelRef{Place: place, Channel: "Chidden"}
	c.dir.put(hidden, channel.Info{Number: 9, Private: true})
	importing := topology.ChannelRef{Place: place, Channel: "Cimporting"}
	c.dir.put(importing, channel.Info{Number: 10, Importing: true}, "U1")
	gone := topology.ChannelRef{Place: topology.Place{Workspace: "Wgone", Generation: 1}, Channel: "C1"}
	c.dir.closed[gone.Place] = true
	elsewhere := c.post(other, "U1", "in the other channel", "")
	root := c.post(ref, "U1", "a root", "")
	rep := c.reply(ref, root.ID, "a reply")
	for _, k := range []struct {
		name  string
		post  channel.Post
		kind  problem.Kind
		field string
	}{
		{"no text", channel.Post{Channel: ref, Author: "U1"}, problem.Invalid, "text"},
		{"bad UTF-8", channel.Post{Channel: ref, Author: "U1", Text: "\xff"}, problem.Invalid, "text"},
		{"too long", channel.Post{Channel: ref, Author: "U1", Text: strings.Repeat("é", 40_001)}, problem.Invalid, "text"},
		{"long key", channel.Post{Channel: ref, Author: "U1", Text: "x", Key: strings.Repeat("k", 129)}, problem.Invalid, "client_msg_id"},
		{"control in key", channel.Post{Channel: ref, Author: "U1", Text: "x", Key: "\x1fcreate"}, problem.Invalid, "client_msg_id"},
		{"not a member", channel.Post{Channel: ref, Author: "U9", Text: "x"}, problem.Denied, ""},
		{"private", channel.Post{Channel: hidden, Author: "U1", Text: "x"}, problem.NotFound, ""},
		{"no such channel", channel.Post{Channel: topology.ChannelRef{Place: place, Channel: "Cnone"}, Author: "U1", Text: "x"}, problem.NotFound, ""},
		{"importing", channel.Post{Channel: importing, Author: "U1", Text: "x"}, problem.Conflict, ""},
		{"moved", channel.Post{Channel: gone, Author: "U1", Text: "x"}, problem.Moved, ""},
		{"root elsewhere", channel.Post{Channel: ref, Author: "U1", Text: "x", Root: elsewhere.ID}, problem.Invalid, "thread_root"},
		{"root is a reply", channel.Post{Channel: ref, Author: "U1", Text: "x", Root: rep.ID}, problem.Invalid, "thread_root"},
		{"root to come", channel.Post{Channel: ref, Author: "U1", Text: "x", Root: change.NewID(root.TS/1000, 1, 2, 0)}, problem.Invalid, "thread_root"},
		{"root of another time", channel.Post{Channel: ref, Author: "U1", Text: "x", Root: change.NewID(root.TS/1000+1, 1, 1, 0)}, problem.Invalid, "thread_root"},
		{"root is no id", channel.Post{Channel: ref, Author: "U1", Text: "x", Root: "hello"}, problem.Invalid, "thread_root"},
	} {
		_, err := s.Post(c.ctx(), k.post)
		var p *problem.Error
		if !errors.As(err, &p) || p.Kind != k.kind || p.Field != k.field {
			t.Errorf("%s: got %v, want kind %s, field %q", k.name, err, k.kind, k.field)
		}
	}
	if n := len(c.logOf(ref)); n != 3 {
		t.Errorf("%d changes are in the log", n)
	}
	longest := c.post(ref, "U1", strings.Repeat("é", 40_000), "")
	if longest.Seq != 2 {
		t.Errorf("the longest text got seq %d", longest.Seq)
	}
}

func TestPost_SixRepeatedIsDoneOnce(t *testing.T) {
	c := newCell(t)
	c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.ChannelsMax, cfg.CacheBytes = 64, 1<<20 })
	ref := c.channel(1, "U1", "U2")
	first := c.post(ref, "U1", "once", "key")
	same := func(why string) {
		t.Helper()
		again := c.post(ref, "U1", "once", "key")
		if diff := cmp.Diff(first, again); diff != "" {
			t.Fatalf("%s: another answer: %s", why, diff)
		}
	}
	same("from memory")
	_, err := c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "other", Key: "key"})
	wantKind(t, err, problem.Conflict)
	_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "once", Key: "key", Root: first.ID})
	wantKind(t, err, problem.Conflict)
	if other := c.post(ref, "U2", "once", "key"); other.ID == first.ID {
		t.Error("another author's key gave this author's message")
	}
	for i := range 200 { // out of memory
		c.post(ref, "U1", fmt.Sprintf("message %d", i), fmt.Sprintf("k%d", i))
	}
	c.derived(ref)
	same("from the store")
	_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "other", Key: "key"})
	wantKind(t, err, problem.Conflict)
	c.clock.add(history.Window + time.Hour)
	if later := c.post(ref, "U1", "once", "key"); later.ID == first.ID {
		t.Error("a key counts for ever")
	}
}

// One try looks for its key before another has posted it, and comes to be
// numbered when the other is out of memory already.
func TestPost_SixALateTryLooksAgain(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1")
	busy := func() {
		for i := range 150 {
			c.post(ref, "U1", fmt.Sprintf("message %d", i), "")
		}
		c.derived(ref)
	}
	busy() // so that memory does not reach back to the beginning
	came := c.history.deduped.close()
	post := channel.Post{Channel: ref, Author: "U1", Text: "x", Key: "gated"}
	late := make(chan change.Change, 1)
	go func() {
		m, err := c.cluster.Post(context.Background(), post)
		if err != nil {
			t.Error(err)
		}
		late <- m
	}()
	<-came
	early := make(chan change.Change, 1)
	c.history.deduped.except(func() {
		m, err := c.cluster.Post(c.ctx(), post)
		if err != nil {
			t.Error(err)
		}
		early <- m
	})
	busy()
	c.history.deduped.open()
	if a, b := <-early, <-late; a.ID == "" || a.ID != b.ID {
		t.Errorf("one key led to %s and %s", a.ID, b.ID)
	}
}

func TestPost_RepeatsAtOnceAreOne(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1")
	ids := make([]topology.MessageID, 64)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			m, err := c.cluster.Post(context.Background(), channel.Post{Channel: ref, Author: "U1", Text: "x", Key: fmt.Sprintf("k%d", i%4)})
			if err != nil {
				t.Error(err)
			}
			ids[i] = m.ID
		})
	}
	wg.Wait()
	for i := range ids {
		if ids[i] != ids[i%4] {
			t.Fatalf("key %d led to %s and %s", i%4, ids[i], ids[i%4])
		}
	}
	if n := len(c.logOf(ref)); n != 5 {
		t.Errorf("%d changes for 4 keys", n)
	}
}

func TestPost_MentionsAreResolved(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1")
	c.dir.users = map[string]topology.UserID{"anna": "U2", "bo.b": "U3", "U4": "U4", "channels": "U5"}
	for text, want := range map[string][]topology.UserID{
		"hi @anna and @Bo.B.": {"U2", "U3"}, "<@U4|dave>, see": {"U4"}, "mail anna@anna or me": nil,
		"@here and @anna!": {change.MentionAll, "U2"}, "<!channel>": {change.MentionAll}, "@channels": {"U5"},
		"@anna @anna <@nobody> @": {"U2"}, "(@anna)": {"U2"}, "@everyone.": {change.MentionAll}, "<@": nil,
	} {
		if got := c.post(ref, "U1", text, "").Mentions; !cmp.Equal(got, want) {
			t.Errorf("%q mentions %v, want %v", text, got, want)
		}
	}
}

func TestPost_AWorkspaceHasAQuota(t *testing.T) {
	c := newCell(t)
	s := c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.PostsPerS, cfg.PostsBurst = 0.001, 3 })
	ref, other := c.channel(1, "U1"), c.channel(2, "U1")
	first := c.post(ref, "U1", "1", "k1")
	c.post(other, "U1", "2", "k2")
	c.post(ref, "U1", "3", "k3")
	_, err := s.Post(c.ctx(), channel.Post{Channel: other, Author: "U1", Text: "4", Key: "k4"})
	wantKind(t, err, problem.Exhausted)
	if p, ok := errors.AsType[*problem.Error](err); !ok || p.RetryAfter <= 0 {
		t.Errorf("it does not say when to come back: %v", err)
	}
	again, err := s.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "1", Key: "k1"})
	if err != nil || again.ID != first.ID {
		t.Errorf("a repeat got %+v, %v", again, err)
	}
}
