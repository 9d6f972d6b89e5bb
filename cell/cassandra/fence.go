package cassandra

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/gocql/gocql"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	fenceRead  = `SELECT shard, tok, owner FROM fence WHERE cell = ?`
	fenceSome  = `SELECT shard, tok, owner FROM fence WHERE cell = ? AND shard IN ?`
	fenceFirst = `INSERT INTO fence (cell, shard, tok, owner) VALUES (?, ?, ?, ?) IF NOT EXISTS`
	fenceRaise = `UPDATE fence SET tok = ?, owner = ? WHERE cell = ? AND shard = ? IF tok = ?`
)

const (
	// raiseRounds is how often a batch is tried again because another's came first:
	// each round somebody's batch is through, and channel servers are some tens.
	raiseRounds = 32
	// raisePause spreads those who lost a round, so that they don't meet again.
	raisePause = 30 * time.Millisecond
)

// Raise moves fences (clause 1). The claims are one conditional batch: Cassandra
// takes all of it or, if one of them is too late, nothing; then those that still
// can be won are tried again.
//
// What a lost answer means: a read at SERIAL decides every round that was under
// way before it answers, so what it shows is what the batch has come to, as far as
// its coordinator had brought it. One that is still at work may bring the same
// batch in later; its conditions are looked at again then, and it either is what
// this call wants or finds its From passed. A batch that was refused has decided
// those rounds itself, so a read at quorum shows what is in its way.
func (l *logStore) Raise(ctx context.Context, owner topology.ServerID, claims []msglog.Claim) ([]msglog.Fence, error) {
	if err := checkClaims(owner, claims); err != nil {
		return nil, err
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	now := make(map[topology.Shard]msglog.Fence, len(claims))
	left, err := claims, error(nil)
	for round := 0; len(left) > 0; round++ {
		if round == raiseRounds || round > 0 && pause(ctx, raisePause<<min(round-1, 3)) != nil {
			return nil, problem.Wrap(err, problem.Unknown, "the shards' fences may or may not have been raised; try again")
		}
		if left, err = l.raiseSome(ctx, owner, left, now); errors.Is(err, gocql.ErrNoConnections) && round == 0 {
			return nil, unavailable(err)
		}
	}
	out := make([]msglog.Fence, len(claims))
	for i, c := range claims {
		out[i] = now[c.Shard]
	}
	return out, nil
}

// raiseSome is one round: it notes what came of the claims, and gives those of
// which that is not known, or that can still be won.
func (l *logStore) raiseSome(
	ctx context.Context, owner topology.ServerID, claims []msglog.Claim, now map[topology.Shard]msglog.Fence,
) (left []msglog.Claim, err error) {
	won, err := l.raise(ctx, owner, claims)
	if won {
		for _, c := range claims {
			now[c.Shard] = msglog.Fence{Shard: c.Shard, Token: c.From + 1, Owner: owner}
		}
		return nil, nil
	}
	how := gocql.Quorum
	if err != nil {
		how = gocql.Consistency(gocql.Serial)
	}
	present, readErr := l.fences(ctx, how)
	if readErr != nil {
		if err == nil {
			err = readErr
		}
		return claims, err
	}
	return settle(claims, present, now), err
}

// settle notes the fences of the claims that can't be won any more, and gives the
// others.
func settle(claims []msglog.Claim, present []msglog.Fence, now map[topology.Shard]msglog.Fence) []msglog.Claim {
	at := make(map[topology.Shard]msglog.Fence, len(present))
	for _, f := range present {
		at[f.Shard] = f
	}
	var left []msglog.Claim
	for _, c := range claims {
		f, ok := at[c.Shard]
		if !ok {
			f.Shard = c.Shard
		}
		if f.Token == c.From {
			left = append(left, c)
			continue
		}
		now[c.Shard] = f
	}
	return left
}

// raise tries one batch. It is not tried again at another node: two tries of one
// conditional batch compete with each other.
func (l *logStore) raise(ctx context.Context, owner topology.ServerID, claims []msglog.Claim) (won bool, err error) {
	b := l.db.session.NewBatch(gocql.UnloggedBatch).WithContext(ctx).SerialConsistency(gocql.Serial)
	b.SetConsistency(gocql.Quorum)
	for _, c := range claims {
		if c.From == 0 {
			b.Query(fenceFirst, l.db.cell, int(c.Shard), int64(1), string(owner))
			continue
		}
		b.Query(fenceRaise, number(c.From+1), string(owner), l.db.cell, int(c.Shard), number(c.From))
	}
	won, rows, err := l.db.session.MapExecuteBatchCAS(b, make(map[string]any))
	if rows != nil {
		if closeErr := rows.Close(); err == nil {
			err = closeErr
		}
	}
	return won && err == nil, err
}

// someMax shards are asked for by name. Of more, all rows are read: a name in a list
// costs more than a row on the way.
const someMax = 32

// Fences reads fence rows (clause 2): at quorum, which a Raise that returned
// has its batch at. One that has not may be seen or not, and that is enough: the
// new owner reads a log only after its Raise has returned, so whoever read its own
// token here had written before that read, and its rows are found.
func (l *logStore) Fences(ctx context.Context, of ...topology.Shard) ([]msglog.Fence, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	return l.fences(ctx, gocql.Quorum, of...)
}

func (l *logStore) fences(ctx context.Context, c gocql.Consistency, of ...topology.Shard) ([]msglog.Fence, error) {
	cql, args, most := fenceRead, []any{l.db.cell}, topology.Shards
	if n := len(of); n > 0 && n <= someMax {
		names := make([]int, n)
		for i, s := range of {
			names[i] = int(s)
		}
		cql, args, most = fenceSome, append(args, names), n
	}
	rows := l.db.get(ctx, cql, args...).Consistency(c).Iter()
	fences := make([]msglog.Fence, 0, most)
	var (
		shard int
		token int64
		owner string
	)
	for rows.Scan(&shard, &token, &owner) {
		if shard < 0 || shard >= topology.Shards || token < 0 {
			_ = rows.Close() // the damage is what to report
			return nil, problem.New(problem.Internal, "a fence row is damaged")
		}
		fences = append(fences, msglog.Fence{Shard: topology.Shard(shard), Token: topology.Token(token), Owner: topology.ServerID(owner)})
	}
	if err := rows.Close(); err != nil {
		return nil, readError(err)
	}
	return fences, nil
}

// fence is one shard's.
func (l *logStore) fence(ctx context.Context, s topology.Shard) (msglog.Fence, error) {
	fences, err := l.fences(ctx, gocql.Quorum, s)
	for _, f := range fences {
		if f.Shard == s {
			return f, nil
		}
	}
	return msglog.Fence{Shard: s}, err
}

// checkClaims refuses what can't be one batch.
func checkClaims(owner topology.ServerID, claims []msglog.Claim) error {
	if !validName(string(owner)) {
		return problem.New(problem.Invalid, "an owner's id has 1 to %d bytes of text", nameMax)
	}
	seen := make(map[topology.Shard]bool, len(claims))
	for _, c := range claims {
		switch {
		case c.Shard >= topology.Shards:
			return problem.New(problem.Invalid, "there is no shard %d", c.Shard)
		case c.From >= tokenMax:
			return problem.New(problem.Invalid, "token %d is past the last that a write time can carry", c.From)
		case seen[c.Shard]:
			return problem.New(problem.Invalid, "shard %d is claimed twice in one call", c.Shard)
		}
		seen[c.Shard] = true
	}
	return nil
}

// pause waits up to so long.
func pause(ctx context.Context, most time.Duration) error {
	t := time.NewTimer(rand.N(most))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
