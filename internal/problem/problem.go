// Package problem holds the errors that cross a boundary: each has a kind, a
// message that is safe to show, and a cause for the log. A kind is chosen where
// the fact is known and mapped once per boundary (HTTP status, socket error,
// exit code).
package problem

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind sorts errors by what the caller can do about them. The list is
// append-only: kinds cross the wire by name.
type Kind string

// The kinds, with their HTTP status.
const (
	Internal    Kind = "internal"     // 500: our fault
	Invalid     Kind = "invalid"      // 400: mend the request
	Unauthentic Kind = "unauthentic"  // 401: no valid token
	Denied      Kind = "denied"       // 403: a valid token that may not
	NotFound    Kind = "not_found"    // 404: or must not be known to exist
	Conflict    Kind = "conflict"     // 409: the state is another; read it again
	TooLarge    Kind = "too_large"    // 413
	Exhausted   Kind = "exhausted"    // 429: retry after RetryAfter
	Moved       Kind = "moved"        // 421: another cell owns the workspace
	Unavailable Kind = "unavailable"  // 503: nothing was done; retry
	Unknown     Kind = "unknown"      // 503: may have been done; repeat with the same key
	Fenced      Kind = "fenced"       // never leaves a cell: a newer owner exists
	NotOwner    Kind = "not_owner"    // never leaves a cell: ask the shard's owner
	Full        Kind = "full"         // 507: the disk is nearly full
	Unsupported Kind = "unsupported"  // 501: version or feature this peer lacks
	Precond     Kind = "precondition" // 412: the version named is not the present one
	Method      Kind = "method"       // 405: the path has other methods
	MediaType   Kind = "media_type"   // 415: the body is in a form that is not taken
)

var statuses = map[Kind]int{ //nolint:gochecknoglobals // a constant table
	Invalid: http.StatusBadRequest, Unauthentic: http.StatusUnauthorized, Denied: http.StatusForbidden,
	NotFound: http.StatusNotFound, Conflict: http.StatusConflict, TooLarge: http.StatusRequestEntityTooLarge,
	Exhausted: http.StatusTooManyRequests, Moved: http.StatusMisdirectedRequest,
	Unavailable: http.StatusServiceUnavailable, Unknown: http.StatusServiceUnavailable,
	Method: http.StatusMethodNotAllowed, MediaType: http.StatusUnsupportedMediaType, Full: http.StatusInsufficientStorage, Unsupported: http.StatusNotImplemented, Precond: http.StatusPreconditionFailed,
}

// Status is the kind's HTTP status; 500 for one that should not have left.
func (k Kind) Status() int {
	if s, ok := statuses[k]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// KindForStatus is the kind a bare HTTP status stands for; Internal if none.
func KindForStatus(status int) Kind {
	if status == http.StatusServiceUnavailable {
		return Unavailable
	}
	for k, s := range statuses {
		if s == status {
			return k
		}
	}
	return Internal
}

// Error is an error with a kind. Msg is shown to users and names the field and
// the fix; Cause is for the log only.
type Error struct {
	Kind       Kind
	Msg        string
	Field      string        // the field at fault, "" if none
	RetryAfter time.Duration // with Exhausted, Unavailable and Unknown; 0 = not said
	Cause      error
}

// Error is for the log: it includes the cause.
func (e *Error) Error() string {
	s := string(e.Kind) + ": " + e.Msg
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New makes an error whose formatted message is safe to show.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// Field makes an Invalid error about one field of the request.
func Field(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Msg: field + ": " + fmt.Sprintf(format, args...)}
}

// Wrap makes an error with a cause that only the log sees.
func Wrap(cause error, k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...), Cause: cause}
}

// KindOf is the kind of err: of the outermost Error in its chain, else
// Unavailable for an ended context, else Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Unavailable
	default:
		return Internal
	}
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Show is the message that is safe to show for err.
func Show(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Msg
	}
	if KindOf(err) == Unavailable {
		return "the request took too long; try again"
	}
	return "internal error"
}
