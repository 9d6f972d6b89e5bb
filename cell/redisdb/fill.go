package redisdb

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/readstate"
)

// filling fills buckets from the journal, under a new generation: its script is
// loaded first and its gates say so, so that a server that loses its memory in the
// middle can't be taken for a full one.
type filling struct {
	g       *gates
	gen     *generation
	lock    lock
	renewed time.Time
	entries int
	failed  map[int]error // buckets that can't be filled now
}

// lockRenew is how often the lock is renewed.
const lockRenew = lockTTL / 5

func (f *filling) run(ctx context.Context, missing []int) error {
	s := f.g.s
	wanted := map[int]bool{}
	for _, b := range missing {
		wanted[b] = true
	}
	f.begin(ctx, missing)
	if err := f.any(missing); err != nil {
		return err
	}
	err := s.journal.Replay(ctx, func(es []readstate.Entry) error {
		if time.Since(f.renewed) >= lockRenew {
			if err := f.lock.renew(ctx); err != nil {
				return err
			}
			f.renewed = time.Now()
		}
		f.apply(ctx, wanted, es)
		return f.any(missing)
	})
	if err != nil {
		return err
	}
	f.each(ctx, missing, func(ctx context.Context, p redis.Pipeliner, b int) redis.Cmder {
		return s.script(ctx, p, b, f.gen, gateFill, opOpen, nil, []any{gateOpen + f.gen.name})
	})
	return f.any(missing)
}

// any is nil while there is any bucket that has not failed.
func (f *filling) any(missing []int) error {
	var faults []error
	for _, b := range missing {
		if f.failed[b] == nil {
			return nil
		}
		faults = append(faults, f.failed[b])
	}
	return errors.Join(faults[0], context.Cause(f.g.s.d.ctx)) // one stands for all
}

// each does something to all buckets that have not failed, in one round trip.
func (f *filling) each(ctx context.Context, buckets []int, do func(context.Context, redis.Pipeliner, int) redis.Cmder) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	p := f.g.s.d.client.Pipeline()
	cmds := map[int]redis.Cmder{}
	for _, b := range buckets {
		if f.failed[b] == nil {
			cmds[b] = do(ctx, p, b)
		}
	}
	_, _ = p.Exec(ctx) // each has its error
	for b, c := range cmds {
		if c.Err() != nil {
			f.failed[b] = c.Err()
		}
	}
}

// begin loads the generation's script at the buckets' servers and marks the buckets.
func (f *filling) begin(ctx context.Context, buckets []int) {
	s := f.g.s
	loaded := map[redis.Cmdable]error{}
	for _, b := range buckets {
		at, err := f.server(ctx, b)
		if err != nil {
			f.failed[b] = err
			continue
		}
		if _, known := loaded[at]; !known {
			load, cancel := context.WithTimeout(ctx, answerMax)
			loaded[at] = at.ScriptLoad(load, scriptOf(f.gen.name)).Err()
			cancel()
		}
		if loaded[at] != nil {
			f.failed[b] = loaded[at]
		}
	}
	f.each(ctx, buckets, func(ctx context.Context, p redis.Pipeliner, b int) redis.Cmder {
		return p.Set(ctx, f.g.key(b), gateFill+f.gen.name, 0)
	})
	if len(f.failed) < len(buckets) {
		s.d.log.Info("read state is filled from its journal", "buckets", len(buckets))
	}
}

// server is the one that has a bucket. A cluster's client would load scripts at
// replicas, too, which must not know them: they may lag.
//
//nolint:ireturn // one of two kinds of client
func (f *filling) server(ctx context.Context, bucket int) (redis.Cmdable, error) {
	if c, ok := f.g.s.d.client.(*redis.ClusterClient); ok {
		return c.MasterForKey(ctx, f.g.key(bucket))
	}
	return f.g.s.d.client, nil
}

// apply puts entries into the wanted buckets.
func (f *filling) apply(ctx context.Context, wanted map[int]bool, es []readstate.Entry) {
	s := f.g.s
	marks, mentions := map[int]*rows{}, map[int]*rows{}
	for _, e := range es {
		u, ch, mark, mention := decodeEntry(e)
		switch {
		case mark != "":
			name := owner(u.Place, string(u.ID))
			if bucket := s.buckets.of(name); wanted[bucket] {
				r := marks[bucket]
				if r == nil {
					r = &rows{}
					marks[bucket] = r
				}
				r.keys = append(r.keys, s.key(bucket, "m:", name))
				r.args = append(r.args, string(ch), mark)
				f.entries++
				f.flush(ctx, opPut, marks, bucket, rowsMax)
			}
		case mention != nil:
			bucket := s.mentionRow(mentions, *mention)
			if !wanted[bucket] {
				delete(mentions, bucket)
				continue
			}
			f.entries++
			f.flush(ctx, opAdd, mentions, bucket, rowsMax)
		}
	}
	for bucket := range wanted {
		f.flush(ctx, opPut, marks, bucket, 1)
		f.flush(ctx, opAdd, mentions, bucket, 1)
	}
}

// flush sends a bucket's rows when there are so many.
func (f *filling) flush(ctx context.Context, op string, of map[int]*rows, bucket, from int) {
	r := of[bucket]
	if r == nil || len(r.keys) < from {
		return
	}
	delete(of, bucket)
	if f.failed[bucket] != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	s := f.g.s
	if err := s.script(ctx, s.d.client, bucket, f.gen, gateFill, op, r.keys, r.args).Err(); err != nil {
		f.failed[bucket] = err
	}
}
