package redisdb

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
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
	order   []*owed           // what waits; not those under way
	pending map[owedKey]*owed // the same by key; empty while none had to wait longer
	away    bool
}

// owedKey is one to one with a mark's key in this process's journal.
type owedKey struct{ key, channel string }

// owed is a mark that the journal is to have.
type owed struct {
	bucket  int
	user    readstate.User
	key     string // of the user's hash
	channel string
	value   string // what is put, then what is stored
	gen     *generation

	done chan error   // nil when it was answered
	more []chan error // of others for which it stands, too
	kept bool         // acknowledged, so it must not be dropped
}

// Pace and bounds of the backlog.
const (
	appendAtOnce   = 4096
	entryBytes     = 192             // room for one, of most
	appendMax      = 2 * time.Second // then the journal counts as away
	appendPauseMin = 100 * time.Millisecond
	appendPauseMax = 5 * time.Second
)

func (b *backlog) init(s *readStateStore, most int) {
	b.s, b.max, b.wake, b.pending = s, most, make(chan struct{}, 1), map[owedKey]*owed{}
}

// add takes marks that were put. One that need not wait longer is appended as it is,
// with others of its key: their order is that of their heights (R3).
func (b *backlog) add(cs []*markCall) {
	b.mu.Lock()
	for _, c := range cs {
		o := &c.owed
		first := b.pending[o.id()]
		switch {
		case first != nil:
			first.absorb(o)
		case len(b.order) >= b.max:
			o.answer(later(problem.New(problem.Unavailable, "the journal of read state has been away for too long: no more marks are taken")))
			continue
		default:
			b.push(o)
			first = o
		}
		if b.away {
			first.kept = true
			first.answer(nil)
		}
	}
	b.s.d.metrics.pending.Set(float64(len(b.order)))
	b.mu.Unlock()
	poke(b.wake)
}

// push has a mark wait. The caller holds mu.
func (b *backlog) push(o *owed) {
	b.order = append(b.order, o)
	if b.away || len(b.pending) > 0 {
		b.pending[o.id()] = o
	}
}

func (b *backlog) take() []*owed {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.order), appendAtOnce)
	os := b.order[:n:n]
	b.order = b.order[n:]
	if len(b.pending) > 0 {
		for _, o := range os {
			delete(b.pending, o.id())
		}
	}
	b.s.d.metrics.pending.Set(float64(len(b.order)))
	return os
}

// putBack has marks tried again before those that came later.
func (b *backlog) putBack(os []*owed) {
	if len(os) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index()
	var first []*owed
	for _, o := range os {
		if later := b.pending[o.id()]; later != nil {
			later.absorb(o)
			continue
		}
		b.pending[o.id()] = o
		first = append(first, o)
	}
	b.order = append(first, b.order...)
	b.s.d.metrics.pending.Set(float64(len(b.order)))
}

// index leaves one mark of each key, for now they may have to wait for long. The caller
// holds mu.
func (b *backlog) index() {
	if len(b.pending) == len(b.order) {
		return // they are one of each already
	}
	all := b.order
	b.order = make([]*owed, 0, len(all))
	clear(b.pending)
	for _, o := range all {
		if first := b.pending[o.id()]; first != nil {
			first.absorb(o)
			continue
		}
		b.pending[o.id()] = o
		b.order = append(b.order, o)
	}
}

func (o *owed) id() owedKey { return owedKey{o.key, o.channel} }

// absorb has a mark stand for another one of its key.
func (o *owed) absorb(other *owed) {
	if other.done != nil {
		o.more = append(o.more, other.done)
	}
	o.more = append(o.more, other.more...)
	o.kept = o.kept || other.kept
	if isHigher(other.value, o.value) {
		o.value, o.gen = other.value, other.gen
	}
}

func (o *owed) waits() bool { return o.done != nil || len(o.more) > 0 }

// answer answers all that wait. They may use the mark again at once.
func (o *owed) answer(err error) {
	done, more := o.done, o.more
	o.done, o.more = nil, nil
	if done != nil {
		done <- err
	}
	for _, done := range more {
		done <- err
	}
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
	es, room := make([]readstate.Entry, len(os)), make([]byte, 0, len(os)*entryBytes)
	for i, o := range os {
		from := len(room)
		room = appendMarkKey(room, o.user, topology.ChannelID(o.channel), b.s.process)
		key := len(room)
		room = append(room, o.value...)
		es[i] = readstate.Entry{Key: room[from:key:key], Value: room[key:len(room):len(room)]}
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
				o.kept = o.kept || o.waits()
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
	var checks [readBuckets][]check
	p := b.s.d.client.Pipeline()
	for _, o := range os {
		if o.gen != nil && checkOf(checks[o.bucket], o.gen) == nil {
			checks[o.bucket] = append(checks[o.bucket], check{o.gen, b.s.script(ctx, p, o.bucket, o.gen, gateOpen, opCheck, nil, nil)})
		}
	}
	_, _ = p.Exec(ctx) // each has its error
	for _, o := range os {
		var err error
		if o.gen != nil {
			err = checkOf(checks[o.bucket], o.gen).Err()
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

// check asks whether a generation is still there.
type check struct {
	gen *generation
	cmd *redis.Cmd
}

func checkOf(checks []check, gen *generation) *redis.Cmd {
	for _, c := range checks {
		if c.gen == gen {
			return c.cmd
		}
	}
	return nil
}

// again puts marks into the present generation, as far as it is there. The others
// keep none, and are put the next time.
func (b *backlog) again(ctx context.Context, lost []*owed) []*owed {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	for _, o := range lost {
		gen := b.s.gates.present(o.bucket)
		if gen == nil {
			continue
		}
		cmd := b.s.script(ctx, b.s.d.client, o.bucket, gen, gateOpen, opPut, []string{o.key}, []any{o.channel, o.value})
		if isLost(cmd.Err()) {
			b.s.gates.lost(o.bucket, gen)
		}
		if stored(cmd, 1, func(_ int, value string) { o.value = value }) == nil {
			o.gen = gen
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
