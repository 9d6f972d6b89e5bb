package gateway

import (
	"context"
	"sync"
	"time"

	"parley/cell/channel"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/frame"
)

// roll is the followers of a gateway, by shard.
type roll struct {
	mu     sync.RWMutex
	shards [topology.Shards]map[topology.ChannelID]*follower
}

// find is the follower of a channel, nil without one.
func (r *roll) find(ref topology.ChannelRef) *follower {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if f := r.shards[ref.Shard()][ref.Channel]; f != nil && f.ref == ref {
		return f
	}
	return nil
}

// byID is the same by a channel's id, whatever its place.
func (r *roll) byID(ch topology.ChannelID) *follower {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.shards[topology.ShardOf(ch)][ch]
}

// ofShard is all followers of a shard.
func (r *roll) ofShard(s topology.Shard) []*follower {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*follower, 0, len(r.shards[s]))
	for _, f := range r.shards[s] {
		out = append(out, f)
	}
	return out
}

// hold finds or makes the follower of a channel and holds it for the caller.
func (r *roll) hold(g *Gateway, ref topology.ChannelRef) (f *follower, fresh bool) {
	r.mu.RLock()
	if f = r.shards[ref.Shard()][ref.Channel]; f != nil && f.ref == ref {
		f.hold() // under the lock: it can't be dropped meanwhile
	}
	r.mu.RUnlock()
	if f != nil && f.ref == ref {
		return f, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.shards[ref.Shard()]
	if of == nil {
		of = map[topology.ChannelID]*follower{}
		r.shards[ref.Shard()] = of
	}
	f = of[ref.Channel]
	if f != nil && f.ref == ref {
		f.hold()
		return f, false
	}
	// A follower of another generation, if there is one, is replaced: its
	// sessions are of a placement that has ended.
	f = &follower{
		g: g, ref: ref, lane: frame.LaneOf(string(ref.Channel)), ready: make(chan struct{}), groups: map[*peer]*group{},
	}
	f.hold()
	of[ref.Channel] = f
	return f, true
}

// follow gives the followers of channels, each held for the caller, in order, and
// waits until all know where they are.
func (g *Gateway) follow(ctx context.Context, refs []topology.ChannelRef) ([]*follower, error) {
	out := make([]*follower, len(refs))
	var fresh, waiting []*follower
	for i, ref := range refs {
		f, isNew := g.roll.hold(g, ref)
		out[i] = f
		switch { // an old one may have given up while nobody needed it
		case isNew:
			fresh = append(fresh, f)
		case f.isStarted():
			f.repair(0)
		default:
			waiting = append(waiting, f)
		}
	}
	// Before the heads are read, so that nothing falls between.
	for _, f := range fresh {
		g.bus.Follow(router.ChannelTopic(f.ref.Channel))
		g.bus.Follow(router.TypingTopic(f.ref.Channel))
	}
	g.ask(append(waiting, fresh...)...)
	for i, f := range out {
		select {
		case <-f.ready:
		case <-ctx.Done():
			for _, f := range out {
				f.release()
			}
			return nil, problem.Wrap(ctx.Err(), problem.Unavailable, "channel %d of %d can't be read now", i+1, len(out))
		}
	}
	return out, nil
}

// dropIdleFollowers ends followers that nobody has needed for a while.
func (g *Gateway) dropIdleFollowers(now time.Time) {
	r := &g.roll
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.shards {
		for id, f := range of {
			if f.holds.Load() > 0 || now.Sub(time.Unix(0, f.idleSince.Load())) <= g.cfg.LingerMax {
				continue
			}
			delete(of, id) // under the lock: a new follower of the channel comes after
			g.bus.Unfollow(router.ChannelTopic(id))
			g.bus.Unfollow(router.TypingTopic(id))
		}
	}
}

// questions is the followers whose heads are to be asked for. One question per
// shard is under way at a time, so a shard without an owner holds up no other.
type questions struct {
	mu   sync.Mutex
	want [topology.Shards]map[*follower]struct{}
	busy [topology.Shards]bool
}

// ask asks for the heads of followers soon, until they are known.
func (g *Gateway) ask(fs ...*follower) {
	q := &g.questions
	var start []topology.Shard
	q.mu.Lock()
	for _, f := range fs {
		s := f.ref.Shard()
		if q.want[s] == nil {
			q.want[s] = map[*follower]struct{}{}
		}
		q.want[s][f] = struct{}{}
		if !q.busy[s] {
			q.busy[s] = true
			start = append(start, s)
		}
	}
	q.mu.Unlock()
	for _, s := range start {
		g.spawn(func(ctx context.Context) { g.askShard(ctx, s) })
	}
}

// headsMax bounds one question for heads.
const headsMax = 500

func (q *questions) take(s topology.Shard) []*follower {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]*follower, 0, min(len(q.want[s]), headsMax))
	for f := range q.want[s] {
		if len(out) == headsMax {
			break
		}
		delete(q.want[s], f)
		out = append(out, f)
	}
	q.busy[s] = len(out) > 0
	return out
}

func (g *Gateway) askShard(ctx context.Context, s topology.Shard) {
	for {
		fs := g.questions.take(s)
		if len(fs) == 0 {
			return
		}
		failed, err := g.askAll(ctx, fs)
		if err == nil {
			continue
		}
		if !g.pause(ctx, "heads of channels", err) {
			return
		}
		g.questions.mu.Lock()
		for _, f := range failed {
			if f.holds.Load() > 0 {
				g.questions.want[s][f] = struct{}{}
			}
		}
		g.questions.mu.Unlock()
	}
}

// askAll asks for all heads at once and, if that fails, one by one: one channel
// must not hold up the others.
func (g *Gateway) askAll(ctx context.Context, fs []*follower) (failed []*follower, err error) {
	if err = g.askFor(ctx, fs); err == nil || len(fs) == 1 {
		return fs, err
	}
	err = nil
	for _, f := range fs {
		if one := g.askFor(ctx, []*follower{f}); one != nil {
			failed, err = append(failed, f), one
		}
	}
	return failed, err
}

func (g *Gateway) askFor(ctx context.Context, fs []*follower) error {
	heads, err := g.heads(ctx, fs)
	if err != nil {
		return err
	}
	for i, f := range fs {
		f.headIs(heads[i].Rev)
	}
	return nil
}

func (g *Gateway) heads(ctx context.Context, fs []*follower) ([]channel.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	refs := make([]topology.ChannelRef, len(fs))
	for i, f := range fs {
		refs[i] = f.ref
	}
	return g.deps.Servers.Heads(ctx, refs)
}

// retryPause is between two tries of what must succeed in the end.
const retryPause = 250 * time.Millisecond

// pause waits before another try; false if ctx ended.
func (g *Gateway) pause(ctx context.Context, what string, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	g.log.Warn("something is tried again", "step", what, "err", err)
	return wait(ctx, retryPause)
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
