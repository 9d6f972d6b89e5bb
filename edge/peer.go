package edge

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/frame"
	"parley/regions"
)

// peer is one gateway: its link, and the sessions that are to be opened there.
type peer struct {
	pool    *pool
	wake    chan struct{}
	running bool // guarded by pool.mu

	mu           sync.Mutex
	gateway      regions.Gateway
	wire         *wire // nil: no link
	waiting      []*session
	suspectUntil time.Time
	failures     int
	draining     bool // it said so itself
	drainedRun   topology.Incarnation
	idleSince    time.Time
}

const (
	// dialMax bounds one try to connect a link.
	dialMax = 3 * time.Second
	// suspectMin and suspectMax: how long a gateway is left alone after a
	// failure, doubling from one to the other.
	suspectMin = 100 * time.Millisecond
	suspectMax = 5 * time.Second
	// steadyAfter is how long a link has to live for its end to count as the first.
	steadyAfter = 5 * time.Second
	// probeEvery is how often a gateway that was lost is looked at: it is given
	// sessions again when it has answered, or when there is no other.
	probeEvery = 250 * time.Millisecond
	// openBatch is how many sessions are opened in one go.
	openBatch = 256
	// idleMax is how long a link without sessions is kept.
	idleMax = 2 * time.Minute
)

func (q *peer) update(g regions.Gateway) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gateway.Incarnation != g.Incarnation { // a new process deserves a new try
		q.failures, q.suspectUntil, q.draining = 0, time.Time{}, false
	}
	q.gateway = g
}

func (q *peer) avoided(g regions.Gateway, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g.Incarnation != q.gateway.Incarnation {
		return false
	}
	return now.Before(q.suspectUntil) || q.draining || q.onProbation()
}

// onProbation reports whether the gateway was lost and has not answered since:
// whoever waited for it would wait for a dial to a dead host. The caller holds q.mu.
func (q *peer) onProbation() bool { return q.wire == nil && q.failures > 0 }

// probe connects to a gateway that was lost, if it is due and still listed.
func (q *peer) probe(ctx context.Context) {
	q.mu.Lock()
	due := q.onProbation() && !q.draining && time.Now().After(q.suspectUntil)
	g := q.gateway
	q.mu.Unlock()
	if due && slices.ContainsFunc(q.pool.routes.gateways(g.Cell), func(o regions.Gateway) bool { return o.ID == g.ID }) {
		q.connect(ctx)
	}
}

func (q *peer) suspect(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return now.Before(q.suspectUntil)
}

// enqueue makes a session wait for its opening here.
func (q *peer) enqueue(s *session) {
	q.mu.Lock()
	q.waiting = append(q.waiting, s)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// fail leaves the gateway alone for a while. The caller holds q.mu.
func (q *peer) fail() {
	pause := min(suspectMin<<min(q.failures, 10), suspectMax)
	q.failures++
	q.suspectUntil = time.Now().Add(pause/2 + rand.N(pause))
}

func (q *peer) lost(w *wire) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wire != w {
		return
	}
	q.wire = nil
	if w.drained.Load() {
		return // it said so before
	}
	if time.Since(w.began) > steadyAfter {
		q.failures = 0
	}
	q.fail()
}

// run connects when somebody waits, and opens those at the configured pace.
func (q *peer) run(ctx context.Context) {
	idle := time.NewTicker(idleMax / 4)
	defer idle.Stop()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	defer q.hangUp()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-probe.C:
			q.probe(ctx)
			continue
		case <-idle.C:
			q.closeIdle()
			continue
		}
		for q.turn(ctx) {
			pace := time.Duration(openBatch) * time.Second / time.Duration(q.pool.cfg.RehomePerS)
			pause := time.NewTimer(pace/2 + rand.N(pace))
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
		}
	}
}

// hangUp closes the link at the end.
func (q *peer) hangUp() {
	q.mu.Lock()
	w := q.wire
	q.mu.Unlock()
	if w != nil {
		w.conn.Close(nil)
		w.conn.Wait()
	}
}

