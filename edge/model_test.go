package edge_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"parley/internal/link"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// room is a channel with a head that rises, served by several model gateways.
type room struct {
	mu   sync.Mutex
	head int
	gws  []*modelGateway
}

// modelGateway does for one channel what a gateway does: catch-up from a cursor,
// then live by group, at exact revs. It is also told to misbehave.
type modelGateway struct {
	*fake
	room   *room
	mu     sync.Mutex
	groups map[*link.Conn]*modelGroup
}

type modelGroup struct {
	open    bool
	members map[topology.SessionID]bool
	cursors map[topology.SessionID]int // given, waiting for Last
}

func (m *modelGateway) Frames(c *link.Conn, _ int, fs []frame.Frame) {
	m.room.mu.Lock() // catch-up and the next message exclude each other
	defer m.room.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.groups[c]
	if g == nil {
		g = &modelGroup{members: map[topology.SessionID]bool{}, cursors: map[topology.SessionID]int{}}
		m.groups[c] = g
	}
	for _, f := range fs {
		m.take(c, g, f)
	}
	c.Flush()
}

func (m *modelGateway) take(c *link.Conn, g *modelGroup, f frame.Frame) {
	switch f := f.(type) {
	case frame.Open:
		h := chat.Encode(chat.Hello{
			Type: chat.TypeHello, UserID: f.User, HeartbeatS: 10,
			Channels: []chat.HelloChannel{{ID: "C1", Rev: topology.Rev(m.room.head)}},
		})
		_ = c.Send(frame.Control, frame.Opened{Session: f.Session, Payload: h})
		if !f.Rehomed {
			m.join(c, g, f.Session, m.room.head)
		}
	case frame.ResumeGroup:
		for _, id := range f.Sessions {
			g.cursors[id] = int(f.Rev)
		}
	case frame.Resume:
		for _, cur := range f.Cursors {
			if cur.Channel == "C1" {
				g.cursors[f.Session] = int(cur.Rev)
			}
		}
		if from, ok := g.cursors[f.Session]; ok && f.Last {
			delete(g.cursors, f.Session)
			m.join(c, g, f.Session, from)
		}
	case frame.Close:
		delete(g.members, f.Session)
	}
}

func (m *modelGateway) join(c *link.Conn, g *modelGroup, id topology.SessionID, from int) {
	lane := frame.LaneOf("C1")
	for rev := from + 1; rev <= m.room.head; rev++ {
		_ = c.Send(lane, frame.SessionFrame{Session: id, Channel: "C1", From: topology.Rev(rev), To: topology.Rev(rev), Payload: event(rev)})
	}
	if !g.open {
		g.open = true
		_ = c.Send(lane, frame.GroupOpen{Group: 1, Workspace: "W1", Channel: "C1", Rev: topology.Rev(m.room.head)})
	}
	_ = c.Send(lane, frame.Join{Group: 1, Rev: topology.Rev(m.room.head), Sessions: []topology.SessionID{id}})
	g.members[id] = true
}

// publish makes one message, with a fault on one link now and then.
func (r *room) publish(fault func() int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head++
	for _, m := range r.gws {
		m.mu.Lock()
		for _, c := range slices.Collect(maps.Keys(m.groups)) {
			g := m.groups[c]
			if c.Err() != nil {
				delete(m.groups, c)
				continue
			}
			if g.open {
				m.deliver(c, fault())
			}
		}
		m.mu.Unlock()
	}
}

func (m *modelGateway) deliver(c *link.Conn, fault int) {
	f := frame.GroupFrame{Group: 1, From: topology.Rev(m.room.head), To: topology.Rev(m.room.head), Payload: event(m.room.head)}
	lane := frame.LaneOf("C1")
	switch fault {
	case 1: // lost
	case 2: // doubled
		_ = c.Send(lane, f, f)
	case 3: // the link dies with it on the way
		_ = c.Send(lane, f)
		c.Flush()
		c.Close(nil)
	case 4:
		_ = c.Send(lane, f)
		_ = c.Send(frame.Control, frame.Draining{AfterMS: 20})
	default:
		_ = c.Send(lane, f)
	}
	c.Flush()
}

// E1 against random faults: lost and doubled frames, dying links. Every client
// gets every change, once, in order.
func TestSession_E1_RandomFaults(t *testing.T) {
	w := newWorld(t)
	r := &room{head: 10}
	for i := range 3 {
		m := &modelGateway{room: r, groups: map[*link.Conn]*modelGroup{}}
		m.fake = w.gatewayWith(t, topology.GatewayID(fmt.Sprint("gw-", i)), "eu-1", m)
		r.gws = append(r.gws, m)
	}
	e := w.edge(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const clients, messages = 24, 400
	var readers sync.WaitGroup
	first := make(chan int, clients)
	for i := range clients {
		s := w.connect(t, e, topology.UserID(fmt.Sprint("U", i)), "")
		readers.Go(func() { readAll(t, s, first, 10+messages) })
	}
	for range clients {
		<-first
	}
	faults := 0
	for i := range messages {
		r.publish(func() int {
			if i > messages-20 || rnd.IntN(40) > 0 || faults >= 30 {
				return 0
			}
			faults++
			return 1 + rnd.IntN(3)
		})
		pause := time.NewTimer(time.Duration(rnd.IntN(4)) * time.Millisecond)
		<-pause.C
	}
	readers.Wait()
	if faults == 0 {
		t.Error("no fault happened: this run shows nothing")
	}
}

func readAll(t *testing.T, s *socket, first chan<- int, last int) {
	t.Helper()
	_ = s.ws.SetReadDeadline(time.Now().Add(6 * patience))
	want := 0
	for want <= last {
		var e struct {
			chat.Envelope
			Channels []chat.HelloChannel `json:"channels"`
		}
		if err := s.ws.ReadJSON(&e); err != nil {
			t.Errorf("before rev %d: %v", want, err)
			if want == 0 {
				first <- 0
			}
			return
		}
		switch {
		case e.Type == chat.TypeHello:
			want = int(e.Channels[0].Rev) + 1
			first <- want
		case e.Type == chat.TypeMessage && int(e.Rev) == want:
			want++
		default:
			t.Errorf("got %+v, want rev %d", e.Envelope, want)
			return
		}
	}
}
