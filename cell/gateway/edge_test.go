package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// edge is the other end of a link: it follows the clauses of package frame and
// notes every breach of them.
type edge struct {
	tb   testing.TB
	conn *link.Conn

	mu       sync.Mutex
	sessions map[topology.SessionID]*client
	groups   map[frame.GroupID]*group
	moved    []frame.Moved
	draining []frame.Draining
	closed   bool
	faults   []string
	nextID   topology.SessionID
}

type group struct {
	channel topology.ChannelID
	rev     topology.Rev
	members map[*client]bool
}

// client is one session at the edge.
type client struct {
	e    *edge
	id   topology.SessionID
	user topology.UserID

	// All below is guarded by e.mu.
	opened  bool
	hello   chat.Hello
	cursors map[topology.ChannelID]topology.Rev // what the edge would resume from
	in      map[topology.ChannelID]*group
	joined  map[topology.ChannelID]topology.Rev   // where the last Join was
	revs    map[topology.ChannelID][]topology.Rev // of events that arrived, in order
	events  []event
	passed  []topology.ChannelID // cursors that were passed over
	answers map[uint64]frame.AnswerBody
	order   []uint64 // of answers
	refused *frame.Refused
}

type event struct {
	chat.Envelope
	raw   []byte
	group bool
}

func (c *cell) edge(g *running, run topology.Incarnation) *edge {
	c.tb.Helper()
	b, err := c.ca.Issue(pki.Identity{Region: "eu", Role: pki.RoleEdge, Name: "eu-edge-1"}, []string{"127.0.0.1"})
	c.must(err)
	e := &edge{tb: c.tb, sessions: map[topology.SessionID]*client{}, groups: map[frame.GroupID]*group{}}
	conn, _, err := link.Dial(c.ctx(), link.DialConfig{
		Addr: g.LinkAddr(), TLS: b.Client(pki.RoleGateway), Handler: e, Log: quiet(),
		Hello: frame.Hello{Edge: "eu-edge-1", Region: "eu", Incarnation: run},
	})
	c.must(err)
	e.conn = conn
	c.tb.Cleanup(func() {
		e.conn.Close(nil)
		e.conn.Wait()
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, f := range e.faults {
			c.tb.Error("the edge saw:", f)
		}
	})
	return e
}

func (e *edge) fault(format string, args ...any) {
	if len(e.faults) < 10 {
		e.faults = append(e.faults, fmt.Sprintf(format, args...))
	}
}

func (e *edge) Closed(*link.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
}

func (e *edge) Frames(_ *link.Conn, lane int, fs []frame.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range fs {
		if lane == frame.Control {
			e.control(f)
		} else {
			e.onLane(lane, f)
		}
	}
}

func (e *edge) control(f frame.Frame) {
	switch f := f.(type) {
	case frame.Opened:
		if c := e.sessions[f.Session]; c != nil {
			c.opened = true
			if err := json.Unmarshal(f.Payload, &c.hello); err != nil {
				e.fault("hello: %v", err)
			}
		}
	case frame.Refused:
		if c := e.sessions[f.Session]; c != nil {
			c.refused = &f
		}
	case frame.Moved:
		e.moved = append(e.moved, f)
	case frame.Draining:
		e.draining = append(e.draining, f)
	default:
		e.fault("%s on the control lane", frame.Name(f))
	}
}

func (e *edge) onLane(lane int, f frame.Frame) {
	switch f := f.(type) {
	case frame.GroupOpen:
		e.groups[f.Group] = &group{channel: f.Channel, rev: f.Rev, members: map[*client]bool{}}
		e.rightLane(lane, string(f.Channel))
	case frame.Join:
		e.join(f)
	case frame.Leave:
		g := e.groups[f.Group]
		for _, id := range f.Sessions {
			if c := e.sessions[id]; c != nil {
				delete(g.members, c)
				delete(c.in, g.channel)
				delete(c.cursors, g.channel)
			}
		}
	case frame.GroupFrame:
		e.groupFrame(lane, f)
	case frame.GroupClose:
		if len(e.groups[f.Group].members) > 0 {
			e.fault("a group with members is closed")
		}
		delete(e.groups, f.Group)
	case frame.SessionFrame:
		e.sessionFrame(lane, f)
	case frame.Answer:
		if c := e.sessions[f.Session]; c != nil {
			if _, again := c.answers[f.Req]; again {
				e.fault("request %d is answered twice", f.Req)
			}
			c.answers[f.Req] = f.Body
			c.order = append(c.order, f.Req)
		}
	default:
		e.fault("%s on lane %d", frame.Name(f), lane)
	}
}

func (e *edge) rightLane(lane int, id string) {
	if lane != frame.LaneOf(id) {
		e.fault("a frame about %s is on lane %d", id, lane)
	}
}

// join is C6: who joins is where the group is.
func (e *edge) join(f frame.Join) {
	g := e.groups[f.Group]
	if f.Rev != g.rev {
		e.fault("a join at %d to a group at %d", f.Rev, g.rev)
	}
	for _, id := range f.Sessions {
		c := e.sessions[id]
		if c == nil {
			continue
		}
		if at, ok := c.cursors[g.channel]; ok && at != f.Rev {
			e.fault("session %d joins %s at %d, but has had up to %d", id, g.channel, f.Rev, at)
		}
		if c.in[g.channel] != nil {
			e.fault("session %d is in %s already", id, g.channel)
		}
		c.cursors[g.channel], c.joined[g.channel], c.in[g.channel] = f.Rev, f.Rev, g
		g.members[c] = true
	}
}