// turn opens one batch; more says that others wait.
func (q *peer) turn(ctx context.Context) (more bool) {
	q.mu.Lock()
	n := min(len(q.waiting), openBatch)
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	more = len(q.waiting) > 0
	w := q.wire
	q.mu.Unlock()
	if n == 0 {
		return false
	}
	if w == nil {
		if w = q.connect(ctx); w == nil {
			q.mu.Lock()
			batch = append(batch, q.waiting...)
			q.waiting = nil
			q.mu.Unlock()
			for _, s := range batch {
				q.pool.home(s)
			}
			return false
		}
	}
	w.openAll(batch)
	return more
}

func (q *peer) connect(ctx context.Context) *wire {
	q.mu.Lock()
	w := newWire(q)
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	p := q.pool
	conn, welcome, err := link.Dial(ctx, link.DialConfig{
		Addr: w.gateway.LinkAddr, TLS: p.identity.Client(pki.RoleGateway, pki.RoleCell), Handler: w, Log: p.log,
		Hello:    frame.Hello{Edge: p.cfg.ID, Region: p.cfg.Region, Incarnation: p.cfg.Incarnation},
		ResetKey: p.cfg.ResetKey, Liveness: p.cfg.Liveness, Net: p.cfg.Net,
	})
	if err == nil && welcome.Cell != w.gateway.Cell { // the address has another tenant now
		w.abandoned = true
		close(w.ready)
		err = problem.New(problem.Conflict, "a gateway of cell %s answers there", welcome.Cell)
		conn.Close(err)
	}
	q.mu.Lock()
	if err != nil {
		q.fail()
		q.mu.Unlock()
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			p.log.Warn("a gateway can't be reached", "gateway", string(w.gateway.ID), "addr", w.gateway.LinkAddr, "err", err)
		}
		return nil
	}
	w.conn, w.incarnation = conn, welcome.Incarnation
	q.wire = w
	if q.draining && q.drainedRun != welcome.Incarnation {
		q.draining = false // a new process
	}
	q.mu.Unlock()
	p.metrics.links.Inc()
	close(w.ready)
	p.log.Info("a link is up", "gateway", string(welcome.Gateway), "cell", string(welcome.Cell), "addr", w.gateway.LinkAddr)
	return w
}

// closeIdle ends a link that nobody has used for a while.
func (q *peer) closeIdle() {
	q.mu.Lock()
	w := q.wire
	q.mu.Unlock()
	if w == nil {
		return
	}
	w.mu.Lock()
	empty := len(w.attachments) == 0
	w.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !empty || len(q.waiting) > 0:
		q.idleSince = time.Time{}
	case q.idleSince.IsZero():
		q.idleSince = time.Now()
	case time.Since(q.idleSince) > idleMax:
		q.idleSince = time.Time{}
		w.conn.Close(nil)
	}
}

// drainingNow moves a gateway's sessions elsewhere, spread over the time it
// gives.
func (q *peer) drainingNow(w *wire, within time.Duration) {
	q.mu.Lock()
	q.draining, q.drainedRun = true, w.incarnation
	again := w.drained.Swap(true)
	q.mu.Unlock()
	p := q.pool
	p.mu.Lock()
	ctx := p.ctx
	p.mu.Unlock()
	if again || ctx == nil {
		return
	}
	p.log.Info("a gateway drains", "gateway", string(w.gateway.ID), "dur", within)
	p.work.Go(func() { p.moveAway(ctx, w, within*3/4) })
}

// moveSteps is in how many portions a drained gateway's sessions go.
const moveSteps = 50

func (p *pool) moveAway(ctx context.Context, w *wire, within time.Duration) {
	tick := time.NewTicker(max(within/moveSteps, time.Millisecond))
	defer tick.Stop()
	for left := moveSteps; ; left = max(left-1, 1) {
		as := w.all()
		if len(as) == 0 && left == 1 {
			return // the gateway closes the link
		}
		for _, a := range as[:(len(as)+left-1)/left] {
			p.move(a, true)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.conn.Done():
			return
		case <-tick.C:
		}
	}
}
