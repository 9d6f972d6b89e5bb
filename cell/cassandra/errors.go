package cassandra

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gocql/gocql"

	"parley/internal/problem"
)

// retryAfter is what a caller is told to wait when a quorum is not there: about
// what a node takes to be seen as back.
const retryAfter = time.Second

// attemptsMax bounds how many nodes one request is tried at: a quorum of three
// needs two, so a third says nothing new.
const attemptsMax = 3

// nextHost tries a request at another node when the first could not do it. Only
// for what may be done twice: reads, and writes that carry their own time.
type nextHost struct{ metrics *metrics }

// Attempt says whether there is another try.
func (nextHost) Attempt(q gocql.RetryableQuery) bool {
	return q.Attempts() < attemptsMax && q.Context().Err() == nil
}

// GetRetryType says where: not at all when any node would answer the same.
func (h nextHost) GetRetryType(err error) gocql.RetryType {
	if refused(err) {
		return gocql.Rethrow
	}
	h.metrics.repeats.WithLabelValues("failed").Inc()
	return gocql.RetryNextHost
}

// code is Cassandra's number of an error, -1 if it is not one of its answers.
func code(err error) int {
	if answer, ok := errors.AsType[gocql.RequestError](err); ok {
		return answer.Code()
	}
	return -1
}

// refused says that a node looked at the statement and would not do it.
func refused(err error) bool {
	switch code(err) {
	case gocql.ErrCodeSyntax, gocql.ErrCodeUnauthorized, gocql.ErrCodeInvalid, gocql.ErrCodeConfig, gocql.ErrCodeAlreadyExists, gocql.ErrCodeCredentials:
		return true
	default:
		return false
	}
}

// notDone says that a plain write that was tried so many times did nothing: it
// never left, or its only coordinator turned it away.
func notDone(err error, attempts int) bool {
	if errors.Is(err, gocql.ErrNoConnections) { // else the last node's error is given
		return attempts == 0
	}
	if attempts > 1 {
		return false
	}
	switch code(err) {
	case gocql.ErrCodeUnavailable, gocql.ErrCodeOverloaded, gocql.ErrCodeBootstrapping:
		return true
	default:
		return errors.Is(err, gocql.ErrNoStreams) || refused(err)
	}
}

// writeError gives a write's error its kind.
func writeError(err error, attempts int) error {
	switch {
	case err == nil:
		return nil
	case refused(err) && attempts <= 1:
		return refusal(err)
	case notDone(err, attempts):
		return unavailable(err)
	default:
		return unknown(err)
	}
}

// readError gives a read's error its kind.
func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case refused(err):
		return refusal(err)
	default:
		return unavailable(err)
	}
}

// refusal is the error of a statement that Cassandra would not do. The one that
// an operator meets in passing is the guardrail against full disks.
func refusal(err error) error {
	if code(err) == gocql.ErrCodeInvalid && strings.Contains(err.Error(), "disk usage") {
		return problem.Wrap(err, problem.Full, "the message store's disks are nearly full: free space, or add nodes")
	}
	return problem.Wrap(err, problem.Internal, "the message store refused a statement")
}

func unavailable(err error) error {
	p := problem.Wrap(err, problem.Unavailable, "the message store can't be reached; try again")
	p.RetryAfter = retryAfter
	return p
}

func unknown(err error) error {
	p := problem.Wrap(err, problem.Unknown, "the message store may or may not have kept it; try again")
	p.RetryAfter = retryAfter
	return p
}

// ended is the error of a call whose time was over before it began.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return problem.Wrap(err, problem.Unavailable, "the request took too long; try again")
	}
	return nil
}

// worse is the error of two parts of one call: nothing was done only if neither
// did anything.
func worse(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil, problem.Is(a, problem.Unknown):
		return a
	default:
		return b
	}
}
