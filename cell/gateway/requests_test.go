package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/cell/channel"
	"parley/cell/presence"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

func decode(tb testing.TB, raw []byte, into any) {
	tb.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		tb.Fatal(err)
	}
}

func (c *client) post(req uint64, ch topology.ChannelID, text string) {
	c.e.send(frame.LaneOf(string(ch)), frame.Post{Session: c.id, Req: req, Channel: ch, Key: fmt.Sprint("key", req), Text: text})
}

func (c *client) answer(req uint64) frame.AnswerBody {
	c.e.tb.Helper()
	var body frame.AnswerBody
	c.see(fmt.Sprint("answer ", req), func() (ok bool) {
		body, ok = c.answers[req]
		return ok
	})
	return body
}

func TestGateway_PostsKeepTheirOrderAndAreBounded(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us[0])
	e := c.edge(c.gateway("gw"), 1)
	s := e.open(us[0], nil)
	s.live("C1")
	gate := make(chan struct{})
	c.servers.tap(func(t *tappedServers) {
		t.post = func(ctx context.Context, _ channel.Post) {
			select {
			case <-gate:
			case <-ctx.Done():
			}
		}
	})
	for i := range uint64(70) {
		s.post(i+1, "C1", fmt.Sprint("text", i))
	}
	if a := s.answer(70); a.Kind != problem.Exhausted || a.RetryMS == 0 {
		t.Fatalf("beyond the bound: %+v", a)
	}
	close(gate)
	for i := range uint64(64) {
		a := s.answer(i + 1)
		if a.Kind != "" || a.Channel != "C1" || a.Message == "" || a.TS == 0 || uint64(a.Seq) != i+1 {
			t.Fatalf("answer %d: %+v", i+1, a)
		}
	}
	s.post(1, "C1", "the same key with other words")
	s.see("a conflict", func() bool { return s.answers[1].Kind == problem.Conflict || len(e.faults) > 0 })
	e.mu.Lock()
	e.faults = nil // the second answer to request 1 was asked for
	e.mu.Unlock()
	s.reach("C1", c.head(ref))
	for i, ev := range s.got(chat.TypeMessage) {
		if !strings.Contains(string(ev.raw), fmt.Sprintf(`"text%d"`, i)) {
			t.Fatalf("message %d is %s", i, ev.raw)
		}
	}
	// Who is not in a public channel may not post there.
	out := e.open(us[1], nil)
	out.see("is open", func() bool { return out.opened })
	out.post(9, "C1", "hello?")
	if a := out.answer(9); a.Kind != problem.Denied {
		t.Fatalf("an outsider's post: %+v", a)
	}
}

func TestGateway_ReadStateReachesAllSessions(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	e, other := c.edge(c.gateway("gw"), 1), c.edge(c.gateway("gw2"), 1)
	a, b := e.open(us[1], nil), other.open(us[1], nil)
	a.live("C1")
	b.live("C1")
	m := c.say(ref, us[0], "one")
	c.say(ref, us[0], "two")
	e.send(frame.LaneOf("C1"), frame.MarkRead{Session: a.id, Req: 5, Channel: "C1", Message: m.ID})
	if got := a.answer(5); got.Kind != "" {
		t.Fatalf("answer %+v", got)
	}
	for _, s := range []*client{a, b} {
		s.see("read state", func() bool { return slices.ContainsFunc(s.events, isReadState) })
		var st chat.ReadStateEvent
		decode(t, s.got(chat.TypeReadState)[0].raw, &st)
		if st.ChannelID != "C1" || st.UnreadCount != 1 || st.LastReadMessageID == nil || *st.LastReadMessageID != m.ID {
			t.Fatalf("read state %+v", st)
		}
	}
	back := e.open(us[1], b.close())
	back.see("read state, whole, at a resume", func() bool { return slices.ContainsFunc(back.events, isReadState) })
}

func isReadState(ev event) bool { return ev.Type == chat.TypeReadState }

