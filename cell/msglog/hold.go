package msglog

import (
	"context"
	"sync"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Batch is changes of one channel to be committed: rising revs, no gaps.
type Batch struct {
	Channel topology.ChannelRef
	Changes []change.Change
}

// Hold is one shard under one token: what a channel server has from a Take until
// it is lost or dropped. A hold that is lost stays lost: take the shard again.
type Hold struct {
	log   *Log
	shard topology.Shard
	token topology.Token
	lost  chan struct{} // closed when err is set

	mu   sync.Mutex
	n    uint64                           // writes numbered so far
	busy map[topology.ChannelRef]struct{} // channels with a write under way
	err  error
}

func newHold(l *Log, s topology.Shard, t topology.Token) *Hold {
	return &Hold{log: l, shard: s, token: t, lost: make(chan struct{}), busy: make(map[topology.ChannelRef]struct{})}
}

// Shard is the shard that is held.
func (h *Hold) Shard() topology.Shard { return h.shard }

// Token is the hold's token.
func (h *Hold) Token() topology.Token { return h.token }

// Lost is closed when the hold is of no more use: another owner was seen, a
// write's outcome stayed unknown, or Drop was called. Err says which.
func (h *Hold) Lost() <-chan struct{} { return h.lost }

// Err is why the hold was lost, nil while it is not.
func (h *Hold) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Drop stops using the hold. What is under way ends with an error or is
// confirmed as usual; nothing new begins.
func (h *Hold) Drop() {
	h.lose(problem.New(problem.NotOwner, "the shard was given up"))
}

func (h *Hold) lose(err error) {
	h.mu.Lock()
	if h.err != nil {
		h.mu.Unlock()
		return
	}
	h.err = err
	close(h.lost)
	h.mu.Unlock()
	h.log.forget(h)
}

func errFenced(h *Hold) error {
	return problem.New(problem.Fenced, "shard %d has an owner after token %d", h.shard, h.token)
}

// Confirm asks the store whether the hold is still the shard's owner, and loses
// it if not (kind Fenced). An error of another kind says nothing either way.
func (h *Hold) Confirm(ctx context.Context) error {
	if err := h.Err(); err != nil {
		return err
	}
	return h.check(ctx)
}

// check is step two of every write (invariant 3): the fence read.
func (h *Hold) check(ctx context.Context) error {
	var fences []Fence
	err := h.log.repeat(ctx, func() (err error) {
		fences, err = h.log.confirm.fences(ctx, h.shard, h.log.Fences)
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range fences {
		if f.Shard == h.shard && f.Token == h.token && f.Owner == h.log.owner {
			return nil
		}
	}
	err = errFenced(h)
	h.lose(err)
	return err
}

// Dirty names the channels to look at after taking over (Store, clause 6).
func (h *Hold) Dirty(ctx context.Context) ([]topology.ChannelRef, error) {
	var refs []topology.ChannelRef
	err := h.log.repeat(ctx, func() (err error) {
		refs, err = h.log.store.Dirty(ctx, h.shard)
		return err
	})
	return refs, err
}

// Clean takes a channel off that list unless it has changes above upTo. A channel
// that stays on it costs the next owner a look, so nothing is repeated.
func (h *Hold) Clean(ctx context.Context, ch topology.ChannelRef, upTo topology.Rev) error {
	if err := h.Err(); err != nil {
		return err
	}
	if err := h.owns(ch); err != nil {
		return err
	}
	return h.log.store.Clean(ctx, h.shard, h.token, ch, upTo)
}

// Tail reads changes from a rev on, at most limit, without a gap. It may return
// changes that are not confirmed: the caller shows those up to its head only.
func (h *Hold) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]change.Change, error) {
	if err := h.owns(ch); err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	rows, err := h.log.store.Tail(ctx, ch, from, limit)
	if err != nil {
		return nil, err
	}
	return decode(dense(rows, from))
}

func (h *Hold) owns(ch topology.ChannelRef) error {
	if s := ch.Shard(); s != h.shard {
		return problem.New(problem.Invalid, "channel %s is in shard %d, not %d", ch.Channel, s, h.shard)
	}
	return nil
}

// enter begins a write to the channels and numbers it; leave ends it. Two writes
// to one channel at a time could leave a gap below a confirmed change, so the
// second is refused.
func (h *Hold) enter(chs ...topology.ChannelRef) (time uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return 0, problem.Wrap(h.err, problem.NotOwner, "the shard is no longer held")
	}
	for i, ch := range chs {
		if _, ok := h.busy[ch]; ok {
			for _, in := range chs[:i] {
				delete(h.busy, in)
			}
			return 0, problem.New(problem.Invalid, "channel %s has a write under way, or is named twice", ch.Channel)
		}
		h.busy[ch] = struct{}{}
	}
	h.n++
	return Time(h.token, h.n), nil
}

func (h *Hold) leave(chs ...topology.ChannelRef) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ch := range chs {
		delete(h.busy, ch)
	}
}

// write makes one write, again and again while its outcome is unknown, and then
// checks the fence. It says what an error means for the hold.
//
// Repeats are the same call: same rows, same bytes, same time, so they merge with
// whatever the first left, and it does not matter which of them a replica sees,
// nor when (invariant 4).
func (h *Hold) write(ctx context.Context, skipCheck bool, do func() error) error {
	unknown := false
	err := h.log.repeat(ctx, func() error {
		if unknown && h.Err() != nil {
			return problem.Wrap(h.Err(), problem.Unknown, "the shard was lost during a write")
		}
		err := do()
		unknown = unknown || (err != nil && !final(err))
		return err
	})
	switch {
	case err == nil:
		if skipCheck {
			return nil
		}
		if err = h.check(ctx); err == nil || problem.Is(err, problem.Fenced) {
			return err
		}
	case problem.Is(err, problem.Fenced):
		err = problem.Wrap(err, problem.Fenced, "shard %d has an owner after token %d", h.shard, h.token)
		h.lose(err)
		return err
	case !unknown: // refused at the first call: nothing was done
		return err
	}
	err = problem.Wrap(err, problem.Unknown, "the change may or may not have been kept")
	if !h.log.opts.keepUnknown {
		h.lose(err)
	}
	return err
}
