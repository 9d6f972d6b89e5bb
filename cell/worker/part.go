package worker

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"parley/cell/eventlog"
	"parley/internal/topology"
)

// channelsMax bounds the channels whose last rev a partition remembers. Beyond it
// all are forgotten: what is handled twice then changes nothing.
const channelsMax = 10_000

// part consumes one partition. All but at belongs to its goroutine.
type part struct {
	w  *Worker
	id topology.Shard

	at        atomic.Uint64 // handled up to here
	committed eventlog.Position
	since     time.Time // when at first left committed
	begun     bool
	had       map[topology.ChannelRef]topology.Rev

	// Of partitions that are shared out, see share.go.
	stop context.CancelFunc
	lost atomic.Bool   // another worker may have the partition: commit nothing
	done chan struct{} // closed when consume has returned
}

func newPart(w *Worker, id topology.Shard) *part {
	return &part{w: w, id: id, had: map[topology.ChannelRef]topology.Rev{}, done: make(chan struct{})}
}

func (p *part) position() eventlog.Position { return eventlog.Position(p.at.Load()) }

// consume handles the partition's events until ctx ends.
func (p *part) consume(ctx context.Context) {
	defer close(p.done)
	pause := retryMin
	for ctx.Err() == nil {
		err := p.turn(ctx)
		if err == nil {
			pause = retryMin
			continue
		}
		if ctx.Err() != nil {
			break
		}
		p.w.retries.Add(1)
		wait := pause/2 + rand.N(pause/2)
		p.w.deps.Log.Warn("events not handled; trying again", "shard", p.id, "err", err, "dur", wait)
		sleep(ctx, wait)
		pause = min(2*pause, p.w.cfg.RetryMax)
	}
	if p.lost.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopMax)
	defer cancel()
	if err := p.commit(ctx); err != nil {
		p.w.deps.Log.Warn("position not stored: some events will be handled again", "shard", p.id, "err", err)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// turn waits for events, handles some, and commits what is due.
func (p *part) turn(ctx context.Context) error {
	if !p.begun {
		at, err := p.w.deps.Events.Committed(ctx, p.w.cfg.Group, p.id)
		if err != nil {
			return err
		}
		p.at.Store(uint64(at))
		p.committed, p.begun = at, true
	}
	if err := p.wait(ctx); err != nil {
		return err
	}
	if err := p.work(ctx); err != nil {
		return err
	}
	if p.due() {
		return p.commit(ctx)
	}
	return nil
}

// wait returns when there may be events, or when a commit is due.
func (p *part) wait(ctx context.Context) error {
	waiting := ctx
	if p.position() != p.committed {
		var cancel context.CancelFunc
		waiting, cancel = context.WithDeadline(ctx, p.since.Add(p.w.cfg.CommitEvery))
		defer cancel()
	}
	err := p.w.deps.Events.Wait(waiting, p.id, p.position())
	if ctx.Err() == nil && waiting.Err() != nil {
		return nil // a commit is due
	}
	if err == nil && p.w.cfg.Gather > 0 {
		sleep(ctx, p.w.cfg.Gather)
	}
	return err
}

// work handles one batch, in one of the worker's slots.
func (p *part) work(ctx context.Context) error {
	select {
	case p.w.slots <- struct{}{}:
		defer func() { <-p.w.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	events, last, err := p.w.deps.Events.Read(ctx, p.id, p.position(), p.w.cfg.Batch)
	if err != nil || len(events) == 0 {
		return err
	}
	if fresh := p.fresh(events); len(fresh) > 0 {
		if err := p.handle(ctx, fresh); err != nil {
			return err
		}
		p.w.handled.Add(uint64(len(fresh)))
	}
	if p.position() == p.committed {
		p.since = time.Now()
	}
	p.at.Store(uint64(last))
	if len(p.had) > channelsMax {
		clear(p.had)
	}
	for _, e := range events {
		p.had[e.Channel] = max(p.had[e.Channel], e.Rev)
	}
	return nil
}

func (p *part) handle(ctx context.Context, events []eventlog.Event) error {
	ctx, cancel := context.WithTimeout(ctx, handleMax)
	defer cancel()
	return p.w.deps.Handle(ctx, events)
}

// fresh leaves out what was had: a feeder that crashed appends again.
func (p *part) fresh(events []eventlog.Event) []eventlog.Event {
	fresh := make([]eventlog.Event, 0, len(events))
	here := make(map[topology.ChannelRef]topology.Rev)
	for _, e := range events {
		if e.Rev > max(p.had[e.Channel], here[e.Channel]) {
			here[e.Channel] = e.Rev
			fresh = append(fresh, e)
		}
	}
	return fresh
}

func (p *part) due() bool {
	n := p.position() - p.committed
	return n >= commitMax || n > 0 && time.Since(p.since) >= p.w.cfg.CommitEvery
}

// commit stores how far the partition is handled.
func (p *part) commit(ctx context.Context) error {
	at := p.position()
	if at == p.committed {
		return nil
	}
	if err := p.w.deps.Events.Commit(ctx, p.w.cfg.Group, p.id, at); err != nil {
		return err
	}
	p.committed = at
	return nil
}
