package worker

import (
	"context"
	"time"

	"parley/internal/topology"
)

// shareWaitMax is the longest pause before a worker that could not join its group
// tries again.
const shareWaitMax = 10 * time.Second

// share consumes what the event log gives this member of the group, until ctx ends.
func (w *Worker) share(ctx context.Context, ready func()) error {
	ready()
	for wait := retryMin; ctx.Err() == nil; wait = min(2*wait, shareWaitMax) {
		w.join(ctx, wait)
	}
	// What the log did not take back by itself.
	m := member{w, ctx}
	m.Release(w.ids())
	return nil
}

// join is a member of the group until ctx ends or the event log won't have it; then
// it pauses.
func (w *Worker) join(ctx context.Context, wait time.Duration) {
	err := w.shares.Assign(ctx, w.cfg.Group, member{w, ctx})
	if ctx.Err() != nil {
		return // it left
	}
	w.retries.Add(1)
	w.deps.Log.Warn("not a member of the group; joining again", "err", err, "dur", wait)
	sleep(ctx, wait)
}

func (w *Worker) ids() []topology.Shard {
	var ids []topology.Shard
	for _, p := range w.all() {
		ids = append(ids, p.id)
	}
	return ids
}

// member is how the event log tells a worker of its partitions.
type member struct {
	w   *Worker
	ctx context.Context //nolint:containedctx // Run's: the event log's callbacks have none of ours
}

// Gain implements eventlog.Member.
func (m member) Gain(ps []topology.Shard) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for _, id := range ps {
		if m.w.parts[id] != nil {
			continue
		}
		p := newPart(m.w, id)
		ctx, cancel := context.WithCancel(m.ctx)
		p.stop = cancel
		m.w.parts[id] = p
		go p.consume(ctx) // end waits for it, at the latest in share
	}
	m.w.deps.Log.Info("gained partitions", "count", len(ps), "held", len(m.w.parts))
}

// Release implements eventlog.Member.
func (m member) Release(ps []topology.Shard) { m.end(ps, false) }

// Lose implements eventlog.Member.
func (m member) Lose(ps []topology.Shard) { m.end(ps, true) }

// end stops work on partitions and waits for that.
func (m member) end(ps []topology.Shard, lost bool) {
	var ending []*part
	m.w.mu.Lock()
	for _, id := range ps {
		if p := m.w.parts[id]; p != nil {
			ending = append(ending, p)
			p.lost.Store(lost)
			p.stop()
		}
	}
	m.w.mu.Unlock()
	for _, p := range ending {
		<-p.done
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for _, p := range ending {
		delete(m.w.parts, p.id)
	}
	if len(ending) > 0 {
		m.w.deps.Log.Info("gave partitions away", "count", len(ending), "held", len(m.w.parts))
	}
}
