package gateway_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/gateway"
	"parley/cell/router"
	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

func TestGateway_G1_StartsExactlyAfterTheHello(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", false, us...)
	g := c.gateway("gw")
	e := c.edge(g, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			c.say(ref, us[0], strconv.Itoa(i))
		}
	}()
	var all []*client
	for i := range 40 {
		all = append(all, e.open(us[i%2], nil))
		all[i].see("is open", func() bool { return all[i].opened })
	}
	<-done
	head := c.head(ref)
	for _, s := range all {
		s.live("C1")
		s.reach("C1", head)
		if len(s.hello.Channels) != 1 || s.hello.Channels[0].ID != "C1" || s.hello.UserID != s.user {
			t.Fatalf("hello %+v", s.hello)
		}
		s.exactly("C1", s.hello.Channels[0].Rev+1, head)
	}
	// One frame per link and event.
	c.say(ref, us[0], "last")
	for _, s := range all {
		s.reach("C1", head+1)
		if ev := s.got(chat.TypeMessage); !ev[len(ev)-1].group {
			t.Fatal("a live event came to a session alone")
		}
	}
}

func TestGateway_G3_LostEventsAreRepaired(t *testing.T) {
	for name, cover := range map[string]func(c *cell, ref topology.ChannelRef){
		"by the next event":    func(c *cell, ref topology.ChannelRef) { c.say(ref, "U1", "next") },
		"by the beacon's head": func(*cell, topology.ChannelRef) {},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			us := c.people(2)
			ref := c.channel("C1", false, us...)
			s := c.edge(c.gateway("gw"), 1).open(us[1], nil)
			s.live("C1")
			from := s.at("C1") + 1
			for i := range 5 {
				lost := false
				c.bus.losing(func(topic string, _ []byte) bool {
					drop := topic == router.ChannelTopic("C1") && !lost
					lost = lost || drop
					return drop
				})
				c.say(ref, us[0], strconv.Itoa(i))
				cover(c, ref)
				s.reach("C1", c.head(ref))
				c.bus.losing(nil)
			}
			s.exactly("C1", from, c.head(ref))
		})
	}
}

func TestGateway_G3_MissedBeaconAndSilenceAreRepaired(t *testing.T) {
	for name, tc := range map[string]struct{ beacons, tellLost bool }{
		"a missed beacon":  {beacons: true},
		"silence":          {},
		"the router's own": {tellLost: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			us := c.people(2)
			ref := c.channel("C1", false, us...)
			g := c.gateway("gw", func(cfg *gateway.Config, _ *gateway.Deps) {
				if tc.tellLost {
					cfg.SilenceMax, cfg.RouterSilence = time.Hour, time.Hour
				}
			})
			s := c.edge(g, 1).open(us[1], nil)
			s.live("C1")
			from := s.at("C1") + 1
			beacons := make(chan struct{}, 1000)
			c.bus.losing(func(topic string, _ []byte) bool {
				if topic == router.BeaconTopic {
					select {
					case beacons <- struct{}{}:
					default:
					}
				}
				return topic == router.ChannelTopic("C1") || topic == router.BeaconTopic
			})
			c.say(ref, us[0], "lost, with the beacon about it")
			if tc.beacons {
				<-beacons
				<-beacons // one at least was after the message
				c.bus.losing(func(topic string, _ []byte) bool { return topic == router.ChannelTopic("C1") })
			}
			if tc.tellLost {
				c.bus.tellLost()
			}
			s.reach("C1", c.head(ref))
			s.exactly("C1", from, c.head(ref))
		})
	}
}

func TestGateway_G2_LeaveIsFinal(t *testing.T) {
	for name, lossy := range map[string]bool{"live": false, "repaired": true} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			us := c.people(2)
			ref := c.channel("C1", true, us...)
			e := c.edge(c.gateway("gw"), 1)
			stays, leaves := e.open(us[0], nil), e.open(us[1], nil)
			stays.live("C1")
			leaves.live("C1")
			if lossy {
				c.bus.losing(func(topic string, _ []byte) bool {
					return topic == router.ChannelTopic("C1") || strings.HasPrefix(topic, "user:")
				})
			}
			c.say(ref, us[0], "both")
			left := c.leave(ref, us[1])
			c.bus.losing(nil)
			for i := range 20 {
				c.say(ref, us[0], fmt.Sprint("secret", i))
			}
			stays.reach("C1", c.head(ref))
			leaves.see("the list says so", func() bool { return slices.ContainsFunc(leaves.events, lostC1) })
			leaves.see("has left", func() bool { return leaves.in["C1"] == nil })
			leaves.exactly("C1", 2, left) // its own leaving is the last
			stays.exactly("C1", 2, c.head(ref))
			for _, ev := range leaves.got(chat.TypeMessage) {
				if strings.Contains(string(ev.raw), "secret") {
					t.Fatal("a message reached who had left")
				}
			}
			// And the same by a cursor.
			cursors := map[topology.ChannelID]topology.Rev{"C1": 1, chat.UserCursor: topology.Rev(leaves.hello.URev)}
			leaves.close()
			back := e.open(us[1], cursors)
			back.see("the list is told", func() bool { return slices.ContainsFunc(back.events, lostC1) })
			back.see("is resumed", func() bool {
				return slices.ContainsFunc(back.events, func(ev event) bool { return ev.Type == chat.TypeResumed && ev.ChannelID == chat.UserCursor })
			})
			c.say(ref, us[0], "secret again")
			stays.reach("C1", c.head(ref))
			back.exactly("C1", 1, 0)
		})
	}
}

