package cassandra

import (
	"context"
	"math"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	logRead  = `SELECT rev, WRITETIME(body), body FROM log WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND rev >= ? LIMIT ?`
	logTimes = `SELECT rev, WRITETIME(body) FROM log WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND rev >= ? AND rev <= ?`
)

// Tail reads rows (clause 4), bucket by bucket. A log has no gap up to its head,
// so it ends in the first bucket that has no last row; what lies in a bucket behind
// that is of a write that was cut off (invariant 3).
func (l *logStore) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	if err := checkRef(ch); err != nil {
		return nil, err
	}
	if limit <= 0 || from >= math.MaxInt64 {
		return nil, nil
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	from = max(from, 1)
	var rows []msglog.Row
	for {
		bucket := l.db.logBucket(from)
		page, err := l.bucketRows(ctx, ch, bucket, from, limit-len(rows))
		if err != nil {
			return nil, err
		}
		rows = append(rows, page...)
		next := topology.Rev(uint64(bucket+1) * l.db.sizes.log) //nolint:gosec // a bucket that is there
		if len(page) == 0 || page[len(page)-1].Rev != next-1 || len(rows) >= limit {
			return rows, nil
		}
		from = next
	}
}

// bucketRows are a bucket's rows from a rev on.
func (l *logStore) bucketRows(ctx context.Context, ch topology.ChannelRef, bucket int64, from topology.Rev, limit int) ([]msglog.Row, error) {
	it := l.db.get(ctx, logRead, partition(ch, bucket, number(from), min(limit, math.MaxInt32))...).Iter()
	var (
		rows      []msglog.Row
		rev, time int64
		body      []byte
	)
	for it.Scan(&rev, &time, &body) {
		if rev <= 0 || time <= 0 {
			_ = it.Close() // the damage is what to report
			return nil, problem.New(problem.Internal, "a log row is damaged")
		}
		rows = append(rows, msglog.Row{Rev: topology.Rev(rev), Time: uint64(time), Blob: body})
		body = nil // the next row gets its own
	}
	return rows, readError(it.Close())
}

// bucketTimes are the write times of a bucket's rows with revs first to last.
func (l *logStore) bucketTimes(ctx context.Context, ch topology.ChannelRef, bucket int64, first, last topology.Rev) (map[topology.Rev]uint64, error) {
	it := l.db.get(ctx, logTimes, partition(ch, bucket, number(first), number(last))...).Iter()
	times := make(map[topology.Rev]uint64)
	var rev, time int64
	for it.Scan(&rev, &time) {
		times[topology.Rev(rev)] = uint64(time) //nolint:gosec // both were unsigned
	}
	return times, readError(it.Close())
}
