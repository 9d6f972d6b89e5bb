package channel_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

// importing makes a channel that is being imported.
func (c *cell) importing(n int) topology.ChannelRef {
	c.t.Helper()
	ref := topology.ChannelRef{Place: place, Channel: topology.ChannelID(fmt.Sprintf("C%d", n))}
	c.dir.put(ref, channel.Info{Number: uint64(n), Importing: true}, "U1")
	c.create(ref, "U1")
	return ref
}

// old makes messages n+1 … n+count of an import; every tenth from the third on
// replies to message 1.
func old(c *cell, n, count int) []channel.Imported {
	base := c.clock.now().Add(-1000 * time.Hour).UnixMicro()
	ms := make([]channel.Imported, count)
	for i := range ms {
		ms[i] = channel.Imported{Author: "U2", TS: base + int64(n+i)*1000, Text: fmt.Sprintf("old %d", n+i+1)}
		if (n+i)%10 == 2 {
			ms[i].Root = 1
		}
	}
	return ms
}

func TestImport_KeepsTimesAndLandsOnce(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1")
	ref := c.importing(1)
	send := func(from, n int) (uint64, error) {
		return c.cluster.Import(c.ctx(), channel.Import{Channel: ref, From: uint64(from), Messages: old(c, from, n)})
	}
	if n, err := send(0, 1000); err != nil || n != 1000 {
		t.Fatalf("%d, %v", n, err)
	}
	_, err := send(0, 1000)
	wantKind(t, err, problem.Conflict)
	_, err = send(1500, 10)
	wantKind(t, err, problem.Conflict)
	a.kill() // the importer goes on where the head says, at another owner
	c.start("cs-2")
	at := channel.ImportedAt(c.head(ref).Rev)
	if at != 1000 {
		t.Fatalf("%d are in", at)
	}
	if n, err := send(1000, 2000); err != nil || n != 3000 {
		t.Fatalf("%d, %v", n, err)
	}
	_, err = c.cluster.Member(c.ctx(), channel.Member{Channel: ref, Kind: change.Joined, Subjects: []topology.UserID{"U3"}, Key: "j"})
	wantKind(t, err, problem.Conflict)
	c.dir.put(ref, channel.Info{Number: 1})
	live := c.post(ref, "U1", "now", "")
	if live.Rev != 3002 || live.Seq != 2701 || live.TS != c.clock.now().UnixMicro() {
		t.Errorf("the first live post is %+v", live)
	}
	_, err = send(3001, 1)
	wantKind(t, err, problem.Conflict)
	c.derived(ref)
	want := old(c, 0, 3000)
	all, err := c.cluster.Changes(c.ctx(), ref, 1, 2000)
	if err != nil || len(all) != 2000 {
		t.Fatalf("%d changes, %v", len(all), err)
	}
	for i, e := range all {
		if w := want[i]; e.TS != w.TS || e.Text != w.Text || e.Author != w.Author || (e.Kind == change.Reply) != (w.Root == 1) {
			t.Fatalf("message %d became %+v", i, e.Change)
		}
	}
	first, err := c.cluster.Page(c.ctx(), ref, history.PageQuery{Forward: true, Limit: 1})
	if err != nil || len(first) != 1 || first[0].ReplyCount != 300 {
		t.Errorf("the thread's root is %+v, %v", first, err)
	}
}

