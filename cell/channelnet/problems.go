package channelnet

import (
	"errors"
	"time"

	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
)

// causeMax bounds what the log of one process says of an error of another.
const causeMax = 300

// problemOf is an error as it crosses: its kind, what may be shown, and its cause
// for the log of whom it reaches.
func problemOf(err error) *cellv1.Problem {
	p := &cellv1.Problem{Kind: []byte(problem.KindOf(err)), Text: []byte(problem.Show(err))}
	if e, ok := errors.AsType[*problem.Error](err); ok {
		p.Field, p.RetryAfterUs = []byte(e.Field), micros(e.RetryAfter)
		err = e.Cause
	}
	if err != nil {
		why := err.Error()
		p.Cause = []byte(why[:min(len(why), causeMax)])
	}
	return p
}

// errorOf is the error that crossed as p.
func errorOf(p *cellv1.Problem) error {
	e := &problem.Error{
		Kind: problem.Kind(p.GetKind()), Msg: string(p.GetText()), Field: string(p.GetField()),
		RetryAfter: duration(p.GetRetryAfterUs()),
	}
	if e.Kind == "" {
		e.Kind, e.Msg = problem.Internal, "internal error"
	}
	if len(p.GetCause()) > 0 {
		e.Cause = errors.New(string(p.GetCause()))
	}
	return e
}

// micros is a time as it crosses, rounded up so that a little is not nothing.
func micros(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Microsecond - 1) / time.Microsecond)
}

// duration is the time that crossed, at most an hour.
func duration(us uint64) time.Duration {
	return time.Duration(min(us, uint64(time.Hour/time.Microsecond))) * time.Microsecond
}

// errAway says that a request has not left for a peer: another owner, or the same
// one later, is to be asked.
func errAway(why error) error {
	return problem.Wrap(why, problem.NotOwner, "the channel server's process can't be reached")
}

// errCut says of a request that has left, and whose connection broke, what its
// caller may count on (N1).
func errCut(changes bool, why error) error {
	if changes {
		return problem.Wrap(why, problem.Unknown, "the connection to the channel server broke: the request may have been done; repeat it with the same key")
	}
	return errAway(why)
}

// errLeft is errCut for a caller who waits no more.
func errLeft(changes bool, why error) error {
	if changes {
		return problem.Wrap(why, problem.Unknown, "the request took too long and may have been done; repeat it with the same key")
	}
	return problem.Wrap(why, problem.Unavailable, "the request took too long; try again")
}

func errBusy() error {
	return &problem.Error{Kind: problem.Unavailable, Msg: "too much is being asked at the moment; try again", RetryAfter: 200 * time.Millisecond}
}
