package redisdb

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/problem"
)

// Bounds of lanes.
const (
	laneMax    = 64 << 10 // marks that wait in one
	laneAtOnce = 2048     // marks in one round trip
	lanesEach  = 2        // of a server: one is made ready while it does the other
)

// firstKey is where a script's command names its first key.
const firstKey = 3

// lanes take marks to the servers, one round trip at a time each: what comes
// meanwhile goes together with the next. A server that hangs holds up its own lanes
// only.
type lanes struct {
	s  *readStateStore
	to atomic.Pointer[routes]
	mu sync.Mutex
	by map[string]*[lanesEach]*lane // by address

	// inOrder is held for a bucket while its marks go to Redis and on to the backlog: when
	// the layout changes two lanes have marks of one bucket, and the journal must not
	// get the higher one first (R3).
	inOrder [readBuckets]sync.Mutex
}

// routes are the buckets' lanes in a layout.
type routes struct {
	layout *layout
	lanes  [readBuckets]*lane
}

func (l *lanes) init(s *readStateStore) { l.s, l.by = s, map[string]*[lanesEach]*lane{} }

// of is a lane of a bucket's server. That it is the right one only saves time.
func (l *lanes) of(bucket int) *lane {
	now := l.s.d.layout.Load()
	to := l.to.Load()
	if to == nil || to.layout != now {
		to = l.route(now)
	}
	return to.lanes[bucket]
}

func (l *lanes) route(now *layout) *routes {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := &routes{layout: now}
	for bucket, slot := range l.s.buckets.slots {
		addr := now.node(slot)
		some := l.by[addr]
		if some == nil {
			some = &[lanesEach]*lane{}
			for i := range some {
				some[i] = &lane{lanes: l}
			}
			l.by[addr] = some
		}
		to.lanes[bucket] = some[bucket%lanesEach]
	}
	l.to.Store(to)
	return to
}

func (l *lanes) push(c *markCall) bool {
	to := l.of(c.bucket)
	to.mu.Lock()
	defer to.mu.Unlock()
	if len(to.queue) >= laneMax {
		return false
	}
	to.queue = append(to.queue, c)
	if !to.busy {
		to.busy = true
		l.s.d.work.Go(to.run)
	}
	return true
}

type lane struct {
	lanes *lanes
	mu    sync.Mutex
	queue []*markCall
	busy  bool

	// Of the round trip under way, and used again.
	batches [readBuckets]batch
	args    []any
}

// batch is a lane's marks of one bucket, and the command that puts them.
type batch struct {
	calls []*markCall
	gen   *generation
	cmd   *redis.Cmd
}

func (l *lane) run() {
	for {
		l.mu.Lock()
		n := min(len(l.queue), laneAtOnce)
		if n == 0 {
			l.busy, l.queue = false, nil
			l.mu.Unlock()
			return
		}
		calls := l.queue[:n:n]
		l.queue = l.queue[n:]
		l.mu.Unlock()
		if silent := l.apply(l.lanes.s.d.ctx, calls); silent {
			l.refuse()
		}
	}
}

// refuse answers all that wait for a server that is silent: one round trip after the
// other, each in vain, would take longer than any of them has.
func (l *lane) refuse() {
	l.mu.Lock()
	calls := l.queue
	l.queue = nil
	l.mu.Unlock()
	for _, c := range calls {
		c.answer(later(problem.New(problem.Unavailable, "Redis is silent; try again")))
	}
}

// apply puts marks, those of a bucket in one command, and hands them on to the
// backlog in their order. It reports whether the server was silent.
func (l *lane) apply(ctx context.Context, calls []*markCall) (silent bool) {
	s := l.lanes.s
	for _, c := range calls {
		b := &l.batches[c.bucket]
		b.calls = append(b.calls, c)
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	p := s.d.client.Pipeline()
	l.args = l.args[:0]
	for bucket := range l.batches {
		b := &l.batches[bucket]
		if b.cmd = nil; len(b.calls) == 0 {
			continue
		}
		l.lanes.inOrder[bucket].Lock() // all lanes lock upwards
		if b.gen = s.gates.present(bucket); b.gen != nil {
			b.cmd = l.command(ctx, bucket, b)
			_ = p.Process(ctx, b.cmd) // it is queued
		}
	}
	began := time.Now()
	_, err := p.Exec(ctx) // each has its error
	silent = err != nil && time.Since(began) >= dialMax
	for bucket := range l.batches {
		if b := &l.batches[bucket]; len(b.calls) > 0 {
			s.applied(bucket, b)
			l.lanes.inOrder[bucket].Unlock()
			clear(b.calls)
			b.calls = b.calls[:0]
		}
	}
	clear(l.args)
	return silent
}

// command is what script makes, without copies: pointers cost no memory.
func (l *lane) command(ctx context.Context, bucket int, b *batch) *redis.Cmd {
	from := len(l.args)
	l.args = append(l.args, "evalsha", b.gen.sha, 1+len(b.calls), l.lanes.s.gates.key(bucket))
	for _, c := range b.calls {
		l.args = append(l.args, &c.key)
	}
	l.args = append(l.args, gateOpen+b.gen.name, opPut)
	for _, c := range b.calls {
		c.gen = b.gen
		l.args = append(l.args, &c.channel, &c.value)
	}
	cmd := redis.NewCmd(ctx, l.args[from:len(l.args):len(l.args)]...)
	cmd.SetFirstKeyPos(firstKey)
	return cmd
}

func (s *readStateStore) applied(bucket int, b *batch) {
	fail := func(err error) {
		for _, c := range b.calls {
			c.answer(err)
		}
	}
	if b.cmd == nil {
		fail(errGenerationOver)
		return
	}
	err := b.cmd.Err()
	switch {
	case isLost(err):
		s.gates.lost(bucket, b.gen)
		fail(errGenerationOver)
		return
	case err != nil:
		fail(wrote(err))
		return
	}
	if err := stored(b.cmd, len(b.calls), func(i int, value string) { b.calls[i].value = value }); err != nil {
		fail(err)
		return
	}
	for _, c := range b.calls {
		c.stored = c.value
	}
	s.backlog.add(b.calls)
}

// stored hands over what a put of n marks found stored in place of some of them.
func stored(cmd *redis.Cmd, n int, found func(i int, value string)) error {
	others, err := cmd.Slice()
	if err != nil {
		return away(err)
	}
	for ; len(others) > 1; others = others[2:] {
		i, isIndex := others[0].(int64)
		value, isMark := others[1].(string)
		if !isIndex || !isMark || i < 0 || i >= int64(n) || len(value) < markDigits {
			return errUnreadable()
		}
		found(int(i), value)
	}
	return nil
}
