package msglog

import (
	"context"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Limits of the protocol. The caller's context bounds all waiting; these hold
// when it has no deadline, and bound memory.
const (
	// attemptsMax calls with waits of 5, 10, 20 … 250 ms between them are some
	// 7 s: longer than an engine takes to replace a lost node's coordinator,
	// shorter than a client waits for a post.
	attemptsMax = 32
	waitMin     = 5 * time.Millisecond
	waitMax     = 250 * time.Millisecond
	// tailPage rows are read at a time in a takeover.
	tailPage = 512
	// tailMax bounds what one takeover rewrites: four times what a channel server
	// lets its derived rows fall behind.
	tailMax = 1 << 18
)

// Log is one channel server's use of a Store: it takes shards over, commits to
// those it holds, and finds out from the store alone when it holds one no more.
// There is no clock in it that anything rests on.
//
// Invariants, each with a mutant in the model test that breaks without it:
//  1. A shard's fence is raised before anything of it is read to be served: what
//     an older owner writes later can't be confirmed any more.
//  2. What was read in a takeover is written again at the own token, and all above
//     deleted as of its base, before it is served: a row that a minority had does
//     not come and go between one reader and the next.
//  3. The fence is read after each write (of a takeover or a commit) and before
//     anything of it leaves. The read begins after the write has ended.
//  4. One hold never writes other content at a (rev, time), nor other content at
//     a rev whose write has an unknown outcome: it writes the same bytes at the
//     same time again, or is dropped and writes nothing more.
//  5. Two holds never have the same token: takes are one at a time, and no two
//     live Logs use the same owner id.
//
// Its methods may be called by many goroutines at once.
type Log struct {
	store   Store
	owner   topology.ServerID
	confirm confirmer
	opts    options

	taking chan struct{} // capacity 1: see invariant 5

	mu    sync.Mutex
	holds map[topology.Shard]*Hold // live ones
}

// options are what the tests change: never set outside of them.
type options struct {
	wait func(ctx context.Context, d time.Duration) error
	// Mutants: each takes one step out of the protocol.
	tail            func(ch topology.ChannelRef, from topology.Rev) ([]Row, bool) // invariant 1: a tail that was read before
	noRewrite       bool                                                          // invariant 2
	noSeal          bool                                                          // invariant 2
	noTakeoverCheck bool                                                          // invariant 3, in Recover
	noCommitCheck   bool                                                          // invariant 3, in Commit
	keepUnknown     bool                                                          // invariant 4: the hold lives on after an unknown outcome
}

// NewLog makes the Log of the channel server owner. No other live process may
// use the same id at the same store: a fence row says who holds a token by it.
func NewLog(s Store, owner topology.ServerID) *Log { return newLog(s, owner, options{wait: wait}) }

func newLog(s Store, owner topology.ServerID, o options) *Log {
	return &Log{
		store: s, owner: owner, opts: o,
		confirm: confirmer{reading: make(chan struct{}, 1)},
		taking:  make(chan struct{}, 1),
		holds:   make(map[topology.Shard]*Hold),
	}
}

// Fences reads fence rows, all if no shard is named, and closes the holds that it
// shows to be lost.
func (l *Log) Fences(ctx context.Context, of ...topology.Shard) ([]Fence, error) {
	fences, err := l.store.Fences(ctx, of...)
	if err != nil {
		return nil, err
	}
	l.see(fences)
	return fences, nil
}

// Take takes shards over: it reads their fences and raises them. It returns the
// holds of the claims that were won; one that another won is left out, without
// an error. After an error nothing is held, although fences may have moved. A
// hold that this Log had of one of the shards is dropped.
func (l *Log) Take(ctx context.Context, shards []topology.Shard) ([]*Hold, error) {
	select {
	case l.taking <- struct{}{}:
		defer func() { <-l.taking }()
	case <-ctx.Done():
		return nil, problem.Wrap(ctx.Err(), problem.Unavailable, "another take of shards is under way")
	}
	claims, err := l.claims(ctx, shards)
	if err != nil || len(claims) == 0 {
		return nil, err
	}
	for _, c := range claims {
		l.dropHeld(c.Shard)
	}
	// Repeating the same claims is safe: a claim that an earlier, lost call has
	// won shows as (From+1, owner) and is ours, for takes are one at a time; and
	// the lost call, should it arrive after this, finds its From passed.
	var now []Fence
	err = l.repeat(ctx, func() error {
		now, err = l.store.Raise(ctx, l.owner, claims)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(now) != len(claims) {
		return nil, problem.New(problem.Internal, "the message store answered %d of %d claims", len(now), len(claims))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	holds := make([]*Hold, 0, len(claims))
	for i, c := range claims {
		if f := now[i]; f.Shard == c.Shard && f.Token == c.From+1 && f.Owner == l.owner {
			h := newHold(l, c.Shard, f.Token)
			l.holds[c.Shard] = h
			holds = append(holds, h)
		}
	}
	return holds, nil
}

// claims are what it takes to raise the fences of the shards, each once.
func (l *Log) claims(ctx context.Context, shards []topology.Shard) ([]Claim, error) {
	if len(shards) == 0 {
		return nil, nil
	}
	var fences []Fence
	err := l.repeat(ctx, func() (err error) {
		fences, err = l.store.Fences(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	from := make(map[topology.Shard]topology.Token, len(fences))
	for _, f := range fences {
		from[f.Shard] = f.Token
	}
	claims := make([]Claim, 0, len(shards))
	seen := make(map[topology.Shard]bool, len(shards))
	for _, s := range shards {
		if s >= topology.Shards {
			return nil, problem.New(problem.Internal, "there is no shard %d", s)
		}
		if !seen[s] {
			seen[s] = true
			claims = append(claims, Claim{Shard: s, From: from[s]})
		}
	}
	return claims, nil
}

// see closes the holds whose shards the fences show under a higher token. A read
// that began before a hold was taken shows a lower one, which says nothing.
func (l *Log) see(fences []Fence) {
	l.mu.Lock()
	var lost []*Hold
	for _, f := range fences {
		if h := l.holds[f.Shard]; h != nil && f.Token > h.token {
			lost = append(lost, h)
		}
	}
	l.mu.Unlock()
	for _, h := range lost {
		h.lose(errFenced(h))
	}
}

func (l *Log) dropHeld(s topology.Shard) {
	l.mu.Lock()
	h := l.holds[s]
	l.mu.Unlock()
	if h != nil {
		h.Drop()
	}
}

// forget takes a hold that is lost off the list.
func (l *Log) forget(h *Hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holds[h.shard] == h {
		delete(l.holds, h.shard)
	}
}

// repeat calls do until it succeeds, its error is final, ctx ends, or it was
// tried often enough. The last error is returned.
func (l *Log) repeat(ctx context.Context, do func() error) error {
	pause := waitMin
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || final(err) || attempt == attemptsMax || ctx.Err() != nil {
			return err
		}
		if l.opts.wait(ctx, pause) != nil {
			return err // ctx has ended: the store's error says more
		}
		pause = min(2*pause, waitMax)
	}
}

// final reports that doing the same again makes no sense: a newer owner, or a
// call that the driver refused without doing anything.
func final(err error) bool {
	switch problem.KindOf(err) {
	case problem.Fenced, problem.Invalid, problem.TooLarge, problem.Full, problem.Unsupported:
		return true
	default:
		return false
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