func TestGateway_TypingReachesMembersOnly(t *testing.T) {
	c := newCell(t)
	us := c.people(3)
	ref := c.channel("C1", false, us[0], us[1])
	c.channel("C2", false, us[2])
	e, other := c.edge(c.gateway("gw"), 1), c.edge(c.gateway("gw2"), 1)
	a, b, out := e.open(us[0], nil), other.open(us[1], nil), e.open(us[2], nil)
	a.live("C1")
	b.live("C1")
	out.live("C2")
	typing := func(s *client) { e.send(frame.LaneOf("C1"), frame.Typing{Session: s.id, Channel: "C1"}) }
	typing(out) // not in the channel
	for range 5 {
		typing(a)
	}
	c.say(ref, us[0], "the end") // on the same lane, but not on the same topic
	b.see("typing", func() bool { return slices.ContainsFunc(b.events, isTyping) })
	var ev chat.TypingEvent
	decode(t, b.got(chat.TypeTyping)[0].raw, &ev)
	if want := (chat.TypingEvent{Type: chat.TypeTyping, ChannelID: "C1", UserID: us[0]}); ev != want {
		t.Fatalf("typing %+v", ev)
	}
	b.reach("C1", c.head(ref))
	c.say(ref, us[0], "later")
	b.reach("C1", c.head(ref))
	if n := len(b.got(chat.TypeTyping)); n != 1 {
		t.Fatalf("%d typing events; one in 3 s is told", n)
	}
	if n := len(out.got(chat.TypeTyping)); n != 0 {
		t.Fatal("typing reached who is not in the channel")
	}
	if at := b.at("C1"); at != c.head(ref) {
		t.Fatalf("typing moved the rev: %d", at)
	}
}

func isTyping(ev event) bool { return ev.Type == chat.TypeTyping }

func TestGateway_PresenceIsToldToWhoSharesAChannel(t *testing.T) {
	c := newCell(t)
	us := c.people(3)
	c.channel("C1", false, us[0], us[1])
	c.channel("C2", false, us[2])
	e, other := c.edge(c.gateway("gw"), 1), c.edge(c.gateway("gw2"), 1)
	a, stranger := e.open(us[0], nil), e.open(us[2], nil)
	a.live("C1")
	stranger.live("C2")
	status := func(s *client, u topology.UserID) (last string) {
		for _, ev := range s.got(chat.TypePresence) {
			var p chat.PresenceEvent
			decode(t, ev.raw, &p)
			if p.UserID == u {
				last = p.Status
			}
		}
		return last
	}
	eventually(t, "the first is written", func() bool { return statusOf(c, us[0]) == presence.Online })
	b := other.open(us[1], nil)
	eventually(t, "online is told", func() bool { return status(a, us[1]) == "online" })
	eventually(t, "who comes is told who is there", func() bool { return status(b, us[0]) == "online" })
	other.send(frame.Control, frame.Activity{Session: b.id, Active: false})
	eventually(t, "away is told", func() bool { return status(a, us[1]) == "away" })
	b.close()
	eventually(t, "offline is told", func() bool { return status(a, us[1]) == "offline" })
	if statusOf(c, us[1]) != presence.Offline {
		t.Fatal("offline is not written")
	}
	if got := status(stranger, us[1]); got != "" {
		t.Fatalf("a stranger was told %s", got)
	}
}

func statusOf(c *cell, u topology.UserID) presence.Status {
	st, err := c.there.Read(c.ctx(), place, []topology.UserID{u})
	c.must(err)
	return st[u]
}

func TestGateway_PresenceEndsWithTheGateway(t *testing.T) {
	c := newCell(t)
	us := c.people(1)
	c.channel("C1", false, us...)
	g := c.gateway("gw")
	s := c.edge(g, 1).open(us[0], nil)
	s.live("C1")
	eventually(t, "is written", func() bool { return statusOf(c, us[0]) == presence.Online })
	begun := time.Now()
	g.stop()
	if statusOf(c, us[0]) != presence.Offline || time.Since(begun) > 10*time.Second {
		t.Fatal("the lease outlives the gateway")
	}
}
