// Package worker runs what happens after the fact: consumer groups on the cell's
// event log. A worker may be killed anywhere: what it had not committed it gets
// again, so that everything it does has to be repeatable.
package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
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
	Batch int    // events handled at once: 1 to 10,000, default 500. More costs memory, less costs commits
	// RetryMax is the longest pause before a batch that failed is tried again;
	// default 10 s. Pauses begin at 50 ms.
	RetryMax time.Duration
}

const (
	batchNormal = 500
	batchMax    = 10_000
	retryNormal = 10 * time.Second
	retryMin    = 50 * time.Millisecond
)

// Handle does what a batch of events asks for. The events are of one partition,
// in order. It is called again with the same ones after an error.
type Handle func(ctx context.Context, events []eventlog.Event) error

// Worker is one consumer group on all partitions.
type Worker struct {
	cfg    Config
	events eventlog.Log
	handle Handle
	log    *slog.Logger
	done   atomic.Uint64 // events handled
}

// New checks the config.
func New(cfg Config, events eventlog.Log, handle Handle, log *slog.Logger) (*Worker, error) {
	if cfg.Batch == 0 {
		cfg.Batch = batchNormal
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = retryNormal
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	w := &Worker{cfg: cfg, events: events, handle: handle, log: log.With("group", cfg.Group)}
	var faults []error
	if cfg.Group == "" {
		faults = append(faults, problem.Field("group", "must have a name"))
	}
	if cfg.Batch < 1 || cfg.Batch > batchMax {
		faults = append(faults, problem.Field("batch", "must be 1 to %d", batchMax))
	}
	return w, errors.Join(faults...)
}

// Handled is how many events were handled since the start.
func (w *Worker) Handled() uint64 { return w.done.Load() }

// Run consumes every partition until ctx ends. A partition without events costs a
// goroutine that waits.
func (w *Worker) Run(ctx context.Context, ready func()) error {
	var all sync.WaitGroup
	for p := range topology.Shard(topology.Shards) {
		all.Go(func() { w.consume(ctx, p) })
	}
	ready()
	all.Wait()
	return nil
}

// consume handles one partition's events in order.
func (w *Worker) consume(ctx context.Context, p topology.Shard) {
	pause := retryMin
	for ctx.Err() == nil {
		if err := w.turns(ctx, p, func() { pause = retryMin }); err != nil && ctx.Err() == nil {
			w.log.Warn("events not handled; trying again", "shard", p, "err", err, "dur", pause)
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		pause = min(2*pause, w.cfg.RetryMax)
	}
}

// turns reads, handles and commits until something fails.
func (w *Worker) turns(ctx context.Context, p topology.Shard, went func()) error {
	at, err := w.events.Committed(ctx, w.cfg.Group, p)
	if err != nil {
		return err
	}
	had := make(map[topology.ChannelRef]topology.Rev)
	for {
		events, last, err := w.events.Read(ctx, p, at, w.cfg.Batch)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			if err := w.events.Wait(ctx, p, at); err != nil {
				return err
			}
			continue
		}
		if fresh := drop(events, had); len(fresh) > 0 {
			if err := w.handle(ctx, fresh); err != nil {
				return err
			}
			w.done.Add(uint64(len(fresh)))
		}
		if err := w.events.Commit(ctx, w.cfg.Group, p, last); err != nil {
			return err
		}
		at = last
		if len(had) > channelsMax {
			clear(had)
		}
		went()
	}
}

// channelsMax bounds the channels whose last rev is remembered.
const channelsMax = 10_000

// drop leaves out what was had: a feeder that crashed appends again.
func drop(events []eventlog.Event, had map[topology.ChannelRef]topology.Rev) []eventlog.Event {
	fresh := events[:0]
	for _, e := range events {
		if e.Rev > had[e.Channel] {
			had[e.Channel] = e.Rev
			fresh = append(fresh, e)
		}
	}
	return fresh
}
