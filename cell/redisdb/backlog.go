package redisdb

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/readstate"
	"parley/internal/problem"
)

// backlog takes marks that are in Redis to the journal, in order. While the journal
// is away it keeps them, of each key the highest, and they are acknowledged without it:
// they are in Redis, and go to the journal when it is back. Lost is a mark only
// if Redis loses its memory while the journal is away and this process dies, too.
type backlog struct {
	s    *readStateStore
	max  int
	wake chan struct{} // holds one

	mu      sync.Mutex
	pending map[string]*owed // by key in the journal; not those under way
	order   []*owed
	away    bool
}

// owed is a mark that the journal is to have.
type owed struct {
	markCall
	waiting []chan error
	kept    bool // acknowledged, so it must not be dropped
}

// Pace and bounds of the backlog.
const (
	appendAtOnce   = 4096
	appendMax      = 2 * time.Second // then the journal counts as away
	appendPauseMin = 100 * time.Millisecond
	appendPauseMax = 5 * time.Second
)

func (b *backlog) init(s *readStateStore, most int) {
	b.s, b.max, b.wake, b.pending = s, most, make(chan struct{}, 1), map[string]*owed{}
}

// add takes marks that were put.
func (b *backlog) add(cs []*markCall) {
	b.mu.Lock()
	for _, c := range cs {
		o := b.pending[c.journal]
		switch {
		case o == nil && len(b.pending) >= b.max:
			c.done <- later(problem.New(problem.Unavailable, "the journal of read state has been away for too long: no more marks are taken"))
			continue
		case o == nil:
			o = &owed{markCall: *c}
			b.pending[c.journal] = o
			b.order = append(b.order, o)
		case isHigher(c.value, o.value):
			o.value, o.gen = c.value, c.gen
		}
		if b.away {
			o.kept = true
			c.done <- nil
		} else {
			o.waiting = append(o.waiting, c.done)
		}
	}
	b.s.d.metrics.pending.Set(float64(len(b.pending)))
	b.mu.Unlock()
	poke(b.wake)
}

func (b *backlog) take() []*owed {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.order), appendAtOnce)
	os := b.order[:n:n]
	b.order = b.order[n:]
	for _, o := range os {
		delete(b.pending, o.journal)
	}
	b.s.d.metrics.pending.Set(float64(len(b.pending)))
	return os
}

// putBack has marks tried again before those that came later.
func (b *backlog) putBack(os []*owed) {
	if len(os) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var first []*owed
	for _, o := range os {
		later := b.pending[o.journal]
		if later == nil {
			b.pending[o.journal] = o
			first = append(first, o)
			continue
		}
		later.waiting = append(later.waiting, o.waiting...)
		later.kept = later.kept || o.kept
		if isHigher(o.value, later.value) {
			later.value, later.gen = o.value, o.gen
		}
	}
	b.order = append(first, b.order...)
	b.s.d.metrics.pending.Set(float64(len(b.pending)))
}

func (o *owed) answer(err error) {
	for _, done := range o.waiting {
		done <- err
	}
	o.waiting = nil
}

// run takes marks to the journal until ctx ends.
func (b *backlog) run(ctx context.Context) {
	defer b.lastChance()
	wait := appendPauseMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		for {
			os := b.take()
			if len(os) == 0 {
				break
			}
			if b.deliver(ctx, os) {
				wait = appendPauseMin
				continue
			}
			if !pause(ctx, wait) {
				return
			}
			wait = min(2*wait, appendPauseMax)
		}
	}
}

// deliver appends marks; false if it should be tried again later.
func (b *backlog) deliver(ctx context.Context, os []*owed) bool {
	if err := b.append(ctx, os); err != nil {
		b.isAway(os, err)
		_, lost := b.verify(ctx, os)
		b.again(ctx, lost)
		b.putBack(os)
		return false
	}
	b.mu.Lock()
	b.away = false
	b.mu.Unlock()
	unsure, lost := b.verify(ctx, os)
	again := b.again(ctx, lost)
	b.putBack(append(again, unsure...))
	return len(unsure) == 0 && len(lost) == 0
}

func (b *backlog) append(ctx context.Context, os []*owed) error {
	ctx, cancel := context.WithTimeout(ctx, appendMax)
	defer cancel()
	es := make([]readstate.Entry, len(os))
	for i, o := range os {
		es[i] = readstate.Entry{Key: []byte(o.journal), Value: []byte(o.value)}
	}
	return b.s.journal.Append(ctx, es)
}

// isAway answers whom only the journal holds up.
func (b *backlog) isAway(os []*owed, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.away {
		b.s.d.log.Warn("the journal of read state is away; marks are kept for it", "err", err)
	}
	b.away = true
	for _, some := range [][]*owed{os, b.order} {
		for _, o := range some {
			if o.gen != nil {
				o.kept = o.kept || len(o.waiting) > 0
				o.answer(nil)
			}
		}
	}
}

// verify acknowledges marks whose generation is still there (R2). Unsure are those
// whose server does not answer, lost those that Redis has not any more.
func (b *backlog) verify(ctx context.Context, os []*owed) (unsure, lost []*owed) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	type at struct {
		bucket int
		gen    *generation
	}
	checks := map[at]*redis.Cmd{}
	p := b.s.d.client.Pipeline()
	for _, o := range os {
		if key := (at{o.bucket, o.gen}); o.gen != nil && checks[key] == nil {
			checks[key] = b.s.script(ctx, p, o.bucket, o.gen, gateOpen, opCheck, nil, nil)
		}
	}
	if len(checks) > 0 {
		_, _ = p.Exec(ctx) // each has its error
	}
	for _, o := range os {
		var err error
		if o.gen != nil {
			err = checks[at{o.bucket, o.gen}].Err()
		}
		switch {
		case o.gen == nil:
			lost = append(lost, o)
		case isLost(err):
			b.s.gates.lost(o.bucket, o.gen)
			o.gen = nil
			lost = append(lost, o)
		case err != nil:
			unsure = append(unsure, o)
		default:
			o.answer(nil)
		}
	}
	return unsure, lost
}

// again puts marks into the present generation, as far as it is there. The others
// keep none, and are put the next time.
func (b *backlog) again(ctx context.Context, lost []*owed) []*owed {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	for _, o := range lost {
		gen, _ := b.s.gates.present(o.bucket)
		if gen == nil {
			continue
		}
		cmd := b.s.script(ctx, b.s.d.client, o.bucket, gen, gateOpen, opPut, []string{o.key}, []any{o.channel, o.value})
		stored, err := cmd.StringSlice()
		if isLost(err) {
			b.s.gates.lost(o.bucket, gen)
		}
		if err == nil && len(stored) == 1 {
			o.value, o.gen = stored[0], gen
		}
	}
	return lost
}

// lastChance tries once more to have the journal take what waits.
func (b *backlog) lastChance() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.s.d.ctx), appendMax)
	defer cancel()
	for os := b.take(); len(os) > 0; os = b.take() {
		if err := b.append(ctx, os); err != nil {
			b.s.d.log.Error("marks did not reach the journal of read state: they are in Redis only", "marks", len(os), "err", err)
			return
		}
		for _, o := range os {
			o.answer(nil)
		}
	}
}