// The leaving comes while the session is being caught up: it is in no group yet.
func TestGateway_G2_LeavingDuringCatchUp(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", true, us...)
	for i := range 250 {
		c.say(ref, us[0], strconv.Itoa(i))
	}
	e := c.edge(c.gateway("gw"), 1)
	reading, goOn := make(chan struct{}, 100), make(chan struct{})
	c.servers.tap(func(s *tappedServers) {
		s.changes = func(topology.Rev) error {
			reading <- struct{}{}
			<-goOn
			return nil
		}
	})
	s := e.open(us[1], map[topology.ChannelID]topology.Rev{"C1": 1, chat.UserCursor: 1})
	<-reading
	left := c.leave(ref, us[1])
	c.say(ref, us[0], "secret")
	close(goOn)
	s.see("the list says so", func() bool { return slices.ContainsFunc(s.events, lostC1) })
	s.see("it has its leaving", func() bool { return slices.Contains(s.revs["C1"], left) })
	c.say(ref, us[0], "secret")
	other := e.open(us[0], nil)
	other.live("C1") // on the same lane, after whatever was sent before
	s.exactly("C1", 2, left)
	if s.at("C1") != left {
		t.Fatalf("the session is at %d, its leaving was %d", s.at("C1"), left)
	}
}

func lostC1(ev event) bool {
	return ev.Type == chat.TypeChannel && ev.URev > 0 && strings.Contains(string(ev.raw), `"lost"`)
}

// A user who is in the channel by the directory only until the answer is old, or
// whose leaving was met before the session was in, is taken out by the urev.
func TestGateway_G2_LeavingInTheDirectoryAloneIsEnough(t *testing.T) {
	c := newCell(t)
	us := c.people(2)
	ref := c.channel("C1", true, us...)
	s := c.edge(c.gateway("gw"), 1).open(us[1], nil)
	s.live("C1")
	// As after a crash between the directory and the channel's log.
	if _, err := c.cached.RemoveMember(c.ctx(), place, "C1", us[1], us[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	s.see("is out", func() bool { return s.in["C1"] == nil })
	c.say(ref, us[0], "secret")
	s.exactly("C1", 1, 0)
}

func TestGateway_G3_GainedChannelIsFollowedFromTheJoining(t *testing.T) {
	for name, lossy := range map[string]bool{"noticed": false, "notice lost": true} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			us := c.people(2)
			old := c.channel("C0", false, us...)
			ref := c.channel("C1", true, us[0])
			e := c.edge(c.gateway("gw"), 1)
			s := e.open(us[1], nil)
			s.live("C0")
			for i := range 5 {
				c.say(ref, us[0], fmt.Sprint("before", i))
			}
			if lossy {
				c.bus.losing(func(topic string, _ []byte) bool { return strings.HasPrefix(topic, "user:") })
			}
			joined := c.join(ref, us[0], us[1])
			for i := range 5 {
				c.say(ref, us[0], fmt.Sprint("after", i))
			}
			s.live("C1")
			s.reach("C1", c.head(ref))
			s.exactly("C1", joined, c.head(ref))
			if d := s.list(); len(d) != 1 || d[0] != "gained C1 2" {
				t.Fatalf("list %v", d)
			}
			var gained chat.ChannelEvent
			for _, ev := range s.got(chat.TypeChannel) {
				if ev.URev > 0 {
					decode(t, ev.raw, &gained)
				}
			}
			if gained.Channel == nil || gained.Channel.Name != "nC1" || !gained.Channel.Private || gained.Channel.MemberCount != 2 {
				t.Fatalf("gained %+v", gained.Channel)
			}
			// And out, and in again, at once.
			c.bus.losing(nil)
			c.leave(ref, us[1])
			again := c.join(ref, us[0], us[1])
			c.say(ref, us[0], "once more")
			s.see("all is there", func() bool { return s.in["C1"] != nil && s.cursors["C1"] == again+1 })
			s.exactly("C1", joined, again+1)
			c.say(old, us[0], "and the other goes on")
			s.reach("C0", c.head(old))
		})
	}
}