func (e *edge) groupFrame(lane int, f frame.GroupFrame) {
	g := e.groups[f.Group]
	e.rightLane(lane, string(g.channel))
	if f.To > 0 {
		if f.From != g.rev+1 {
			e.fault("%s jumps from %d to %d", g.channel, g.rev, f.From)
		}
		g.rev = f.To
	}
	for c := range g.members {
		if f.To > 0 {
			c.cursors[g.channel] = f.To
		}
		c.take(f.Payload, true)
	}
}

func (e *edge) sessionFrame(lane int, f frame.SessionFrame) {
	c := e.sessions[f.Session]
	if c == nil {
		return
	}
	if f.Channel == "" || f.Channel == chat.UserCursor {
		e.rightLane(lane, string(c.user))
	} else {
		e.rightLane(lane, string(f.Channel))
	}
	if f.Channel != "" && f.To > 0 {
		if at, ok := c.cursors[f.Channel]; ok && f.From > 0 && f.From <= at {
			e.fault("session %d: catch-up of %s goes from %d to %d", f.Session, f.Channel, at, f.From)
		}
		c.cursors[f.Channel] = f.To
	}
	if f.Channel != "" && f.Channel != chat.UserCursor && f.From == 0 && f.To == 0 { // C8
		delete(c.cursors, f.Channel)
		c.passed = append(c.passed, f.Channel)
	}
	if len(f.Payload) > 0 {
		c.take(f.Payload, false)
	}
}

func (c *client) take(payload []byte, byGroup bool) {
	ev := event{raw: payload, group: byGroup}
	if err := json.Unmarshal(payload, &ev.Envelope); err != nil {
		c.e.fault("an event that is not JSON: %v", err)
		return
	}
	c.events = append(c.events, ev)
	if ev.Rev > 0 && (ev.Type == chat.TypeMessage || ev.Type == chat.TypeChannel) {
		c.revs[ev.ChannelID] = append(c.revs[ev.ChannelID], ev.Rev)
	}
}

func (e *edge) send(lane int, fs ...frame.Frame) {
	if err := e.conn.Send(lane, fs...); err != nil && e.conn.Err() == nil {
		e.tb.Error(err)
	}
	e.conn.Flush()
}

// open opens a session. cursors are those of a resume; nil starts at now.
func (e *edge) open(u topology.UserID, cursors map[topology.ChannelID]topology.Rev) *client {
	return e.openAs(u, cursors, frame.Open{Workspace: place.Workspace, Epoch: 1, ResumeExpected: cursors != nil})
}

func (e *edge) openAs(u topology.UserID, cursors map[topology.ChannelID]topology.Rev, f frame.Open) *client {
	e.mu.Lock()
	e.nextID++
	c := &client{
		e: e, id: e.nextID, user: u, cursors: map[topology.ChannelID]topology.Rev{}, in: map[topology.ChannelID]*group{},
		joined: map[topology.ChannelID]topology.Rev{}, revs: map[topology.ChannelID][]topology.Rev{}, answers: map[uint64]frame.AnswerBody{},
	}
	maps.Copy(c.cursors, cursors)
	e.sessions[c.id] = c
	e.mu.Unlock()
	f.Session, f.User = c.id, u
	fs := []frame.Frame{f}
	if cursors != nil {
		r := frame.Resume{Session: c.id, Last: true}
		for ch, rev := range cursors {
			r.Cursors = append(r.Cursors, frame.Cursor{Channel: ch, Rev: rev})
		}
		fs = append(fs, r)
	}
	e.send(frame.Control, fs...)
	return c
}

// close ends a session and tells from where it would go on.
func (c *client) close() map[topology.ChannelID]topology.Rev {
	c.e.mu.Lock()
	delete(c.e.sessions, c.id)
	for _, g := range c.in {
		delete(g.members, c)
	}
	cursors := maps.Clone(c.cursors)
	c.e.mu.Unlock()
	c.e.send(frame.Control, frame.Close{Session: c.id})
	return cursors
}

// see waits until ok holds of the client.
func (c *client) see(what string, ok func() bool) {
	c.e.tb.Helper()
	eventually(c.e.tb, what, func() bool {
		c.e.mu.Lock()
		defer c.e.mu.Unlock()
		return ok()
	})
}

func (c *client) at(ch topology.ChannelID) topology.Rev {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	return c.cursors[ch]
}

// live waits until the client follows a channel.
func (c *client) live(ch topology.ChannelID) {
	c.e.tb.Helper()
	c.see(fmt.Sprintf("%s follows %s", c.user, ch), func() bool { return c.in[ch] != nil })
}

// reach waits until the client has had a channel up to a rev.
func (c *client) reach(ch topology.ChannelID, rev topology.Rev) {
	c.e.tb.Helper()
	c.see(fmt.Sprintf("%s has %s up to %d", c.user, ch, rev), func() bool { return c.cursors[ch] >= rev })
}

// exactly checks that the client got from … to of a channel, each once, in order.
func (c *client) exactly(ch topology.ChannelID, from, to topology.Rev) {
	c.e.tb.Helper()
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	var want []topology.Rev
	for r := from; r <= to; r++ {
		want = append(want, r)
	}
	if got := c.revs[ch]; !slices.Equal(got, want) {
		c.e.tb.Errorf("%s got %v of %s, want %d … %d", c.user, got, ch, from, to)
	}
}

// got are the client's events of a type.
func (c *client) got(kind string) []event {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	var out []event
	for _, ev := range c.events {
		if ev.Type == kind {
			out = append(out, ev)
		}
	}
	return out
}

// list are the client's changes of its list of channels: what and which.
func (c *client) list() []string {
	var out []string
	for _, ev := range c.got(chat.TypeChannel) {
		var e chat.ChannelEvent
		if json.Unmarshal(ev.raw, &e) == nil && e.URev > 0 {
			out = append(out, fmt.Sprintf("%s %s %d", e.Event, e.ChannelID, e.URev))
		}
	}
	return out
}
