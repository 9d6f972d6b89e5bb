package redisdb

import (
	"context"
	"sync"
	"time"

	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

// putMax ends a Put whose caller sets no end.
const putMax = 5 * time.Second

// markCall is a Put under way: the lane, then the backlog has it, and answers once.
type markCall struct {
	owed

	stored string // what Redis had after it: the backlog may raise what it owes
}

var errGenerationOver = problem.New(problem.Unavailable, "read state is being filled again")

// Put implements readstate.Store. Concurrent calls go to Redis and to the journal
// together.
func (s *readStateStore) Put(ctx context.Context, u readstate.User, ch topology.ChannelID, m readstate.Mark) (readstate.Mark, error) {
	if err := hasEnded(ctx); err != nil {
		return readstate.Mark{}, err
	}
	if err := checkNames(u, ch); err != nil {
		return readstate.Mark{}, err
	}
	if _, ends := ctx.Deadline(); !ends { // else its clock is enough: one for each mark would cost as much as the mark
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, putMax)
		defer cancel()
	}
	c := s.newCall(u, ch, m)
	put, done := c.value, s.answers.take()
	for {
		c.done = done
		if _, err := s.gates.await(ctx, c.bucket); err != nil {
			return readstate.Mark{}, err
		}
		if !s.lanes.push(c) {
			return readstate.Mark{}, later(problem.New(problem.Unavailable, "too many marks are under way; try again"))
		}
		select {
		case err := <-done:
			if err == errGenerationOver { //nolint:errorlint // it is this one, unwrapped
				continue
			}
			s.answers.giveBack(done)
			if err != nil {
				return readstate.Mark{}, err
			}
			if c.stored == put {
				return m, nil
			}
			return decodeMark(c.stored)
		case <-ctx.Done():
			return readstate.Mark{}, later(problem.Wrap(ctx.Err(), problem.Unknown, "the mark took too long: it may be stored"))
		}
	}
}

// newCall makes a call with the texts that Redis gets, all at once: marks are many.
func (s *readStateStore) newCall(u readstate.User, ch topology.ChannelID, m readstate.Mark) *markCall {
	var room [256]byte
	b := appendOwner(room[:0], u.Place, string(u.ID))
	name := len(b)
	bucket := s.buckets.ofHash(hashOf(b))
	b = append(append(append(b, s.buckets.tags[bucket]...), "m:"...), b[:name]...)
	key := len(b)
	text := string(appendMark(b, m)[name:])
	key -= name
	return &markCall{owed: owed{bucket: bucket, user: u, key: text[:key], channel: string(ch), value: text[key:]}}
}

// answers are the channels on which calls wait, used again and again.
type answers struct{ pool sync.Pool }

// take gives one that holds one answer. errGenerationOver says that nothing was done.
func (a *answers) take() chan error {
	if done, ok := a.pool.Get().(chan error); ok {
		return done
	}
	return make(chan error, 1)
}

// giveBack takes a channel that had its answer: nobody else has it any more.
func (a *answers) giveBack(done chan error) { a.pool.Put(done) }
