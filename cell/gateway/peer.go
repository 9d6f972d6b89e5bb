package gateway

import (
	"sync"
	"sync/atomic"

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
	conn   atomic.Pointer[link.Conn] // set by the first Frames
	groups atomic.Uint64             // ids given out

	mu       sync.Mutex
	sessions map[topology.SessionID]*session
	dead     bool
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
	p.conn.Store(c)
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
	full := g.sessions >= g.cfg.SessionsMax
	if !full {
		g.sessions++
	}
	g.mu.Unlock()
	if full {
		p.send(frame.Control, frame.Refused{Session: f.Session, Kind: problem.Exhausted, Detail: "the gateway is full", RetryMS: retryMS})
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
