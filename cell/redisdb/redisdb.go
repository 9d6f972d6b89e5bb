// Package redisdb keeps on Redis what a cell of several processes shares and what
// may be lost with it: the router, presence, and read state, which is filled
// again from a journal. It works on a plain server, on one that sentinels watch
// and on a cluster. All of the client library's types stay in here.
package redisdb

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"parley/cell/presence"
	"parley/cell/readstate"
	"parley/cell/router"
	"parley/internal/problem"
)

// Deps is what a DB works on.
type Deps struct {
	// Name is the process's own in its cell, the same after a restart: the journal
	// has one key per mark and process. Needed with a Journal.
	Name string
	// Journal keeps read state safe; nil = the process has no read state.
	Journal readstate.Journal
	Log     *slog.Logger          // nil = none
	Metrics prometheus.Registerer // nil = none
}

// DB is a cell's Redis. Its parts may be used by many goroutines at once.
type DB struct {
	access  access
	mode    string
	log     *slog.Logger
	metrics *metrics
	client  redis.UniversalClient // for commands by key
	layout  atomic.Pointer[layout]
	doubted chan struct{} // holds one: the layout is to be looked at

	ctx    context.Context //nolint:containedctx // ends with Close, for work that calls start
	cancel context.CancelFunc
	work   sync.WaitGroup

	bus      *Bus
	presence *presenceStore
	reads    *readStateStore // nil without a journal
}

// Open checks the servers as Check does, connects and serves. Read state may be
// Unavailable at first, until it has been filled from the journal.
func Open(ctx context.Context, cfg Config, deps Deps) (*DB, error) {
	if deps.Journal != nil && deps.Name == "" {
		return nil, problem.New(problem.Invalid, "a process with a journal must have a name")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	a, err := cfg.access()
	if err != nil {
		return nil, err
	}
	mode, l, err := a.check(ctx)
	if err != nil {
		return nil, err
	}
	d := &DB{access: a, mode: mode, log: deps.Log, doubted: make(chan struct{}, 1)}
	if d.metrics, err = newMetrics(deps.Metrics); err != nil {
		return nil, err
	}
	d.client = a.client(mode)
	d.layout.Store(l)
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	d.bus, d.presence = newBus(d), newPresence(d)
	d.bus.start(l)
	d.work.Go(func() { d.watchLayout(d.ctx) })
	if deps.Journal != nil {
		d.reads = newReadState(d, deps)
		d.reads.start()
	}
	if !d.bus.ready(dialMax + answerMax) {
		return nil, errors.Join(problem.New(problem.Unavailable, "redis: topics can't be subscribed to at %v", l.nodes), d.Close())
	}
	return d, nil
}

// Close ends all work. The parts must not be in use any more; marks that still wait
// for the journal get a last chance to reach it.
func (d *DB) Close() error {
	d.bus.close()
	d.cancel()
	d.work.Wait()
	if err := d.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return problem.Wrap(err, problem.Internal, "can't close the connections to Redis")
	}
	return nil
}

// Bus is the cell's router.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) Bus() router.Bus { return d.bus }

// Presence is the cell's presence.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) Presence() presence.Store { return d.presence }

// ReadState is the cell's read state, nil without a journal.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) ReadState() readstate.Store {
	if d.reads == nil {
		return nil
	}
	return d.reads
}
