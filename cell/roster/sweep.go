package roster

import (
	"context"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// outboxBatch bounds what one look at the outbox takes.
	outboxBatch = 100
	// sweepers is how many channels a sweep carries on at once: one without an
	// owner takes a sweep's whole step.
	sweepers = 8
	// refusalsMax bounds the refusals kept; one that is not is tried each time.
	refusalsMax = 10_000
	// patienceMax bounds, in sweeps, how long a channel that refuses is left alone.
	patienceMax = 64
	// leaseSweeps is how many sweeps a process may miss before another takes over.
	leaseSweeps = 3
)

// refusal says that a channel refused an entry for good, as far as can be told,
// and when to ask it again. It may have been mended by then.
type refusal struct {
	next time.Time
	wait time.Duration
}

// Run carries out what calls that died have left in the outbox, until ctx ends.
// An entry younger than Config.Every is its own call's business. It is called once.
func (r *Roster) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("outbox not carried out; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// mySweep reports whether this process is to sweep. Two at once do no harm (R1), but
// all at once are that many times the load just when something is wrong.
func (r *Roster) mySweep(ctx context.Context, now time.Time) (bool, error) {
	if r.cfg.Name == "" {
		return true, nil
	}
	return r.dir.Lease(ctx, "outbox", r.cfg.Name, now, leaseSweeps*r.cfg.Every)
}

// sweep goes over the whole outbox once.
func (r *Roster) sweep(ctx context.Context) error {
	now := r.now()
	if mine, err := r.mySweep(ctx, now); err != nil || !mine {
		return err
	}
	var first error
	var after uint64
	for {
		es, err := r.dir.OutboxPending(ctx, after, outboxBatch)
		if err != nil {
			return err
		}
		upTo := map[topology.ChannelRef]uint64{}
		for _, e := range es {
			after = e.ID
			ref := topology.ChannelRef{Place: e.Place, Channel: e.Channel}
			if now.Sub(e.At) >= r.cfg.Every && !now.Before(r.refused[ref].next) {
				upTo[ref] = e.ID
			}
		}
		for ref, err := range r.sweepChannels(ctx, upTo) {
			r.note(ref, err, now)
			if err != nil && first == nil {
				first = err
			}
		}
		if len(es) < outboxBatch || ctx.Err() != nil {
			return first
		}
	}
}

// sweepChannels carries on channels, each up to an entry, and returns how it went.
func (r *Roster) sweepChannels(ctx context.Context, upTo map[topology.ChannelRef]uint64) map[topology.ChannelRef]error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		out  = make(map[topology.ChannelRef]error, len(upTo))
		free = make(chan struct{}, sweepers)
	)
	for ref, id := range upTo {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			step, cancel := context.WithTimeout(ctx, r.cfg.Every)
			defer cancel()
			_, err := r.carryOut(step, ref, id)
			mu.Lock()
			defer mu.Unlock()
			out[ref] = err
		})
	}
	wg.Wait()
	return out
}

// note leaves a channel that refuses alone for a while, twice as long each time (R3).
func (r *Roster) note(ref topology.ChannelRef, err error, now time.Time) {
	if !forGood(err) {
		delete(r.refused, ref)
		return
	}
	f := r.refused[ref]
	f.wait = min(max(2*f.wait, r.cfg.Every), patienceMax*r.cfg.Every)
	f.next = now.Add(f.wait)
	if _, ok := r.refused[ref]; ok || len(r.refused) < refusalsMax {
		r.refused[ref] = f
	}
	r.log.Error("a channel refuses a change of its members", "workspace", ref.Workspace, "channel", ref.Channel, "err", err)
}

// forGood reports whether trying again soon is of no use.
func forGood(err error) bool {
	if err == nil {
		return false
	}
	switch problem.KindOf(err) {
	case problem.Unavailable, problem.Unknown, problem.Exhausted, problem.Full, problem.Fenced, problem.NotOwner:
		return false
	default:
		return true
	}
}
