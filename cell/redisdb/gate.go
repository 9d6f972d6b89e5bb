package redisdb

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/problem"
)

// gates is what this process knows of the buckets' generations. A bucket whose
// gate is not open, or whose server does not know the script of the generation,
// has lost what it had: somebody fills it again from the journal, and until then
// nothing is answered (R1).
type gates struct {
	s    *readStateStore
	name string        // of the gates' keys
	wake chan struct{} // holds one: something was lost

	open [readBuckets]atomic.Pointer[generation] // nil = not known to be open

	mu      sync.Mutex    // for changed
	changed chan struct{} // closed and renewed when one opens
}

// Pace of looking at the gates.
const (
	gatesEvery = time.Second
	gatesPause = 100 * time.Millisecond // at least, between two looks
	gatesAsk   = 2 * answerMax
)

func (g *gates) init(s *readStateStore) {
	g.s, g.wake, g.changed = s, make(chan struct{}, 1), make(chan struct{})
	g.name = "gate:" + shaOf(readScript)[:8]
}

// key names a bucket's gate. Processes of two versions, with two scripts, have two:
// neither knows the other's, and would take it for lost.
func (g *gates) key(bucket int) string { return g.s.buckets.tags[bucket] + g.name }

// present is a bucket's generation, nil if it is not known to be open.
func (g *gates) present(bucket int) *generation { return g.open[bucket].Load() }

// opens is closed when one opens that was not open before.
func (g *gates) opens() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// await waits for a bucket's gate to be open, for a while.
func (g *gates) await(ctx context.Context, bucket int) (*generation, error) {
	if gen := g.present(bucket); gen != nil {
		return gen, nil
	}
	t := time.NewTimer(gateMax)
	defer t.Stop()
	for {
		changed := g.opens() // before the look: what opens after it closes this one
		if gen := g.present(bucket); gen != nil {
			return gen, nil
		}
		select {
		case <-changed:
		case <-t.C:
			return nil, later(problem.New(problem.Unavailable, "read state is not there yet: Redis is away, or is being filled again"))
		case <-ctx.Done():
			return nil, hasEnded(ctx)
		}
	}
}

// lost takes that a bucket is no longer of a generation.
func (g *gates) lost(bucket int, gen *generation) {
	g.open[bucket].CompareAndSwap(gen, nil)
	poke(g.wake)
}

// keep looks at the gates until ctx ends, and has filled what was lost.
func (g *gates) keep(ctx context.Context) {
	t := time.NewTicker(gatesEvery)
	defer t.Stop()
	for {
		missing := g.look(ctx)
		if len(missing) > 0 {
			if err := g.refill(ctx, missing); err != nil && ctx.Err() == nil {
				g.s.d.log.Warn("read state is not filled yet; trying again", "err", err)
			}
		}
		if !pause(ctx, gatesPause) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-g.wake:
		}
	}
}

// look asks for all gates and tells which buckets have lost what they had. Of a
// server that does not answer nothing is known.
func (g *gates) look(ctx context.Context) (missing []int) {
	ctx, cancel := context.WithTimeout(ctx, gatesAsk)
	defer cancel()
	get := g.s.d.client.Pipeline()
	gates := make([]*redis.StringCmd, readBuckets)
	for b := range gates {
		gates[b] = get.Get(ctx, g.key(b))
	}
	_, _ = get.Exec(ctx) // each has its error
	check := g.s.d.client.Pipeline()
	checks := make([]*redis.Cmd, readBuckets)
	gens := make([]*generation, readBuckets)
	for b, gate := range gates {
		name := openGeneration(gate.Val())
		switch {
		case name != "":
			if gens[b] = g.present(b); gens[b] == nil || gens[b].name != name {
				gens[b] = newGeneration(name)
			}
			checks[b] = g.s.script(ctx, check, b, gens[b], gateOpen, opCheck, nil, nil)
		case gate.Err() == nil || errors.Is(gate.Err(), redis.Nil):
			missing = append(missing, b)
		}
	}
	_, _ = check.Exec(ctx) // each has its error
	opened := false
	for b, c := range checks {
		switch {
		case c == nil:
		case c.Err() == nil:
			opened = g.open[b].Swap(gens[b]) != gens[b] || opened
		case isLost(c.Err()):
			missing = append(missing, b)
		}
	}
	for _, b := range missing {
		g.open[b].Store(nil)
	}
	if opened {
		g.mu.Lock()
		close(g.changed)
		g.changed = make(chan struct{})
		g.mu.Unlock()
	}
	slices.Sort(missing)
	return missing
}

// refill fills buckets, unless another process is at it.
func (g *gates) refill(ctx context.Context, missing []int) error {
	lock := lock{client: g.s.d.client, key: g.s.buckets.tags[missing[0]] + "lock", token: rand.Text()}
	if taken, err := lock.take(ctx); err != nil || !taken {
		return err
	}
	defer lock.release(ctx)
	if missing = g.look(ctx); len(missing) == 0 { // another was at it, just before
		return nil
	}
	began := time.Now()
	f := filling{g: g, gen: newGeneration(rand.Text()), lock: lock, renewed: began, failed: map[int]error{}}
	if err := f.run(ctx, missing); err != nil {
		return err
	}
	g.s.d.metrics.rebuilds.Inc()
	g.s.d.log.Info("read state was filled from its journal", "entries", f.entries, "buckets", len(missing)-len(f.failed), "dur", time.Since(began))
	g.look(ctx)
	return nil
}

// lock has one process at a time fill. Two would do no harm, but work twice.
type lock struct {
	client     redis.UniversalClient
	key, token string
}

// lockTTL is after how long another goes on in the place of one that died.
const lockTTL = 10 * time.Second

func (l lock) take(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	err := l.client.SetArgs(ctx, l.key, l.token, redis.SetArgs{Mode: "NX", TTL: lockTTL}).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return err == nil, err
}

const (
	renewScript   = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0`
	releaseScript = `if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`
)

func (l lock) renew(ctx context.Context) error {
	still, err := redis.NewScript(renewScript).Run(ctx, l.client, []string{l.key}, l.token, lockTTL.Milliseconds()).Bool()
	if err == nil && !still {
		err = errors.New("another process fills read state")
	}
	return err
}

func (l lock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerMax)
	defer cancel()
	_ = redis.NewScript(releaseScript).Run(ctx, l.client, []string{l.key}, l.token).Err() // it ends by itself
}
