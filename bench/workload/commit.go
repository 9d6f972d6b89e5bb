package workload

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"parley/bench/floor/pebble"
	"parley/bench/load"
	"parley/cell/change"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Commit is changes that many channels commit at the same time, each on disk and
// its fence read before it counts, beside bare synced sets of the same bytes.
type Commit struct {
	Writers int // channels that commit one change after the other
}

// CommitSize is the usual number.
func CommitSize() Commit { return Commit{Writers: 64} }

// put stores a writer's nth row.
type put func(writer, n int) error

// Run measures commits a second.
func (c Commit) Run(ctx context.Context, e *Env) ([]Row, error) {
	if c.Writers < 1 || c.Writers > 10_000 {
		return nil, problem.Field("writers", "must be 1 to 10,000")
	}
	dir, remove, err := e.scratch("commit")
	if err != nil {
		return nil, err
	}
	defer remove()
	var parley, floor []float64
	for run := range e.Runs {
		for _, s := range []struct {
			name string
			open func(dir string) (put, func() error, error)
			into *[]float64
		}{
			{"parley", func(dir string) (put, func() error, error) { return c.store(ctx, dir) }, &parley},
			{"floor", c.bare, &floor},
		} {
			if s.name == "floor" && !e.Floor {
				continue
			}
			e.Say(fmt.Sprintf("run %d of %d: %s", run+1, e.Runs, s.name))
			store, end, err := s.open(filepath.Join(dir, fmt.Sprintf("%s-%d", s.name, run)))
			if err != nil {
				return nil, err
			}
			perS, err := c.measure(ctx, e.Warm, e.For, store)
			if err := errors.Join(err, end()); err != nil {
				return nil, err
			}
			*s.into = append(*s.into, perS)
		}
	}
	r := Row{Workload: fmt.Sprintf("message store, %d channels at once", c.Writers), Measure: "commits/s", Against: "raw Pebble"}
	r.set(parley, floor)
	return []Row{r}, nil
}

// measure lets every writer put row after row.
func (c Commit) measure(ctx context.Context, warm, d time.Duration, store put) (perS float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, warm+d)
	defer cancel()
	begin := time.Now().Add(warm)
	var (
		work   sync.WaitGroup
		done   atomic.Int64
		failed = make([]error, c.Writers)
	)
	for w := range c.Writers {
		work.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				if failed[w] = store(w, n); failed[w] != nil {
					return
				}
				if time.Now().After(begin) {
					done.Add(1)
				}
			}
		})
	}
	work.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds(), errors.Join(failed...)
}

func (c Commit) bare(dir string) (put, func() error, error) {
	db, err := pebble.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	blob := []byte(strings.Repeat("x", load.BodyBytes))
	return func(w, n int) error { return db.Put(w, n, blob) }, db.Close, nil
}

// store is the message log as a channel server uses it.
func (c Commit) store(ctx context.Context, dir string) (put, func() error, error) {
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	log := msglog.NewLog(db.Log(), "bench")
	held := map[topology.Shard]*msglog.Hold{}
	chs := make([]topology.ChannelRef, c.Writers)
	for i := range chs {
		chs[i] = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: topology.ChannelID(fmt.Sprintf("C%026d", i))}
		shard := chs[i].Shard()
		if held[shard] == nil {
			hs, err := log.Take(ctx, []topology.Shard{shard})
			if err != nil {
				return nil, nil, errors.Join(err, db.Close())
			}
			held[shard] = hs[0]
		}
		if _, err := held[shard].Recover(ctx, chs[i], 1); err != nil {
			return nil, nil, errors.Join(err, db.Close())
		}
	}
	text := strings.Repeat("x", load.BodyBytes)
	store := func(w, n int) error {
		ch := change.Change{Rev: topology.Rev(n), Kind: change.Message, Seq: topology.Seq(n), Author: "U1", Text: text} //nolint:gosec // counts up from 1
		// Not the run's ctx: a commit that is cut short has an unknown outcome.
		return held[chs[w].Shard()].Commit(context.WithoutCancel(ctx), []msglog.Batch{{Channel: chs[w], Changes: []change.Change{ch}}})
	}
	return store, db.Close, nil
}
