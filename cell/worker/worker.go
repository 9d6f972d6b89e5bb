// Package worker runs what happens after the fact: consumer groups on the cell's
// event log. A worker may be killed anywhere: what it had not committed it gets
// again, so that everything it does has to be repeatable.
package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Config is a consumer group's settings.
type Config struct {
	Group string // its name in the event log: never reuse one
	// Partitions are those that this worker consumes. Two workers of a group with a
	// partition in common do its work twice. Nil = what the event log gives it, if it
	// is an eventlog.Assigner, else all.
	Partitions []topology.Shard
	Batch      int // events handled at once: 1 to 10,000, default 500. More costs memory, less costs calls
	// Active is how many batches are handled side by side, of different
	// partitions: 1 to 128, default 4. More takes the stores' time from the posts.
	Active int
	// CommitEvery is how long a partition's position may wait to be stored while
	// events come: default 1 s. Longer repeats more after a crash; shorter costs
	// a sync of the log each time, which posts wait for, too.
	CommitEvery time.Duration
	// Gather is how long a worker waits for more once there is something to do: 0
	// to 1 s. A batch costs little more than one event; more delays the effect.
	Gather time.Duration
	// RetryMax is the longest pause before a batch that failed is tried again;
	// default 10 s. Pauses begin at 50 ms.
	RetryMax time.Duration
}

// Deps are what a worker needs.
type Deps struct {
	Events eventlog.Log
	// Handle does what a batch of events asks for. The events are of one
	// partition, in order. It is called again with the same ones, and maybe more,
	// after an error or a crash. It may keep the slice.
	Handle func(ctx context.Context, events []eventlog.Event) error
	Log    *slog.Logger // nil = none
}

const (
	batchNormal  = 500
	batchMax     = 10_000
	activeNormal = 4
	commitNormal = time.Second
	retryNormal  = 10 * time.Second
	retryMin     = 50 * time.Millisecond
	// commitMax bounds the events that are handled but not committed: what a
	// crash repeats of a partition in a backlog.
	commitMax = 10_000
	// handleMax is how long one batch may take: far above what any needs, so that
	// a store that hangs does not keep a slot for good.
	handleMax = time.Minute
	// stopMax is how long the last commits may take in a stop.
	stopMax = 2 * time.Second
)

// Worker is one member of a consumer group. Each partition has a goroutine that
// is parked while there are no events, and Config.Active of them work at a time.
type Worker struct {
	cfg     Config
	deps    Deps
	shares  eventlog.Assigner // nil = the partitions stay what they are
	slots   chan struct{}     // held while a batch is handled
	handled atomic.Uint64
	retries atomic.Uint64
	descs   descs

	mu    sync.Mutex
	parts map[topology.Shard]*part
}

// New checks the config.
func New(cfg Config, deps Deps) (*Worker, error) {
	if cfg.Batch == 0 {
		cfg.Batch = batchNormal
	}
	if cfg.Active == 0 {
		cfg.Active = activeNormal
	}
	if cfg.CommitEvery == 0 {
		cfg.CommitEvery = commitNormal
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = retryNormal
	}
	var shares eventlog.Assigner
	if cfg.Partitions == nil {
		shares, _ = deps.Events.(eventlog.Assigner)
	}
	if cfg.Partitions == nil && shares == nil {
		for p := range topology.Shard(topology.Shards) {
			cfg.Partitions = append(cfg.Partitions, p)
		}
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if deps.Events == nil || deps.Handle == nil {
		return nil, problem.New(problem.Internal, "a worker needs an event log and a handler")
	}
	deps.Log = deps.Log.With("group", cfg.Group)
	w := &Worker{
		cfg: cfg, deps: deps, shares: shares, slots: make(chan struct{}, cfg.Active), descs: newDescs(cfg.Group),
		parts: map[topology.Shard]*part{},
	}
	for _, p := range cfg.Partitions {
		w.parts[p] = newPart(w, p)
	}
	return w, nil
}

func (c Config) check() error {
	var faults []error
	if c.Group == "" {
		faults = append(faults, problem.Field("group", "must have a name"))
	}
	if c.Batch < 1 || c.Batch > batchMax {
		faults = append(faults, problem.Field("batch", "must be 1 to %d, not %d", batchMax, c.Batch))
	}
	if c.Active < 1 || c.Active > topology.Shards {
		faults = append(faults, problem.Field("active", "must be 1 to %d, not %d", topology.Shards, c.Active))
	}
	if c.CommitEvery < 0 {
		faults = append(faults, problem.Field("commit_every", "must not be negative"))
	}
	if c.RetryMax < retryMin {
		faults = append(faults, problem.Field("retry_max", "must be %v or more, not %v", retryMin, c.RetryMax))
	}
	seen := slices.Sorted(slices.Values(c.Partitions))
	if n := len(seen); n > 0 && seen[n-1] >= topology.Shards || len(slices.Compact(seen)) != n {
		faults = append(faults, problem.Field("partitions", "must be below %d, each once", topology.Shards))
	}
	return errors.Join(faults...)
}

// Run consumes until ctx ends; then it stores how far it has come. It is called
// once.
func (w *Worker) Run(ctx context.Context, ready func()) error {
	if w.shares != nil {
		return w.share(ctx, ready)
	}
	var all sync.WaitGroup
	for _, p := range w.all() {
		all.Go(func() { p.consume(ctx) })
	}
	ready()
	all.Wait()
	return nil
}

// all are the worker's partitions at the moment.
func (w *Worker) all() []*part {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.SortedFunc(maps.Values(w.parts), func(a, b *part) int { return cmp.Compare(a.id, b.id) })
}

// Handled is how many events were handled since the start.
func (w *Worker) Handled() uint64 { return w.handled.Load() }

// Retries is how often something failed and was tried again since the start.
func (w *Worker) Retries() uint64 { return w.retries.Load() }

// ends is what an event log has that says at once where all partitions end.
type ends interface {
	Ends(ctx context.Context) ([]eventlog.Position, error)
}

// Lag is how many events wait to be handled, in all of the worker's partitions.
func (w *Worker) Lag(ctx context.Context) (uint64, error) {
	end := func(p topology.Shard) (eventlog.Position, error) { return w.deps.Events.End(ctx, p) }
	if l, ok := w.deps.Events.(ends); ok {
		all, err := l.Ends(ctx)
		if err != nil {
			return 0, err
		}
		end = func(p topology.Shard) (eventlog.Position, error) { return all[p], nil }
	}
	var lag uint64
	for _, p := range w.all() {
		at := eventlog.Position(p.at.Load())
		if at == 0 { // not begun yet
			var err error
			if at, err = w.deps.Events.Committed(ctx, w.cfg.Group, p.id); err != nil {
				return 0, err
			}
		}
		end, err := end(p.id)
		if err != nil {
			return 0, err
		}
		lag += uint64(end - min(at, end))
	}
	return lag, nil
}
