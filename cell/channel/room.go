package channel

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// room is an open channel: taken over under the shard's token, with its newest
// changes in memory. Its head and entries are confirmed; what the worker drafts
// lives in the worker's turn until then.
type room struct {
	sh    *shard
	ref   topology.ChannelRef
	topic string

	opened chan struct{} // closed when the three below are set
	err    error

	mu   sync.Mutex
	tail *tail

	// Under the shard's lock.
	refs int       // who uses it: requests in the queue and callers
	used time.Time // when the last one let go
	late bool      // has changes to be derived
}

// letGo ends one use of a room. The shard's lock is held.
func (sh *shard) letGo(r *room, now time.Time) {
	r.refs--
	r.used = now
}

// leave ends a caller's use of a room.
func (sh *shard) leave(r *room) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.letGo(r, time.Now())
}

// enter gives the open channel, opening it if need be. The caller leaves it.
func (sh *shard) enter(ctx context.Context, ref topology.ChannelRef) (*room, error) {
	sh.mu.Lock()
	if sh.leaving {
		sh.mu.Unlock()
		return nil, notOwner(sh.id)
	}
	r := sh.rooms[ref]
	if r == nil {
		r = &room{sh: sh, ref: ref, opened: make(chan struct{})}
		if !sh.life.spawn(func() { sh.open(r) }) {
			sh.mu.Unlock()
			return nil, notOwner(sh.id)
		}
		sh.rooms[ref] = r
		if sh.s.rooms.Add(1) > int64(sh.s.cfg.ChannelsMax)*5/4 {
			sh.s.tidySoon()
		}
	}
	r.refs++
	sh.mu.Unlock()
	select {
	case <-r.opened:
	case <-ctx.Done():
		sh.leave(r)
		return nil, problem.Wrap(ctx.Err(), problem.Unavailable, "the channel could not be opened in time; try again")
	}
	if r.err != nil {
		sh.leave(r)
		return nil, r.err
	}
	return r, nil
}

// openMax bounds the opening of one channel.
const openMax = 10 * time.Second

// open takes a channel over. Its log is read and sealed at the shard's token, so
// that no late write of an earlier owner can come up any more; what the derived
// rows lack is kept in memory and derived.
func (sh *shard) open(r *room) {
	defer close(r.opened)
	ctx, cancel := context.WithTimeout(sh.ctx, openMax)
	defer cancel()
	mark, err := sh.s.deps.History.Mark(ctx, r.ref)
	if err != nil {
		sh.abandon(r, sh.orLeft(&problem.Error{
			Kind: problem.Unavailable, Msg: "the history store does not answer; try again", RetryAfter: time.Second, Cause: err,
		}))
		return
	}
	changes, err := sh.hold.Recover(ctx, r.ref, mark.Applied+1)
	if err != nil {
		sh.abandon(r, sh.refuse(err))
		return
	}
	if movesMembers(changes) {
		sh.rolls.forget(r.ref)
	}
	if tap := sh.s.deps.Tap; tap != nil {
		tap(r.ref, sh.token, changes, true)
	}
	t := newTail(mark)
	for _, c := range changes {
		t.add(entry{Change: c})
	}
	r.tail, r.topic = t, topicOf(r.ref)
	sh.mu.Lock()
	_, wasDirty := sh.dirty[r.ref]
	delete(sh.dirty, r.ref)
	if wasDirty || len(changes) > 0 || !sh.dirtyKnown {
		sh.changed[r.ref] = t.head
		sh.cleaning[r.ref] = cleaning{upTo: min(mark.Emitted, mark.Applied), since: time.Now()}
	}
	sh.mu.Unlock()
	sh.emitSoon(r.ref, min(mark.Emitted, mark.Applied), mark.Applied, nil)
	if t.applied < t.head.Rev {
		sh.lag.Add(int64(t.head.Rev - t.applied)) //nolint:gosec // far below 2^63
		sh.heavy.Add(t.weight(t.applied, t.head.Rev))
		sh.deriveSoon(r)
	}
}

// abandon forgets a room that could not be opened: the next request tries again.
func (sh *shard) abandon(r *room, err error) {
	r.err = err
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.rooms[r.ref] == r {
		delete(sh.rooms, r.ref)
		sh.s.rooms.Add(-1)
	}
}

// visit gives what readers see of a channel. One that is not open and not dirty
// is not opened for it: all that was ever confirmed there is derived.
func (s *Server) visit(ctx context.Context, ref topology.ChannelRef) (*shard, view, error) {
	sh, err := s.owned(ref)
	if err != nil {
		return nil, view{}, err
	}
	if err := sh.prove(ctx); err != nil {
		return nil, view{}, err
	}
	v, err := sh.view(ctx, ref)
	return sh, v, err
}

