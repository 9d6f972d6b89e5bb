package gateway_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"parley/cell/gateway"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

func TestGateway_ResumeEndsWithResumed(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	e := c.edge(c.gateway("gw"), 1)
	for i := range 250 { // more than a page, more than is kept
		c.say(ref, us[0], strconv.Itoa(i))
	}
	s := e.open(us[1], map[topology.ChannelID]topology.Rev{"C1": 3, chat.UserCursor: 1})
	s.live("C1")
	s.exactly("C1", 4, 251)
	e.mu.Lock()
	defer e.mu.Unlock()
	var order []string
	for _, ev := range s.events {
		if ev.Type != chat.TypeMessage && ev.Type != chat.TypeReadState {
			order = append(order, fmt.Sprintf("%s %s %d", ev.Type, ev.ChannelID, ev.Rev))
		}
	}
	slices.Sort(order) // they come on two lanes
	if want := []string{"resumed @user 1", "resumed C1 251"}; !slices.Equal(order, want) {
		t.Fatalf("%v, want %v", order, want)
	}
	for i, ev := range s.events {
		if ev.Type == chat.TypeResumed && ev.ChannelID == "C1" && slices.ContainsFunc(s.events[i:], func(ev event) bool { return ev.Type == chat.TypeMessage }) {
			t.Fatal("missed messages came after resumed")
		}
	}
}

// A channel that a resume doesn't name goes on where the hello said.
func TestGateway_G1_ChannelWithoutCursorStartsAtTheHello(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	e := c.edge(c.gateway("gw"), 1)
	s := e.openAs(us[1], nil, frame.Open{Workspace: place.Workspace, Epoch: 1, ResumeExpected: true})
	s.see("is open", func() bool { return s.opened })
	for i := range 5 {
		c.say(ref, us[0], strconv.Itoa(i))
	}
	joined := c.channel("C2", false, us...) // and one gained meanwhile
	e.send(frame.Control, frame.Resume{Session: s.id, Cursors: []frame.Cursor{{Channel: chat.UserCursor, Rev: 1}}, Last: true})
	s.live("C1")
	s.exactly("C1", 2, c.head(ref))
	s.live("C2")
	s.exactly("C2", 1, c.head(joined))
}

func TestGateway_RehomedIsSilent(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	e := c.edge(c.gateway("gw"), 1)
	for i := range 10 {
		c.say(ref, us[0], strconv.Itoa(i))
	}
	s := e.openAs(us[1], map[topology.ChannelID]topology.Rev{"C1": 3, chat.UserCursor: 1}, frame.Open{Workspace: place.Workspace, Epoch: 1, Rehomed: true})
	s.live("C1")
	s.exactly("C1", 4, 11)
	if got := s.got(chat.TypeResumed); len(got) != 0 {
		t.Fatalf("a moved session was told %s", got[0].raw)
	}
}

func TestGateway_CursorThatCantBeServedIsReset(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	secret := c.channel("C2", true, us[0])
	for i := range 10 {
		c.say(ref, us[0], strconv.Itoa(i))
		c.say(secret, us[0], fmt.Sprint("secret", i))
	}
	joined := c.join(secret, us[0], us[1])
	c.say(secret, us[0], "open")
	e := c.edge(c.gateway("gw"), 1)
	c.servers.tap(func(s *tappedServers) {
		s.changes = func(after topology.Rev) error {
			if after == 1 {
				return problem.New(problem.Conflict, "too old")
			}
			return nil
		}
	})
	for name, tc := range map[string]struct {
		channel            topology.ChannelID
		cursor, reset, now topology.Rev
	}{
		"from the future":             {channel: "C1", cursor: 500, reset: 11, now: 11},
		"too old":                     {channel: "C1", cursor: 1, reset: 11, now: 11},
		"before a private's joining":  {channel: "C2", cursor: 3, reset: joined - 1, now: joined + 1},
		"before the channel's joined": {channel: "C2", cursor: 0, reset: joined - 1, now: joined + 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := e.open(us[1], map[topology.ChannelID]topology.Rev{tc.channel: tc.cursor})
			s.live(tc.channel)
			s.exactly(tc.channel, tc.reset+1, tc.now)
			got := s.got(chat.TypeReset)
			if len(got) != 1 || got[0].ChannelID != tc.channel || got[0].Rev != tc.reset {
				t.Fatalf("resets %+v", got)
			}
			if slices.ContainsFunc(s.events, func(ev event) bool { return strings.Contains(string(ev.raw), "secret") }) {
				t.Fatal("messages from before the joining")
			}
			s.close()
		})
	}
}