func TestGateway_MovedNamesTheEpoch(t *testing.T) {
	c := newCell(t)
	us := c.people(1)
	c.channel("C1", false, us...)
	e := c.edge(c.gateway("gw"), 1)
	c.open(3, directory.StateOpen)
	late := e.open(us[0], nil) // at epoch 1
	late.see("is told where to", func() bool { return len(e.moved) == 1 })
	want := frame.Moved{Workspace: place.Workspace, Epoch: 3, Cell: "eu-1"}
	if e.moved[0] != want {
		t.Fatalf("moved %+v, want %+v", e.moved[0], want)
	}
	none := e.openAs(us[0], nil, frame.Open{Workspace: "W9", Epoch: 1})
	none.see("is told that it isn't here", func() bool { return len(e.moved) == 2 && e.moved[1].Epoch == 0 })
	stranger := e.openAs("U99", nil, frame.Open{Workspace: place.Workspace, Epoch: 3})
	stranger.see("is refused", func() bool { return stranger.refused != nil && stranger.refused.Kind == problem.Unauthentic })
	// A post after the workspace was closed: one word, and no answer.
	s := e.openAs(us[0], nil, frame.Open{Workspace: place.Workspace, Epoch: 3})
	s.live("C1")
	c.open(4, directory.StateFenced)
	req := uint64(0)
	eventually(t, "the channel server has seen it", func() bool {
		e.mu.Lock()
		n := len(e.moved)
		e.mu.Unlock()
		if n == 2 {
			req++
			s.post(req, "C1", "held")
		}
		return n > 2
	})
	// Ten more are told by the same word. Those before may still be on their way.
	made := make(chan struct{}, 1)
	c.servers.tap(func(t *tappedServers) {
		t.post = func(_ context.Context, p channel.Post) {
			if p.Text == "late" {
				select {
				case made <- struct{}{}:
				default:
				}
			}
		}
	})
	for range 10 {
		eventually(t, "a post reaches the channel server", func() bool {
			req++
			s.post(req, "C1", "late")
			select {
			case <-made:
				return true
			default:
				return false
			}
		})
	}
	last := e.openAs(us[0], nil, frame.Open{Workspace: "W8", Epoch: 1})
	last.see("is told that it isn't here", func() bool { return e.moved[len(e.moved)-1].Workspace == "W8" })
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.moved) != 4 {
		t.Fatalf("the edge was told %d times: %+v", len(e.moved), e.moved)
	}
	if e.moved[2].Epoch != 4 || e.moved[2].Cell != "" {
		t.Fatalf("moved %+v", e.moved[2])
	}
	for _, a := range s.answers {
		if a.Kind == problem.Moved {
			t.Fatalf("answered %+v", a)
		}
	}
}

func TestGateway_DrainWaitsForTheSessions(t *testing.T) {
	c := newCell(t)
	us := c.people(1)
	c.channel("C1", false, us...)
	g := c.gateway("gw")
	e := c.edge(g, 1)
	s := e.open(us[0], nil)
	s.live("C1")
	done := make(chan error, 1)
	go func() { done <- g.Drain(c.ctx()) }()
	s.see("the edge is asked to leave", func() bool { return len(e.draining) == 1 && e.draining[0].AfterMS == 2000 })
	if n := g.Connections(); n != 1 {
		t.Fatalf("%d sessions", n)
	}
	late := e.open(us[0], nil)
	late.see("a late one is refused", func() bool { return late.refused != nil && late.refused.Kind == problem.Unavailable })
	select {
	case err := <-done:
		t.Fatalf("Drain did not wait: %v", err)
	default:
	}
	s.close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// A link that comes now is told at once, and one that stays ends with Run.
	second := c.edge(g, 1)
	other := second.open(us[0], nil)
	other.see("is told to leave", func() bool { return len(second.draining) == 1 })
	g.stop()
	other.see("the link is closed", func() bool { return second.closed })
}

func TestGateway_LaterRunOfAnEdgeEndsTheFormer(t *testing.T) {
	c := newCell(t)
	us := c.people(1)
	c.channel("C1", false, us...)
	g := c.gateway("gw")
	old := c.edge(g, 1)
	s := old.open(us[0], nil)
	s.live("C1")
	c.edge(g, 2)
	s.see("the former link is closed", func() bool { return old.closed })
	eventually(t, "its sessions are gone", func() bool { return g.Connections() == 0 })
}

// An edge is who its certificate says: else one could end another's links.
func TestGateway_AnEdgeIsWhoItsCertificateSays(t *testing.T) {
	c := newCell(t)
	g := c.gateway("gw")
	b, err := c.ca.Issue(pki.Identity{Region: "eu", Role: pki.RoleEdge, Name: "eu-edge-2"}, []string{"127.0.0.1"})
	c.must(err)
	for _, h := range []frame.Hello{{Edge: "eu-edge-1", Region: "eu", Incarnation: 9}, {Edge: "eu-edge-2", Region: "us", Incarnation: 9}} {
		_, _, err := link.Dial(c.ctx(), link.DialConfig{Addr: g.LinkAddr(), TLS: b.Client(pki.RoleGateway), Handler: &edge{tb: t}, Log: quiet(), Hello: h})
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s of %s got %v", h.Edge, h.Region, err)
		}
	}
}
