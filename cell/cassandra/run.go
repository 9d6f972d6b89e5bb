package cassandra

import (
	"context"
	"sync"
	"time"

	"github.com/gocql/gocql"
)

const (
	// batchBytesMax is how much goes to one partition in one write. Cassandra takes
	// half a commit log segment, 16 MiB unless set lower; a coordinator holds a few
	// copies of each.
	batchBytesMax = 512 << 10
	// writesMax of one call are under way at a time: some ten a connection, so that
	// one call with many channels leaves room for the others'.
	writesMax = 32
	// pageRows are fetched at a time by a read of many.
	pageRows = 500
)

// stmt is one statement with its values. bytes is what counts of them.
type stmt struct {
	cql   string
	args  []any
	bytes int
}

// mutation is statements for one partition: Cassandra takes them all or none.
type mutation []stmt

// get is a read at quorum. It is not older than any write that was answered before
// it began.
func (d *DB) get(ctx context.Context, cql string, args ...any) *gocql.Query {
	q := d.session.Query(cql, args...).WithContext(ctx).Consistency(gocql.Quorum).
		Idempotent(true).RetryPolicy(nextHost{d.metrics}).PageSize(pageRows)
	if d.spare {
		// With one node the second attempt would find no host and fail the first.
		q = q.Observer(d.reads).SetSpeculativeExecutionPolicy(d.reads.policy())
	}
	return q
}

// put makes a write at quorum. It carries its own time, so it is tried again, and made
// at a second node beside a slow one.
func (d *DB) put(ctx context.Context, m mutation) error {
	policy := d.writes.policy()
	began := time.Now()
	attempts, err := d.write(ctx, m, policy)
	if err != nil && d.spare && time.Since(began) >= policy.Delay() {
		attempts++ // the client counts those that have ended: another may be under way
	}
	return writeError(err, attempts)
}

func (d *DB) write(ctx context.Context, m mutation, beside gocql.SpeculativeExecutionPolicy) (attempts int, err error) {
	if len(m) == 1 {
		q := d.session.Query(m[0].cql, m[0].args...).WithContext(ctx).Consistency(gocql.Quorum).
			Idempotent(true).RetryPolicy(nextHost{d.metrics}).Observer(d.writes)
		if d.spare {
			q = q.SetSpeculativeExecutionPolicy(beside)
		}
		err = q.Exec()
		return q.Attempts(), err
	}
	b := d.session.NewBatch(gocql.UnloggedBatch).WithContext(ctx).RetryPolicy(nextHost{d.metrics}).Observer(d.writes)
	b.SetConsistency(gocql.Quorum)
	for _, s := range m {
		b.Entries = append(b.Entries, gocql.BatchEntry{Stmt: s.cql, Args: s.args, Idempotent: true})
	}
	if d.spare {
		b = b.SpeculativeExecutionPolicy(beside)
	}
	err = d.session.ExecuteBatch(b)
	return b.Attempts(), err
}

// putInOrder makes writes one after the other and stops at the first that fails.
func (d *DB) putInOrder(ctx context.Context, ms []mutation) error {
	for i, m := range ms {
		if err := d.put(ctx, m); err != nil {
			if i > 0 {
				return unknown(err) // a part is done
			}
			return err
		}
	}
	return nil
}

// together does parts of one call side by side, and gives the worst of their
// errors. When some are done, what the others left undone is unknown as a whole.
func together(n int, do func(i int) error) error {
	if n == 1 {
		return do(0)
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	slots := make(chan struct{}, writesMax)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	var err error
	failed := 0
	for _, e := range errs {
		if e != nil {
			failed++
		}
		err = worse(err, e)
	}
	if failed > 0 && failed < n {
		return unknown(err)
	}
	return err
}