// Cursors of channels that the user is not in are answered each, in the same words
// whether the channel exists or not; the others are resumed beside them.
func TestGateway_C8_CursorOfNoChannelOfTheUsers(t *testing.T) {
	c := newCell(t)
	us := c.people(3)
	ref := c.channel("C1", false, us...)
	c.channel("C2", true, us[0])
	left := c.channel("C3", false, us...)
	c.channel("C4", false, us[0])
	e := c.edge(c.gateway("gw"), 1)
	was := c.urev(us[1])
	c.leave(left, us[1])
	c.say(ref, us[0], "hello")
	cursors := map[topology.ChannelID]topology.Rev{"C1": 1, "C2": 1, "C3": 1, "C4": 1, "C99": 7}
	for name, tc := range map[string]struct {
		list    bool // the cursors name the list of channels as well
		rehomed bool
		errors  []topology.ChannelID
	}{
		"resumed":                {errors: []topology.ChannelID{"C2", "C3", "C4", "C99"}},
		"resumed, with the list": {list: true, errors: []topology.ChannelID{"C2", "C4", "C99"}},
		"moved by the edge":      {list: true, rehomed: true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := maps.Clone(cursors)
			if tc.list {
				asked[chat.UserCursor] = topology.Rev(was)
			}
			s := e.openAs(us[1], asked, frame.Open{Workspace: place.Workspace, Epoch: 1, ResumeExpected: !tc.rehomed, Rehomed: tc.rehomed})
			s.live("C1")
			s.exactly("C1", 2, 2)
			s.see("all others are passed over", func() bool { return len(s.passed) == 4 })
			var got []topology.ChannelID
			for _, ev := range s.got(chat.TypeError) {
				var ee chat.ErrorEvent
				decode(t, ev.raw, &ee)
				if ee.Kind != "not_found" || ee.Field != "cursors" || strings.ReplaceAll(ee.Detail, string(ee.ChannelID), "X") != "cursors: there is no channel X, or you are not in it; nothing of it follows" {
					t.Errorf("error %+v", ee)
				}
				got = append(got, ee.ChannelID)
			}
			if slices.Sort(got); !slices.Equal(got, tc.errors) {
				t.Errorf("errors about %v, want %v", got, tc.errors)
			}
			if tc.list && !slices.ContainsFunc(s.list(), func(l string) bool { return strings.HasPrefix(l, "lost C3") }) {
				t.Errorf("the list says %v", s.list())
			}
			if n := len(s.got(chat.TypeResumed)); !tc.rehomed && n < 1 {
				t.Error("nothing was resumed")
			}
			if got := s.close(); len(got) > 2 || got["C1"] != 2 {
				t.Errorf("the edge would go on at %v", got)
			}
		})
	}
}

func TestGateway_GroupResumeReadsOnce(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	for i := range 300 {
		c.say(ref, us[0], strconv.Itoa(i))
	}
	e := c.edge(c.gateway("gw"), 1)
	const n = 200
	var all []*client
	var opens, lasts []frame.Frame
	shared := frame.ResumeGroup{Workspace: place.Workspace, Channel: "C1", Rev: 50}
	e.mu.Lock()
	for i := range n {
		s := &client{
			e: e, id: topology.SessionID(1000 + i), user: us[i%2], cursors: map[topology.ChannelID]topology.Rev{"C1": 50}, in: map[topology.ChannelID]*group{},
			joined: map[topology.ChannelID]topology.Rev{}, revs: map[topology.ChannelID][]topology.Rev{}, answers: map[uint64]frame.AnswerBody{},
		}
		e.sessions[s.id] = s
		all = append(all, s)
		opens = append(opens, frame.Open{Session: s.id, Workspace: place.Workspace, User: s.user, Epoch: 1, Rehomed: true})
		shared.Sessions = append(shared.Sessions, s.id)
		lasts = append(lasts, frame.Resume{Session: s.id, Cursors: []frame.Cursor{{Channel: chat.UserCursor, Rev: 1}}, Last: true})
	}
	e.mu.Unlock()
	before := c.servers.count()
	e.send(frame.Control, append(append(opens, shared), lasts...)...)
	for _, s := range all {
		s.live("C1")
		s.exactly("C1", 51, 301)
	}
	if reads := c.servers.count() - before; reads > 4 {
		t.Fatalf("%d reads of the log for one group", reads)
	}
}

