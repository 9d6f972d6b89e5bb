package channel

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// freshMax is how old the last proof of ownership may be when a reader is
// answered. What was confirmed stays true for ever, but a deposed owner does
// not know of what came after it.
const freshMax = time.Second

// batchBytes bounds the texts of one commit: a store takes a few MB at once
// gladly, a hundred not.
const batchBytes = 4 << 20

// shard is one shard under one token, from the take to the loss. Requests wait
// in its queue; its worker commits what waits in one go, so that one sync and
// one confirmation serve many. Its tailer derives what was committed.
type shard struct {
	s     *Server
	life  *life
	id    topology.Shard
	token topology.Token
	hold  *msglog.Hold
	rolls rolls

	ctx    context.Context //nolint:containedctx // ends when the shard is lost: the worker's and the tailer's, not a caller's
	cancel context.CancelFunc
	fresh  atomic.Pointer[time.Time] // when the last proof of ownership began
	lag    atomic.Int64              // changes confirmed but not derived
	heavy  atomic.Int64              // about their bytes in memory

	unemitted atomic.Int64 // changes derived but not in the event log

	mu      sync.Mutex
	queue   []*request
	working bool          // the worker has something to do
	leaving bool          // takes no requests any more
	closed  bool          // close was called
	kick    chan struct{} // capacity 1: the worker should look
	quiet   chan struct{} // closed when leaving and nothing is being committed
	rooms   map[topology.ChannelRef]*room

	dirty      map[topology.ChannelRef]struct{} // to be recovered before anything is read
	dirtyKnown bool                             // false: any channel may be dirty

	late     []*room       // have changes that are not derived, in order
	kickTail chan struct{} // capacity 1: the tailer should look
	cleaning map[topology.ChannelRef]cleaning

	emissions map[topology.ChannelRef]*emission    // what the event log lacks
	emitQueue []*emission                          // in order
	unmarked  map[topology.ChannelRef]topology.Rev // emitted up to there, and not marked yet
	kickEmit  chan struct{}                        // capacity 1: the emitter should look

	beacons uint64
	changed map[topology.ChannelRef]Head // since the last beacon
}

// cleaning is a channel that may go off the list of dirty ones when it has been
// idle for a while.
type cleaning struct {
	upTo  topology.Rev
	since time.Time
}

func newShard(s *Server, l *life, h *msglog.Hold, began time.Time) *shard {
	sh := &shard{
		s: s, life: l, id: h.Shard(), token: h.Token(), hold: h,
		kick: make(chan struct{}, 1), kickTail: make(chan struct{}, 1), quiet: make(chan struct{}), rooms: map[topology.ChannelRef]*room{},
		dirty: map[topology.ChannelRef]struct{}{}, cleaning: map[topology.ChannelRef]cleaning{},
		changed:   map[topology.ChannelRef]Head{},
		emissions: map[topology.ChannelRef]*emission{}, unmarked: map[topology.ChannelRef]topology.Rev{}, kickEmit: make(chan struct{}, 1),
	}
	sh.ctx, sh.cancel = context.WithCancel(l.ctx)
	sh.confirmed(began)
	return sh
}

// confirmed notes that the shard was this server's at a time after began.
func (sh *shard) confirmed(began time.Time) {
	for {
		old := sh.fresh.Load()
		if old != nil && !old.Before(began) {
			return
		}
		if sh.fresh.CompareAndSwap(old, &began) {
			return
		}
	}
}

// prove makes sure that the shard was this server's less than freshMax ago, or
// just now; kind NotOwner if it is not.
func (sh *shard) prove(ctx context.Context) error {
	if time.Since(*sh.fresh.Load()) >= freshMax {
		began := time.Now()
		if err := sh.hold.Confirm(ctx); err != nil {
			return sh.refuse(err)
		}
		sh.confirmed(began)
	}
	if sh.hold.Err() != nil { // found out by another shard's commit
		sh.close("lost")
	}
	if sh.ctx.Err() != nil {
		return notOwner(sh.id)
	}
	return nil
}

// refuse turns an error of the hold into one for a caller whose request was not
// written, and leaves the shard if the hold is lost.
func (sh *shard) refuse(err error) error {
	if sh.hold.Err() != nil {
		sh.close("lost")
	}
	switch {
	case sh.ctx.Err() != nil, problem.Is(err, problem.Fenced), problem.Is(err, problem.NotOwner):
		return notOwner(sh.id)
	case problem.Is(err, problem.Full):
		return err
	default:
		return &problem.Error{
			Kind: problem.Unavailable, Msg: "the message store does not answer; try again", RetryAfter: time.Second, Cause: err,
		}
	}
}

