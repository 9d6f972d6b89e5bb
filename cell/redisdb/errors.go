package redisdb

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/problem"
)

// retryAfter is when a caller may try again what Redis did not do.
const retryAfter = time.Second

// refused reports whether err says that the command was not done: the server
// answered so, or was never reached.
func refused(err error) bool {
	if _, answered := errors.AsType[redis.Error](err); answered {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed)
}

// wrote maps an error of a write: it is Unknown where it may have been done.
func wrote(err error) error {
	switch {
	case err == nil:
		return nil
	case refused(err):
		return away(err)
	default:
		return later(problem.Wrap(err, problem.Unknown, "Redis has not answered: the change may have been made"))
	}
}

// away maps an error of a read, or of a write that was not done.
func away(err error) error {
	if err == nil {
		return nil
	}
	return later(problem.Wrap(err, problem.Unavailable, "Redis can't be reached or refuses"))
}

func later(e *problem.Error) error {
	e.RetryAfter = retryAfter
	return e
}

// hasEnded reports whether ctx has, which is no fault of the server's.
func hasEnded(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return problem.Wrap(err, problem.Unavailable, "the request took too long; try again")
	}
	return nil
}

// pause waits; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
