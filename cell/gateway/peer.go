package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"parley/internal/link"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/frame"
)

// peer is one link of an edge: what was said on it counts for it alone. It is the
// link's Handler.
type peer struct {
	g      *Gateway
	edge   topology.EdgeID
	run    topology.Incarnation
	conn   atomic.Pointer[link.Conn]      // set by the first Frames
	groups atomic.Uint64                  // ids given out
	opens  atomic.Uint64                  // sessions opened, ever
	turns  [frame.Lanes + 1]chan struct{} // each holds who adds catch-up to a lane

	mu       sync.Mutex
	sessions map[topology.SessionID]*session
	moved    map[topology.WorkspaceID]uint64 // opens when the edge was last told so
	dead     bool
}

func newPeer(g *Gateway, h frame.Hello) *peer {
	p := &peer{
		g: g, edge: h.Edge, run: h.Incarnation, sessions: map[topology.SessionID]*session{}, moved: map[topology.WorkspaceID]uint64{},
	}
	for i := range p.turns {
		p.turns[i] = make(chan struct{}, 1)
	}
	return p
}

// end closes the link, if it has begun; else it ends by its own liveness.
func (p *peer) end(why error) {
	if c := p.conn.Load(); c != nil {
		c.Close(why)
	}
}

func (p *peer) askToLeave() {
	p.send(frame.Control, frame.Draining{AfterMS: uint64(p.g.cfg.DrainAfter.Milliseconds())}) //nolint:gosec // positive
	p.flush()
}

// Bounds of what catch-up leaves pending on a lane before it waits: an eighth of
// what closes the link, so that several at once and live events find room.
const (
	roomBytesMax = link.LaneBytesMax / 8
	roomLook     = 5 * time.Millisecond
)

// enter waits until a lane can take more catch-up, and keeps others from adding
// theirs until release (G4). It comes before a follower's mu in the lock order.
func (p *peer) enter(ctx context.Context, lane int) (release func(), err error) {
	turn := p.turns[lane]
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := p.room(ctx, lane); err != nil {
		<-turn
		return nil, err
	}
	return func() { <-turn }, nil
}

func (p *peer) room(ctx context.Context, lane int) error {
	c := p.conn.Load()
	if c == nil || c.Pending(lane) < roomBytesMax {
		return ctx.Err()
	}
	c.Flush()
	t := time.NewTicker(roomLook)
	defer t.Stop()
	for c.Pending(lane) >= roomBytesMax {
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// movedMax bounds what is remembered about workspaces that are elsewhere.
const movedMax = 10_000

// tellMoved tells the edge that a session's workspace is not served here, unless
// it was told so after it opened the session: one word is for all sessions.
func (p *peer) tellMoved(s *session, f frame.Moved) {
	p.mu.Lock()
	told := p.moved[f.Workspace] >= s.number
	if !told {
		if len(p.moved) >= movedMax {
			clear(p.moved)
		}
		p.moved[f.Workspace] = p.opens.Load()
	}
	p.mu.Unlock()
	if !told {
		p.send(frame.Control, f)
		p.flush()
	}
}

// send queues frames; a link that has ended is noticed by its Closed.
func (p *peer) send(lane int, fs ...frame.Frame) {
	c := p.conn.Load()
	if c == nil {
		return
	}
	if err := c.Send(lane, fs...); err != nil && c.Err() == nil {
		p.g.log.Warn("a frame could not be sent", "edge", string(p.edge), "err", err)
	}
}

func (p *peer) flush() {
	if c := p.conn.Load(); c != nil {
		c.Flush()
	}
}

func (p *peer) find(id topology.SessionID) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[id]
}

// Frames implements link.Handler. It never blocks: what takes time runs in work
// of the session's.
func (p *peer) Frames(c *link.Conn, lane int, fs []frame.Frame) {
	if p.conn.Swap(c) == nil {
		p.g.add(p)
		if p.g.isDraining() {
			p.askToLeave()
		}
	}
	for _, f := range fs {
		if !p.take(f) {
			c.Close(problem.New(problem.Invalid, "%s on lane %d is not an edge's to send", frame.Name(f), lane))
			return
		}
	}
	p.flush()
}

func (p *peer) take(f frame.Frame) bool {
	switch f := f.(type) {
	case frame.Open:
		p.open(f)
	case frame.Resume:
		if s := p.find(f.Session); s != nil {
			s.resume(f.Cursors, f.Last)
		}
	case frame.ResumeGroup:
		for _, id := range f.Sessions {
			if s := p.find(id); s != nil {
				s.resume([]frame.Cursor{{Channel: f.Channel, Rev: f.Rev}}, false)
			}
		}
	case frame.Close:
		if s := p.find(f.Session); s != nil {
			s.close()
		}
	case frame.Activity:
		if s := p.find(f.Session); s != nil {
			s.activity(f.Active)
		}
	case frame.Post:
		if s := p.find(f.Session); s != nil {
			s.post(f)
		}
	case frame.MarkRead:
		if s := p.find(f.Session); s != nil {
			s.markRead(f)
		}
	case frame.Typing:
		if s := p.find(f.Session); s != nil {
			s.typing(f.Channel)
		}
	default:
		return false
	}
	return true
}

// open begins a session. One with an id that is in use is a fault of the edge's:
// the new one wins, as after a Close.
func (p *peer) open(f frame.Open) {
	if old := p.find(f.Session); old != nil {
		old.close()
	}
	s := newSession(p, f)
	g := p.g
	g.mu.Lock()
	full, draining := g.sessions >= g.cfg.SessionsMax, g.draining
	if !full && !draining {
		g.sessions++
	}
	g.mu.Unlock()
	if full || draining {
		r := frame.Refused{Session: f.Session, Kind: problem.Exhausted, Detail: "the gateway is full", RetryMS: retryMS}
		if draining {
			r.Kind, r.Detail = problem.Unavailable, "the gateway stops"
		}
		p.send(frame.Control, r)
		return
	}
	g.metrics.sessions.Inc()
	p.mu.Lock()
	dead := p.dead
	p.sessions[f.Session] = s
	p.mu.Unlock()
	if dead {
		s.close()
		return
	}
	g.spawn(s.begin)
}

// retryMS is when an edge should try a refused session again.
const retryMS = 1000

// Closed implements link.Handler: all the link's sessions have ended here.
func (p *peer) Closed(_ *link.Conn, err error) {
	p.mu.Lock()
	p.dead = true
	all := make([]*session, 0, len(p.sessions))
	for _, s := range p.sessions {
		all = append(all, s)
	}
	p.mu.Unlock()
	for _, s := range all {
		s.close()
	}
	p.g.mu.Lock()
	delete(p.g.peers, p)
	p.g.mu.Unlock()
	p.g.log.Info("link ended", "edge", string(p.edge), "sessions", len(all), "err", err)
}
