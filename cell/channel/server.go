package channel

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/msglog"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Server is one channel server, a Peer: its methods take and give values only, so
// that a network may come between it and the Cluster that calls it.
//
// Lock order: Server.mu, shard.mu, room.mu, Cluster.mu; rolls.mu last of all. No lock
// is held during a call to a store, the directory or the bus.
type Server struct {
	cfg     Config
	deps    Deps
	now     func() time.Time
	log     *slog.Logger
	checks  *checks
	quotas  *quotas
	metrics *metrics
	peers   atomic.Pointer[Cluster]

	held  [topology.Shards]atomic.Pointer[shard]
	wake  chan struct{} // compare ownership now
	tidy  chan struct{} // evict now
	moved signal        // a shard was taken or left
	eased signal        // derived work was done
	rooms atomic.Int64  // open channels
	dead  atomic.Bool   // fell dead in a drill: it tells nobody

	rollsWanted chan rollWanted

	telling sync.Mutex // held while beacons are sent; taken before all others

	mu       sync.Mutex
	life     *life // nil before Run
	fences   *msglog.Log
	draining bool
	freed    map[topology.Shard]topology.Token // handed over to this server by a peer
}

// life is one Run: the goroutines that it has to wait for.
type life struct {
	ctx   context.Context //nolint:containedctx // Run's: what is done for many callers must not end with one of them
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// spawn starts fn unless the run has ended.
func (l *life) spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.wg.Go(fn)
	return true
}

func (l *life) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.wg.Wait()
}

// New checks its arguments and touches nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := deps.validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Server{
		cfg: cfg, deps: deps, now: deps.Now, log: deps.Logger.With("server", cfg.ID), metrics: newMetrics(cfg.ID),
		checks: newChecks(deps.Directory, cfg.CheckTTL, deps.Now), quotas: newQuotas(cfg.PostsPerS, cfg.PostsBurst),
		wake: make(chan struct{}, 1), tidy: make(chan struct{}, 1),
		freed: map[topology.Shard]topology.Token{}, rollsWanted: make(chan rollWanted, rollQueue),
	}
	if deps.Peers != nil {
		s.peers.Store(deps.Peers)
	}
	return s, nil
}

// ID is the server's id.
func (s *Server) ID() topology.ServerID { return s.cfg.ID }

// Run takes and serves shards until ctx ends; then it stops at once, as after a
// kill: other servers take its shards over. Call Drain first to hand them over.
// It is called once, and has stopped every goroutine when it returns.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &life{ctx: ctx}
	s.mu.Lock()
	if s.life != nil {
		s.mu.Unlock()
		return problem.New(problem.Internal, "the channel server ran already")
	}
	s.life, s.fences = l, msglog.NewLog(s.deps.Log, s.cfg.ID)
	s.mu.Unlock()
	if err := s.metrics.register(s.deps.Metrics); err != nil {
		return problem.Wrap(err, problem.Internal, "the channel server's metrics can't be registered")
	}
	defer s.metrics.unregister(s.deps.Metrics)
	if c := s.peers.Load(); c != nil {
		c.Add(s)
	}
	l.spawn(func() { s.follow(ctx, ready) })
	l.spawn(func() { s.beaconLoop(ctx) })
	l.spawn(func() { s.tidyLoop(ctx) })
	l.spawn(func() { s.loadRolls(ctx) })
	<-ctx.Done()
	s.dead.Store(failpoint.Crashed(ctx))
	s.closeAll()
	l.end()
	s.closeAll() // what was being taken meanwhile
	if c := s.peers.Load(); c != nil && !s.dead.Load() {
		c.wakeAll()
	}
	return nil
}

func (s *Server) closeAll() {
	for i := range s.held {
		if sh := s.held[i].Load(); sh != nil {
			sh.close("stopped")
		}
	}
}

// running gives the run, or nil before and after it.
func (s *Server) running() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil || s.life.ctx.Err() != nil {
		return nil
	}
	return s.life
}

// Drain hands every shard over to the others and takes none any more. Call it
// before ending Run's ctx; it may be called once. It returns when the last
// shard is handed over, or ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for {
		moved := s.moved.next()
		if s.running() == nil || s.holds() == 0 {
			return nil
		}
		s.Wake()
		select {
		case <-moved:
		case <-ctx.Done():
			return problem.Wrap(ctx.Err(), problem.Unavailable, "the channel server still holds %d shards", s.holds())
		}
	}
}

// Status is what a server says of itself.
type Status struct {
	Draining bool // hands its shards over and wants none
}

// Ping answers while the server runs.
func (s *Server) Ping(ctx context.Context) (Status, error) {
	if err := failpoint.At(ctx, failpoint.ChannelPing, string(s.cfg.ID)); err != nil {
		return Status{}, err
	}
	if s.running() == nil {
		return Status{}, problem.New(problem.Unavailable, "the channel server does not run")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Draining: s.draining}, nil
}

// Wake makes the server compare what it holds with what it should hold, soon.
func (s *Server) Wake() {
	select {
	case s.wake <- struct{}{}:
	default: // it will, already
	}
}

// Free tells the server that a peer has stopped writing to shards, each at its
// token, and leaves them to it.
func (s *Server) Free(_ context.Context, shards map[topology.Shard]topology.Token) {
	s.mu.Lock()
	for sh, t := range shards {
		s.freed[sh] = max(s.freed[sh], t)
	}
	s.mu.Unlock()
	s.Wake()
}

// holds is how many shards the server holds.
func (s *Server) holds() int {
	n := 0
	for i := range s.held {
		if s.held[i].Load() != nil {
			n++
		}
	}
	return n
}

// lag is how many confirmed changes are not derived yet, and what they take in
// memory.
func (s *Server) lag() (changes, bytes int64) {
	for i := range s.held {
		if sh := s.held[i].Load(); sh != nil {
			changes += sh.lag.Load()
			bytes += sh.heavy.Load()
		}
	}
	return changes, bytes
}

// unemitted is how many derived changes the event log lacks.
func (s *Server) unemitted() (changes int64) {
	for i := range s.held {
		if sh := s.held[i].Load(); sh != nil {
			changes += sh.unemitted.Load()
		}
	}
	return changes
}

// owned is the shard of a channel, or kind NotOwner.
func (s *Server) owned(ch topology.ChannelRef) (*shard, error) {
	if sh := s.held[ch.Shard()].Load(); sh != nil {
		return sh, nil
	}
	return nil, notOwner(ch.Shard())
}

func notOwner(id topology.Shard) error {
	return problem.New(problem.NotOwner, "another channel server owns shard %d", id)
}