func TestImport_WhatIsRefused(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.importing(1)
	usual := c.channel(2, "U1")
	empty := topology.ChannelRef{Place: place, Channel: "C3"}
	c.dir.put(empty, channel.Info{Number: 3, Importing: true})
	ts := c.clock.now().UnixMicro()
	for name, k := range map[string]struct {
		im   channel.Import
		kind problem.Kind
	}{
		"nothing":        {channel.Import{Channel: ref}, problem.Invalid},
		"too many":       {channel.Import{Channel: ref, Messages: old(c, 0, 2001)}, problem.Invalid},
		"not importing":  {channel.Import{Channel: usual, Messages: old(c, 0, 1)}, problem.Conflict},
		"not created":    {channel.Import{Channel: empty, Messages: old(c, 0, 1)}, problem.Conflict},
		"future":         {channel.Import{Channel: ref, Messages: []channel.Imported{{Author: "U1", TS: ts + 301e6, Text: "x"}}}, problem.Invalid},
		"same time":      {channel.Import{Channel: ref, Messages: []channel.Imported{{Author: "U1", TS: 5, Text: "x"}, {Author: "U1", TS: 5, Text: "x"}}}, problem.Invalid},
		"no author":      {channel.Import{Channel: ref, Messages: []channel.Imported{{TS: 5, Text: "x"}}}, problem.Invalid},
		"no text":        {channel.Import{Channel: ref, Messages: []channel.Imported{{Author: "U1", TS: 5}}}, problem.Invalid},
		"root to come":   {channel.Import{Channel: ref, Messages: []channel.Imported{{Author: "U1", TS: 5, Text: "x", Root: 1}}}, problem.Invalid},
		"root too early": {channel.Import{Channel: ref, Messages: []channel.Imported{{Author: "U1", TS: 5, Text: "x"}, {Author: "U1", TS: 6, Text: "x", Root: 2}}}, problem.Invalid},
	} {
		if _, err := c.cluster.Import(c.ctx(), k.im); !problem.Is(err, k.kind) {
			t.Errorf("%s: got %v, want kind %s", name, err, k.kind)
		}
	}
	if h := c.head(ref); h.Rev != 1 {
		t.Errorf("something of a refused batch is in: %+v", h)
	}
}

func TestMember_IsInOrderWithPosts(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	ref := c.channel(1, "U1")
	l := c.follow(ref)
	c.post(ref, "U1", "before", "")
	join := channel.Member{Channel: ref, Kind: change.Joined, Author: "U1", Subjects: []topology.UserID{"U2", "U3"}, Key: "e1"}
	c.dir.put(ref, channel.Info{Number: 1}, "U2", "U3")
	in, err := c.cluster.Member(c.ctx(), join)
	if err != nil || in.Rev != 3 || in.HeadSeq != 1 {
		t.Fatalf("%+v, %v", in, err)
	}
	c.post(ref, "U2", "thanks", "e1") // another kind of key
	again, err := c.cluster.Member(c.ctx(), join)
	if err != nil || again.Rev != in.Rev || again.HeadSeq != 1 {
		t.Errorf("the repeated change is %+v, %v", again, err)
	}
	c.dir.remove(ref, "U2")
	out, err := c.cluster.Member(c.ctx(), channel.Member{Channel: ref, Kind: change.Left, Author: "U1", Subjects: []topology.UserID{"U2"}, Key: "e2"})
	if err != nil || out.Rev != 5 {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U2", Text: "bye"})
	wantKind(t, err, problem.Denied)
	created, err := c.cluster.Member(c.ctx(), channel.Member{Channel: ref, Kind: change.Created, Author: "U9", Key: "another"})
	if err != nil || created.Rev != 1 {
		t.Errorf("a second creation is %+v, %v", created, err)
	}
	eventually(t, "four events", func() bool { return len(l.of(ref.Channel)) == 4 })
	es := l.of(ref.Channel)
	if len(es[1].Joined) != 2 || es[1].From != 3 || len(es[3].Left) != 1 || es[3].From != 5 {
		t.Errorf("events %+v", es)
	}
	if want := `{"type":"channel","event":"member_left","channel_id":"C1","rev":5,"user_ids":["U2"],"by":"U1","ts":"2026-01-01T00:00:00.000004Z"}`; string(es[3].Payload) != want {
		t.Errorf("got %s\nwant %s", es[3].Payload, want)
	}
	c.derived(ref)
	late, err := c.cluster.Member(context.Background(), join)
	if err != nil || late.Rev != in.Rev || late.HeadSeq != 1 {
		t.Errorf("the change repeated later is %+v, %v", late, err)
	}
}
