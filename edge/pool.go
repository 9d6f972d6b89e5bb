package edge

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"parley/internal/failpoint"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/internal/wire/frame"
	"parley/regions"
)

// pool is the edge's gateways and the sessions that look for one.
type pool struct {
	cfg      Config
	routes   *table
	identity *pki.Bundle
	metrics  *metrics
	log      *slog.Logger
	sessions atomic.Uint64 // ids of attachments
	flushers *flushers
	work     sync.WaitGroup

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of run; nil before and after: peers are started within it
	peers   map[topology.GatewayID]*peer
	seekers []*session // at no gateway, none wanted them yet
	wake    chan struct{}
}

func newPool(cfg Config, t *table, id *pki.Bundle, m *metrics, log *slog.Logger) *pool {
	return &pool{
		cfg: cfg, routes: t, identity: id, metrics: m, log: log, flushers: newFlushers(),
		peers: map[topology.GatewayID]*peer{}, wake: make(chan struct{}, 1),
	}
}

const (
	// seekEvery is the pause before a session without a gateway asks again: the
	// table may know better by then, or a gateway be back.
	seekEvery = 100 * time.Millisecond
	// repairsMax within repairsWindow: a session that needs more is closed and
	// comes back with its own cursors.
	repairsMax    = 20
	repairsWindow = time.Minute
)

// start lets sessions be homed; run follows.
func (p *pool) start(ctx context.Context) {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
}

// run homes seekers until ctx ends, then closes all links and waits.
func (p *pool) run(ctx context.Context) {
	tick := time.NewTicker(seekEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.stop()
			return
		case <-tick.C:
		case <-p.wake:
		}
		p.mu.Lock()
		ss := p.seekers
		p.seekers = nil
		p.mu.Unlock()
		for _, s := range ss {
			p.home(s)
		}
	}
}

func (p *pool) stop() {
	p.mu.Lock()
	p.ctx = nil
	p.seekers = nil
	p.mu.Unlock()
	p.work.Wait()
}

// tableChanged lets seekers look again at once, and peers that have left go.
func (p *pool) tableChanged() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// home finds a gateway for a session that has none, or makes it wait.
func (p *pool) home(s *session) {
	now := time.Now()
	s.mu.Lock()
	skip, early := s.closed || s.att != nil, now.Before(s.notBefore)
	s.mu.Unlock()
	if skip {
		return
	}
	if early {
		p.seek(s)
		return
	}
	if r, ok := p.routes.Route(s.claims.Workspace); ok {
		ranked := rank(p.routes.gateways(r.Cell), s.claims.User, func(g regions.Gateway) bool { return p.avoid(g, now) })
		if len(ranked) > 0 && !p.suspected(ranked[0], now) {
			p.peerOf(ranked[0]).enqueue(s)
			return
		}
	}
	p.seek(s)
}

// seek makes a session wait for the next look.
func (p *pool) seek(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx != nil {
		p.seekers = append(p.seekers, s)
	}
}

func (p *pool) known(g regions.Gateway) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers[g.ID]
}

func (p *pool) avoid(g regions.Gateway, now time.Time) bool {
	q := p.known(g)
	return q != nil && q.avoided(g, now)
}

// linkEnds is closed when the present link to a gateway ends; nil if there is none.
func (p *pool) linkEnds(g regions.Gateway) <-chan struct{} {
	q := p.known(g)
	if q == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wire == nil {
		return nil
	}
	return q.wire.conn.Done()
}

func (p *pool) suspected(g regions.Gateway, now time.Time) bool {
	q := p.known(g)
	return q != nil && q.suspect(now)
}

// peerOf is the peer of a gateway, made and started if need be.
func (p *pool) peerOf(g regions.Gateway) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.peers[g.ID]
	if q == nil {
		q = &peer{pool: p, wake: make(chan struct{}, 1)}
		p.peers[g.ID] = q
	}
	q.update(g)
	if !q.running && p.ctx != nil {
		q.running = true
		ctx := p.ctx
		p.work.Go(func() { q.run(ctx) })
	}
	return q
}

// detach takes a session from its gateway, with its cursors as they are then.
// tell says that the gateway lives and has to know. It reports false if another
// did it before.
func (p *pool) detach(a *attachment, tell bool) bool {
	s := a.s
	s.mu.Lock()
	if s.att != a {
		s.mu.Unlock()
		return false
	}
	s.att = nil
	if s.homeless.IsZero() {
		s.homeless = time.Now()
	}
	for _, h := range s.held {
		h.here = false
	}
	var in []*cursor
	groups := make([]*group, 0, len(s.cursors))
	for _, c := range s.cursors {
		if c.group != nil {
			in, groups = append(in, c), append(groups, c.group)
		}
	}
	if failpoint.Mutant(failpoint.TrustOldLink) { // it goes on to take what comes from there
		for i, c := range s.cursors {
			s.cursors[i] = &cursor{channel: c.channel, rev: c.rev}
			if c.group != nil {
				s.cursors[i].rev = c.group.rev
			}
		}
		s.mu.Unlock()
		return true
	}
	s.mu.Unlock()
	a.wire.drop(a)
	if tell {
		a.wire.send(frame.Control, frame.Close{Session: a.id})
	}
	for i, c := range in {
		l := groups[i].lane
		l.mu.Lock()
		s.mu.Lock()
		if c.group == groups[i] {
			c.group.remove(c)
		}
		s.mu.Unlock()
		l.mu.Unlock()
	}
	return true
}

// move takes a session from its gateway to the one that the routes name now.
func (p *pool) move(a *attachment, tell bool) {
	if p.detach(a, tell) {
		p.metrics.rehomed.Inc()
		p.home(a.s)
	}
}

// rehome takes a session from a gateway that does not serve it, though the
// routes say so. It goes on after a pause that grows, so that a gateway and a
// table that disagree are not asked in a tight loop.
func (p *pool) rehome(a *attachment) {
	s := a.s
	s.mu.Lock()
	pause := min(seekEvery<<min(s.refusals, 10), suspectMax)
	s.refusals++
	s.notBefore = time.Now().Add(pause/2 + rand.N(pause))
	s.mu.Unlock()
	if p.detach(a, true) {
		p.metrics.rehomed.Inc()
		p.seek(s)
	}
}

// repair resumes a session that missed something on its link.
func (p *pool) repair(a *attachment) {
	s := a.s
	now := time.Now()
	s.mu.Lock()
	if now.Sub(s.repairsAt) > repairsWindow {
		s.repairs, s.repairsAt = 0, now
	}
	s.repairs++
	often := s.repairs > repairsMax
	s.mu.Unlock()
	p.metrics.repaired.Inc()
	if often {
		s.end(closeResume, "repaired too often: connect again and resume")
		return
	}
	if p.detach(a, true) {
		p.home(s)
	}
}

// lost is the end of a link: its sessions go elsewhere.
func (p *pool) lost(w *wire, err error) {
	w.peer.lost(w)
	p.metrics.links.Dec()
	as := w.all()
	p.log.Warn("a link ended", "gateway", string(w.gateway.ID), "err", err, "step", len(as))
	for _, a := range as {
		p.move(a, false)
	}
}