// More than a lane may hold comes through, and live events with it.
func TestGateway_G4_LongCatchUpDoesNotOverrunTheLink(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	text := strings.Repeat("x", 39_000)
	for range 150 {
		c.say(ref, us[0], text)
	}
	e := c.edge(c.gateway("gw"), 1)
	var all []*client
	for range 4 { // 23 MB on one lane
		all = append(all, e.open(us[1], map[topology.ChannelID]topology.Rev{"C1": 1}))
	}
	for _, s := range all {
		s.live("C1")
		s.exactly("C1", 2, 151)
	}
}

// Sessions that come and go while people post, join and leave: each gets every
// rev of its channels once and in order, over all its lives.
func TestGateway_G1_ResumeIsExactUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newCell(t)
	us := c.people(6)
	var refs []topology.ChannelRef
	for i := range 3 {
		refs = append(refs, c.channel(topology.ChannelID(fmt.Sprint("C", i)), false, us...))
	}
	dropping := rand.New(rand.NewPCG(seed, 1))
	c.bus.losing(func(topic string, _ []byte) bool {
		return strings.HasPrefix(topic, "channel:") && dropping.IntN(20) == 0
	})
	var edges []*edge
	for i := range 2 {
		g := c.gateway(topology.GatewayID(fmt.Sprint("gw", i)), func(cfg *gateway.Config, _ *gateway.Deps) { cfg.CatchUpBytes = 64 << 10 })
		edges = append(edges, c.edge(g, 1), c.edge(g, 1))
	}
	var posting, living sync.WaitGroup
	stop := make(chan struct{})
	for i, ref := range refs {
		posting.Go(func() {
			for n := range 400 {
				c.say(ref, us[i], strconv.Itoa(n))
			}
		})
	}
	type life struct {
		user    topology.UserID
		cursors map[topology.ChannelID]topology.Rev
		revs    map[topology.ChannelID][]topology.Rev
		start   map[topology.ChannelID]topology.Rev
	}
	lives := make([]life, 12)
	for i := range lives {
		living.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)+2))
			l := life{user: us[i%len(us)], revs: map[topology.ChannelID][]topology.Rev{}, start: map[topology.ChannelID]topology.Rev{}}
			for over := false; !over; {
				select {
				case <-stop:
					over = true
				default:
				}
				e := edges[r.IntN(len(edges))]
				s := e.open(l.user, l.cursors)
				if l.cursors == nil || r.IntN(3) > 0 || over {
					s.see("is live", func() bool { return s.opened && len(s.in) == len(refs) })
				}
				if l.cursors == nil {
					for _, ch := range s.hello.Channels {
						l.start[ch.ID] = ch.Rev
					}
				}
				if over {
					for _, ref := range refs {
						s.reach(ref.Channel, c.head(ref))
					}
				}
				l.cursors = s.close()
				e.mu.Lock()
				for ch, revs := range s.revs {
					l.revs[ch] = append(l.revs[ch], revs...)
				}
				e.mu.Unlock()
			}
			lives[i] = l
		})
	}
	posting.Wait()
	close(stop)
	living.Wait()
	for i, l := range lives {
		for _, ref := range refs {
			head, got := c.head(ref), l.revs[ref.Channel]
			for k, rev := range got {
				if want := l.start[ref.Channel] + 1 + topology.Rev(k); rev != want {
					t.Fatalf("life %d of %s: rev %d of %s where %d was to come", i, l.user, rev, ref.Channel, want)
				}
			}
			if n := topology.Rev(len(got)); n != head-l.start[ref.Channel] {
				t.Fatalf("life %d: %d revs of %s, want %d", i, n, ref.Channel, head-l.start[ref.Channel])
			}
		}
	}
}