// orLeft is NotOwner in place of an error that the loss of the shard may have
// caused: the next owner can do better.
func (sh *shard) orLeft(err error) error {
	if sh.ctx.Err() != nil && problem.Is(err, problem.Unavailable) {
		return notOwner(sh.id)
	}
	return err
}

// nudge fills a channel of capacity 1.
func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// enqueue hands a request to the worker.
func (sh *shard) enqueue(r *request) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.leaving {
		return notOwner(sh.id)
	}
	if len(sh.queue) >= sh.s.cfg.QueueMax {
		return &problem.Error{Kind: problem.Unavailable, Msg: "too much is being posted at the moment; try again", RetryAfter: 200 * time.Millisecond}
	}
	if !sh.working {
		sh.working = true
		nudge(sh.kick)
	}
	r.room.refs++
	sh.queue = append(sh.queue, r)
	return nil
}

// work commits what waits, until the shard is left.
func (sh *shard) work() {
	for {
		batch, on := sh.next()
		if !on {
			return
		}
		if batch == nil {
			<-sh.kick
			continue
		}
		sh.turn(batch)
		sh.mu.Lock()
		now := time.Now()
		for _, r := range batch {
			sh.letGo(r.room, now)
		}
		sh.mu.Unlock()
	}
}

// next is what the next commit should hold; on is false when the worker's work
// is over.
func (sh *shard) next() (batch []*request, on bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.leaving || len(sh.queue) == 0 {
		sh.working = false
		sh.refuseQueue()
		return nil, !sh.leaving
	}
	n, weight, bytes := 0, 0, 0
	for n < len(sh.queue) {
		weight += sh.queue[n].weight
		bytes += sh.queue[n].bytes
		if n > 0 && (weight > sh.s.cfg.BatchMax || bytes > batchBytes) {
			break
		}
		n++
	}
	batch = sh.queue[:n:n]
	sh.queue = sh.queue[n:]
	if len(sh.queue) == 0 {
		sh.queue = nil
	}
	return batch, true
}

// refuseQueue sends what waits to the next owner, once the shard is being left.
// The lock is held, and nothing is being committed.
func (sh *shard) refuseQueue() {
	if !sh.leaving {
		return
	}
	now := time.Now()
	for _, r := range sh.queue {
		r.fail(notOwner(sh.id))
		sh.letGo(r.room, now)
	}
	sh.queue = nil
	select {
	case <-sh.quiet:
	default:
		close(sh.quiet)
	}
}

// stopTaking begins a hand-over: no request is taken any more.
func (sh *shard) stopTaking() {
	sh.mu.Lock()
	sh.leaving = true
	if !sh.working {
		sh.refuseQueue()
	}
	nudge(sh.kick)
	sh.mu.Unlock()
	if c := sh.s.peers.Load(); c != nil {
		c.left(sh.id, sh.token)
	}
}

// untilQuiet waits for the commit under way; false when ctx ended first.
func (sh *shard) untilQuiet(ctx context.Context) bool {
	select {
	case <-sh.quiet:
		return true
	case <-ctx.Done():
		return false
	}
}

// close leaves the shard. It may be called again, and by anybody.
func (sh *shard) close(why string) {
	sh.mu.Lock()
	if sh.closed {
		sh.mu.Unlock()
		return
	}
	sh.closed, sh.leaving = true, true
	nudge(sh.kickTail)
	nudge(sh.kickEmit)
	if !sh.working {
		sh.refuseQueue()
	}
	nudge(sh.kick)
	sh.s.rooms.Add(-int64(len(sh.rooms)))
	sh.rooms = map[topology.ChannelRef]*room{}
	sh.mu.Unlock()
	sh.s.held[sh.id].CompareAndSwap(sh, nil)
	sh.cancel()
	sh.hold.Drop()
	if c := sh.s.peers.Load(); c != nil && !sh.s.dead.Load() {
		c.left(sh.id, sh.token)
	}
	sh.s.log.Debug("left a shard", "shard", sh.id, "token", sh.token, "why", why)
	sh.s.moved.fire()
	sh.s.eased.fire()
	sh.s.Wake()
}