func (sh *shard) view(ctx context.Context, ref topology.ChannelRef) (view, error) {
	sh.mu.Lock()
	_, dirty := sh.dirty[ref]
	closed := !dirty && sh.dirtyKnown && sh.rooms[ref] == nil
	sh.mu.Unlock()
	if closed {
		mark, err := sh.s.deps.History.Mark(ctx, ref)
		if err != nil {
			return view{}, err
		}
		return newTailView(Head{Rev: mark.Applied, Seq: mark.Seq, TS: mark.TS}), nil
	}
	r, err := sh.enter(ctx, ref)
	if err != nil {
		return view{}, err
	}
	defer sh.leave(r)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tail.view(), nil
}

// newTailView is the view of a channel with nothing in memory.
func newTailView(h Head) view { return view{head: h, from: h.Rev + 1} }

// recoverDirty opens the channels that the last owner may have left changes in,
// so that they are derived and told of without waiting for somebody to ask.
func (sh *shard) recoverDirty() {
	for !sh.loadDirty() {
		if !pause(sh.ctx, 100*time.Millisecond) {
			return
		}
	}
	for {
		refs := sh.dirtyLeft()
		if len(refs) == 0 {
			break
		}
		sh.openAll(refs)
		if len(sh.dirtyLeft()) > 0 && !pause(sh.ctx, 100*time.Millisecond) {
			return
		}
	}
}

func (sh *shard) loadDirty() bool {
	refs, err := sh.hold.Dirty(sh.ctx)
	if err != nil {
		if sh.ctx.Err() == nil {
			sh.s.log.Warn("channels to recover not read; trying again", "shard", sh.id, "err", err)
		}
		return false
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, ref := range refs {
		if r := sh.rooms[ref]; r == nil || !r.isOpen() {
			sh.dirty[ref] = struct{}{}
		}
	}
	sh.dirtyKnown = true
	return true
}

func (r *room) isOpen() bool {
	select {
	case <-r.opened:
		return r.err == nil
	default:
		return false
	}
}

func (sh *shard) dirtyLeft() []topology.ChannelRef {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	refs := make([]topology.ChannelRef, 0, len(sh.dirty))
	for ref := range sh.dirty {
		refs = append(refs, ref)
	}
	return refs
}

// openWorkers bounds the channels of a shard that are recovered at once: their
// writes share syncs, but a store has other work, too.
const openWorkers = 8

func (sh *shard) openAll(refs []topology.ChannelRef) {
	var wg sync.WaitGroup
	next := make(chan topology.ChannelRef)
	for range min(openWorkers, len(refs)) {
		wg.Go(func() {
			for ref := range next {
				if r, err := sh.enter(sh.ctx, ref); err == nil {
					sh.mu.Lock()
					delete(sh.dirty, ref) // it was opening when the list was read
					sh.letGo(r, time.Now())
					sh.mu.Unlock()
				}
			}
		})
	}
	for _, ref := range refs {
		if sh.ctx.Err() != nil {
			break
		}
		next <- ref
	}
	close(next)
	wg.Wait()
}

func (s *Server) tidySoon() {
	select {
	case s.tidy <- struct{}{}:
	default:
	}
}

// evict closes the channels that were idle longest, until the bounds hold. One
// that is used, or not derived yet, stays: it has nowhere else to be.
func (s *Server) evict() {
	type idle struct {
		r     *room
		used  time.Time
		bytes int
	}
	var idles []idle
	var count, bytes int
	for i := range s.held {
		sh := s.held[i].Load()
		if sh == nil {
			continue
		}
		sh.mu.Lock()
		for _, r := range sh.rooms {
			count++
			if !r.isOpen() {
				continue
			}
			r.mu.Lock()
			n, derived := r.tail.bytes+entryBytes, r.tail.applied == r.tail.head.Rev
			r.mu.Unlock()
			bytes += n
			if r.refs == 0 && !r.late && derived {
				idles = append(idles, idle{r: r, used: r.used, bytes: n})
			}
		}
		sh.mu.Unlock()
	}
	s.metrics.open.Set(float64(count))
	lag, _ := s.lag()
	s.metrics.lag.Set(float64(lag))
	s.metrics.unemitted.Set(float64(s.unemitted()))
	if count <= s.cfg.ChannelsMax && int64(bytes) <= s.cfg.CacheBytes {
		return
	}
	slices.SortFunc(idles, func(a, b idle) int { return cmp.Compare(a.used.UnixNano(), b.used.UnixNano()) })
	for _, d := range idles {
		if count <= s.cfg.ChannelsMax && int64(bytes) <= s.cfg.CacheBytes {
			return
		}
		if d.r.sh.drop(d.r) {
			count--
			bytes -= d.bytes
		}
	}
}

// drop closes a room if it is still idle.
func (sh *shard) drop(r *room) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r.mu.Lock()
	derived := r.tail.applied == r.tail.head.Rev
	r.mu.Unlock()
	if sh.rooms[r.ref] != r || r.refs > 0 || r.late || !derived {
		return false
	}
	delete(sh.rooms, r.ref)
	sh.s.rooms.Add(-1)
	return true
}
