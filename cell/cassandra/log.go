package cassandra

import (
	"context"
	"maps"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	logInsert = `INSERT INTO log (workspace, generation, channel, bucket, rev, body) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?`
	logDelete = `DELETE FROM log USING TIMESTAMP ? WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND rev >= ?`
)

// logStore is the message store (msglog.Store) of a cell of many processes.
//
// Invariants:
//  1. A row's write time is its owner's token and number, so that replicas agree on
//     the younger row, and on what a seal has deleted, in whatever order they get
//     them. No clock is in it.
//  2. The rows of one call for one channel reach the buckets in rising order, each
//     bucket's after the last is at quorum, and in a bucket all at once up to
//     batchBytesMax. So what is visible of them has no gap.
//  3. Before the last row of a bucket, all that is in the next one from before the
//     token is deleted. So a seal need not look for the buckets in which a late write
//     may come up: it deletes in the one where the log goes on, and every later one is
//     sealed before it can be read (Tail reads none after one that is not full).
//  4. A channel is put on the list of Dirty, at quorum, before a row of it is sent
//     that the list does not name it for (see marks).
type logStore struct {
	db    *DB
	marks [topology.Shards]marks
}

func newLogStore(d *DB) *logStore { return &logStore{db: d} }

func (d *DB) logBucket(rev topology.Rev) int64 { return number(uint64(rev) / d.sizes.log) }

// Append stores rows (clause 3). It does not look at the fence: the caller does,
// afterwards, and a row that comes too late is older than the seal it meets.
func (l *logStore) Append(ctx context.Context, s topology.Shard, t topology.Token, writes []msglog.Write) error {
	chs := make([]topology.ChannelRef, len(writes))
	for i, w := range writes {
		chs[i] = w.Channel
		if err := checkRows(t, w.Rows); err != nil {
			return err
		}
	}
	if err := checkChannels(s, chs); err != nil {
		return err
	}
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	return together(len(writes), func(i int) error { return l.append(ctx, s, t, writes[i]) })
}

func (l *logStore) append(ctx context.Context, s topology.Shard, t topology.Token, w msglog.Write) error {
	if len(w.Rows) == 0 {
		return nil
	}
	return l.listed(ctx, s, t, w.Channel, w.Rows, func() error {
		var ms []mutation
		for _, r := range w.Rows {
			if l.db.logBucket(r.Rev) != l.db.logBucket(r.Rev+1) { // invariant 3
				ms = append(ms, mutation{l.deletion(w.Channel, r.Rev+1, msglog.Time(t, 0))})
				l.db.trimmer.look(w.Channel, r.Rev)
			}
		}
		return l.db.putInOrder(ctx, append(ms, l.mutations(w.Channel, w.Rows)...))
	})
}

// mutations cuts rows into writes: at the ends of buckets and of batches.
func (l *logStore) mutations(ch topology.ChannelRef, rows []msglog.Row) []mutation {
	var (
		ms    []mutation
		last  int64
		bytes int
	)
	for i, r := range rows {
		bucket := l.db.logBucket(r.Rev)
		if i == 0 || bucket != last || bytes+len(r.Blob) > batchBytesMax {
			ms, last, bytes = append(ms, nil), bucket, 0
		}
		bytes += len(r.Blob)
		ms[len(ms)-1] = append(ms[len(ms)-1], stmt{cql: logInsert, args: partition(ch, bucket, number(r.Rev), r.Blob, number(r.Time))})
	}
	return ms
}

// deletion takes all rows of a bucket from a rev on that are no younger than time.
func (l *logStore) deletion(ch topology.ChannelRef, from topology.Rev, time uint64) stmt {
	args := append([]any{number(time)}, partition(ch, l.db.logBucket(from), number(from))...)
	return stmt{cql: logDelete, args: args}
}

// Repair carries out seals (clause 5). The tail goes first and the deletion is in
// the write with its last rows, or in one of its own when the log goes on in a
// bucket of its own. A seal of which only a part was done has changed nothing that
// a reader sees: the tail's rows are there already, with an older time.
func (l *logStore) Repair(ctx context.Context, s topology.Shard, t topology.Token, seals []msglog.Seal) error {
	chs := make([]topology.ChannelRef, len(seals))
	for i, seal := range seals {
		chs[i] = seal.Channel
		if err := checkRows(t, seal.Rows); err != nil {
			return err
		}
		if seal.Time != msglog.Time(t, 0) {
			return problem.New(problem.Invalid, "a seal's time must be the base of its token")
		}
		if n := len(seal.Rows); n > 0 && seal.Rows[n-1].Rev > seal.Above {
			return problem.New(problem.Invalid, "a seal deletes its own rows")
		}
	}
	if err := checkChannels(s, chs); err != nil {
		return err
	}
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	return together(len(seals), func(i int) error { return l.seal(ctx, s, t, seals[i]) })
}

func (l *logStore) seal(ctx context.Context, s topology.Shard, t topology.Token, seal msglog.Seal) error {
	rows, err := l.missing(ctx, seal.Channel, seal.Rows)
	if err != nil {
		return err
	}
	ms := l.mutations(seal.Channel, rows)
	if next := seal.Above + 1; seal.Above < ^topology.Rev(0) {
		del := l.deletion(seal.Channel, next, seal.Time)
		if n := len(rows); n > 0 && l.db.logBucket(rows[n-1].Rev) == l.db.logBucket(next) {
			ms[len(ms)-1] = append(ms[len(ms)-1], del)
		} else {
			ms = append(ms, mutation{del})
		}
	}
	do := func() error { return l.db.putInOrder(ctx, ms) }
	if len(rows) == 0 {
		return do()
	}
	return l.listed(ctx, s, t, seal.Channel, rows, do)
}

// missing is the rows of a tail that are not there yet with the same time or a
// later one. Cassandra itself keeps the later of two; of two with one time it keeps
// the one with the higher bytes, where the first should stay.
func (l *logStore) missing(ctx context.Context, ch topology.ChannelRef, rows []msglog.Row) ([]msglog.Row, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	there := make(map[topology.Rev]uint64, len(rows))
	for rev := rows[0].Rev; rev <= rows[len(rows)-1].Rev; {
		bucket := l.db.logBucket(rev)
		times, err := l.bucketTimes(ctx, ch, bucket, rev, rows[len(rows)-1].Rev)
		if err != nil {
			return nil, err
		}
		maps.Copy(there, times)
		rev = topology.Rev(uint64(bucket+1) * l.db.sizes.log) //nolint:gosec // a bucket that is there
	}
	left := make([]msglog.Row, 0, len(rows))
	for _, r := range rows {
		if at, ok := there[r.Rev]; !ok || at < r.Time {
			left = append(left, r)
		}
	}
	return left, nil
}
