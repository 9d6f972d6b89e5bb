package edge

import (
	"sync"

	"parley/internal/topology"
	"parley/internal/wire/frame"
)

// lane keeps the groups of one lane. Its reader holds mu for a whole batch.
type lane struct {
	mu     sync.Mutex
	groups map[frame.GroupID]*group
}

// group is the sessions here that follow a channel through one gateway.
type group struct {
	lane    *lane
	channel topology.ChannelID
	rev     topology.Rev
	members []member
	joined  []byte // this turn's frames, for all members
	frames  int    // in joined
}

type member struct {
	a *attachment
	c *cursor
}

// groupFrame notes an event for all members; deliver gives it to them. E1: only the next rev may pass; a
// double is dropped, and a jump means that something was lost on the way.
func (w *wire) groupFrame(g *group, f frame.GroupFrame, t *turn) {
	ephemeral := f.From == 0 && f.To == 0
	switch {
	case ephemeral:
	case f.To <= g.rev || f.To < f.From:
		return
	case f.From != g.rev+1:
		w.pool.log.Warn("a group jumped; its sessions are resumed", "gateway", string(w.gateway.ID), "channel", string(g.channel), "rev", uint64(g.rev))
		t.deliver()
		for _, m := range g.empty() {
			t.repair = append(t.repair, m.a)
		}
		g.rev = f.To
		return
	default:
		g.rev = f.To
	}
	if len(g.joined)+headMax+len(f.Payload) > joinBytes {
		t.deliver()
	}
	if g.frames == 0 {
		t.joined = append(t.joined, g)
		g.joined = make([]byte, 0, headMax+len(f.Payload)) // new: those of former turns are still being written
	}
	g.joined = appendFramed(g.joined, opText, f.Payload)
	g.frames++
	w.pool.metrics.delivered.Add(float64(len(g.members)))
}

// deliver gives each group's frames of the turn to its members: joined once, and
// shared by all. The caller holds the lane's mu.
func (t *turn) deliver() {
	for i, g := range t.joined {
		ws := g.joined
		g.joined, g.frames = nil, 0
		for _, m := range g.members {
			if m.a.s.push(ws) {
				t.wake = append(t.wake, m.a.s)
			}
		}
		t.joined[i] = nil
	}
	t.joined = t.joined[:0]
}

// empty takes all members out, each at the group's rev.
func (g *group) empty() []member {
	ms := g.members
	g.members = nil
	for _, m := range ms {
		m.a.s.mu.Lock()
		m.c.rev, m.c.group = g.rev, nil
		m.a.s.mu.Unlock()
	}
	return ms
}

// remove takes one member out. The caller holds the lane's mu and the session's.
func (g *group) remove(c *cursor) {
	last := len(g.members) - 1
	g.members[c.seat] = g.members[last]
	g.members[c.seat].c.seat = c.seat
	g.members[last] = member{}
	g.members = g.members[:last]
	c.rev, c.group = g.rev, nil
}

func (w *wire) join(g *group, f frame.Join, t *turn) {
	if f.Rev > g.rev { // its frames up to here did not come
		for _, m := range g.empty() {
			t.repair = append(t.repair, m.a)
		}
		g.rev = f.Rev
	}
	for _, id := range f.Sessions {
		a := w.find(id)
		if a == nil {
			continue
		}
		if !a.join(g) {
			t.repair = append(t.repair, a)
		}
	}
}

// join puts a session into a group. It must be where the group is: false asks
// for a repair.
func (a *attachment) join(g *group) bool {
	s := a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.att != a {
		return true
	}
	c := s.cursors.find(g.channel)
	switch {
	case c == nil:
		c = &cursor{channel: g.channel, rev: g.rev}
		s.cursors.put(c)
	case c.group != nil:
		return true // a double
	case c.rev != g.rev:
		s.owner.log.Warn("a session joins a group at another rev; it is resumed", "session", s.number,
			"channel", string(g.channel), "rev", uint64(c.rev), "step", uint64(g.rev))
		return false
	}
	s.arrived(g.channel)
	c.channel = g.channel // one string for all members
	c.group, c.seat = g, len(g.members)
	g.members = append(g.members, member{a: a, c: c})
	return true
}

// arrived notes that the client's cursor of a channel is answered. The caller holds
// s.mu.
func (s *session) arrived(ch topology.ChannelID) {
	if delete(s.awaiting, ch); len(s.awaiting) == 0 {
		s.awaiting = nil
	}
}

// leave ends a session's following of a channel: nothing after this rev reaches
// it, and should it come back, that is a new beginning.
func (w *wire) leave(g *group, f frame.Leave) {
	for _, id := range f.Sessions {
		a := w.find(id)
		if a == nil {
			continue
		}
		s := a.s
		s.mu.Lock()
		if c := s.cursors.find(g.channel); s.att == a && c != nil && c.group == g {
			g.remove(c)
			s.cursors.drop(g.channel)
		}
		s.mu.Unlock()
	}
}
