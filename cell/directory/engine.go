package directory

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"parley/internal/problem"
)

// engine is where SQLite and Postgres differ. The SQL, the migrations and all else
// are the same.
type engine interface {
	// forUpdate ends a query whose row nobody else may change, nor ask for in this
	// way, until the transaction ends.
	forUpdate() string
	// failed gives an error of the engine its kind.
	failed(err error) error
	// undone reports whether a COMMIT that failed has certainly done nothing.
	undone(err error) bool
	// again reports whether what failed has done nothing and may go well at once.
	again(err error) bool
}

// txn is a transaction.
type txn struct {
	*sql.Tx

	forUpdate string
}

const (
	// attemptsMax bounds how often a transaction is begun: two that lock each other
	// out are rare, since all lock in one order.
	attemptsMax = 4
	// attemptsPause is the first pause between two; each next one is twice as long.
	attemptsPause = 5 * time.Millisecond
)

// call runs do within the time that a call may take. What did nothing and may go
// well now is tried again.
func (d *Directory) call(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	pause := attemptsPause
	for attempt := 1; ; attempt++ {
		err = do(ctx)
		if err == nil || attempt == attemptsMax || !d.engine.again(err) || !wait(ctx, pause) {
			return leave(err)
		}
		pause *= 2
	}
}

// enter begins a call, unless the engine is known to be away; leave ends it and
// gives its error a kind.
func (d *Directory) enter(ctx context.Context) (_ context.Context, leave func(error) error, _ error) {
	if d.watch == nil {
		return ctx, d.engine.failed, nil
	}
	ctx, done, err := d.watch.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	return ctx, func(err error) error {
		defer done()
		if away := d.watch.why(ctx); away != nil && err != nil && !isOurs(err) {
			return away
		}
		if err = d.engine.failed(err); isUnreachable(err) {
			d.watch.look()
		}
		return err
	}, nil
}

// wait reports false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tx runs do in a transaction, maybe more than once: do starts afresh each time. A
// transaction that failed did nothing, save one of kind Unknown.
func (d *Directory) tx(ctx context.Context, do func(*txn) error) error {
	return d.call(ctx, func(ctx context.Context) error { return d.try(ctx, do) })
}

func (d *Directory) try(ctx context.Context, do func(*txn) error) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	err = do(&txn{tx, d.engine.forUpdate()})
	if err == nil {
		err = ctx.Err() // from here on its end would leave the outcome open
	}
	if err != nil {
		_ = tx.Rollback() // the failure is what to report
		return err
	}
	if err = tx.Commit(); err != nil && !d.engine.undone(err) {
		return &problem.Error{
			Kind: problem.Unknown, Msg: "the change may have been made, or not; look, or try again", RetryAfter: retryAfter,
			Cause: errors.Join(errUnreachable, err),
		}
	}
	return err
}

// errUnreachable marks errors that say nothing but that nobody answered.
var errUnreachable = errors.New("the directory's engine can't be reached")

func isUnreachable(err error) bool { return errors.Is(err, errUnreachable) }

// retryAfter is when a caller may come again: the engine is looked at each second.
const retryAfter = 2 * time.Second

// unreachable is the error of a call that did nothing since nobody answered.
func unreachable(cause error) error {
	return &problem.Error{
		Kind: problem.Unavailable, Msg: "the directory can't be used now; try again", RetryAfter: retryAfter,
		Cause: errors.Join(errUnreachable, cause),
	}
}

// isOurs reports whether an error has a kind already.
func isOurs(err error) bool {
	_, ok := errors.AsType[*problem.Error](err)
	return ok
}

// failed gives the errors that all engines have a kind, and leaves ours alone.
func failed(err error) error {
	switch {
	case err == nil, isOurs(err):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unavailable, "the request took too long; try again")
	}
	return problem.Wrap(err, problem.Unavailable, "the directory can't be used now; try again")
}

// one asks for a row, or says NotFound: also of a key that no row can have.
func one[T any](ctx context.Context, d *Directory, scan func(scanner) (T, error), none, query string, args ...any) (v T, err error) {
	if unstorable(args) {
		return v, problem.New(problem.NotFound, "%s", none)
	}
	err = d.call(ctx, func(ctx context.Context) (err error) {
		v, err = scan(d.read.QueryRowContext(ctx, query, args...))
		if errors.Is(err, sql.ErrNoRows) {
			return problem.New(problem.NotFound, "%s", none)
		}
		return err
	})
	return v, err
}

// many asks for all rows of a query.
func many[T any](ctx context.Context, d *Directory, scan func(scanner) (T, error), query string, args ...any) (out []T, err error) {
	if unstorable(args) {
		return nil, problem.New(problem.Invalid, "a name or a cursor is not valid UTF-8, or has a NUL")
	}
	err = d.call(ctx, func(ctx context.Context) (err error) {
		out, err = rowsOf(ctx, d.read, scan, query, args...)
		return err
	})
	return out, err
}

// querier is a pool or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func rowsOf[T any](ctx context.Context, db querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
