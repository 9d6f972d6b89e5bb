package link

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/quic-go/quic-go"
)

// Why a link ended, or was never made. Every error of this package matches one
// of these by errors.Is, and those of an ended link also net.ErrClosed.
var (
	// ErrClosed is an end on purpose, by either side.
	ErrClosed = errors.New("link closed")
	// ErrOverrun is a peer that doesn't read: LaneBytesMax were pending.
	ErrOverrun = errors.New("link lane overrun")
	// ErrDead is a peer that can't be reached any more, or was restarted.
	ErrDead = errors.New("link peer is gone")
	// ErrVersion is a peer that speaks another version of the protocol.
	ErrVersion = errors.New("link version mismatch")
	// ErrProtocol is a peer that breaks the protocol.
	ErrProtocol = errors.New("link protocol error")
	// ErrRefused is a peer that is not let in: its certificate or its Hello.
	ErrRefused = errors.New("link refused")
)

// Error says why a link ended.
type Error struct {
	Kind   error  // one of the Err… above
	Detail string // in words, from whoever found the fault
	Remote bool   // the peer closed the link
	Cause  error
}

// Error is for the log.
func (e *Error) Error() string {
	s := e.Kind.Error()
	if e.Remote {
		s += " by the peer"
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap lets errors.Is find the kind, net.ErrClosed and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind, net.ErrClosed}
	}
	return []error{e.Kind, net.ErrClosed, e.Cause}
}

func errorf(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

// Codes of QUIC's CONNECTION_CLOSE. Append-only.
const (
	codeClosed   quic.ApplicationErrorCode = 0
	codeVersion  quic.ApplicationErrorCode = 1
	codeProtocol quic.ApplicationErrorCode = 2
	codeRefused  quic.ApplicationErrorCode = 3
	codeOverrun  quic.ApplicationErrorCode = 4
	codeDead     quic.ApplicationErrorCode = 5
)

// reasonBytesMax keeps a close reason within one packet.
const reasonBytesMax = 400

func codeOf(err error) quic.ApplicationErrorCode {
	switch {
	case errors.Is(err, ErrVersion):
		return codeVersion
	case errors.Is(err, ErrProtocol):
		return codeProtocol
	case errors.Is(err, ErrRefused):
		return codeRefused
	case errors.Is(err, ErrOverrun):
		return codeOverrun
	case errors.Is(err, ErrDead):
		return codeDead
	default:
		return codeClosed
	}
}

func kindOfCode(c quic.ApplicationErrorCode) error {
	switch c {
	case codeVersion:
		return ErrVersion
	case codeProtocol:
		return ErrProtocol
	case codeRefused:
		return ErrRefused
	case codeOverrun:
		return ErrOverrun
	case codeDead:
		return ErrDead
	default:
		return ErrClosed
	}
}

// reasonOf is what the peer is told: the detail without causes, which may name
// what is ours alone.
func reasonOf(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	if len(e.Detail) > reasonBytesMax {
		return e.Detail[:reasonBytesMax]
	}
	return e.Detail
}

// mapError turns what quic-go reports into this package's errors.
func mapError(err error) error {
	var (
		mine      *Error
		app       *quic.ApplicationError
		idle      *quic.IdleTimeoutError
		reset     *quic.StatelessResetError
		handshake *quic.HandshakeTimeoutError
		version   *quic.VersionNegotiationError
		transport *quic.TransportError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mine):
		return mine
	case errors.As(err, &app):
		return &Error{Kind: kindOfCode(app.ErrorCode), Detail: app.ErrorMessage, Remote: app.Remote}
	case errors.As(err, &idle):
		return errorf(ErrDead, "no packet for %s", idleMax)
	case errors.As(err, &reset):
		return errorf(ErrDead, "the peer has been restarted")
	case errors.As(err, &handshake):
		return errorf(ErrDead, "no answer to the handshake")
	case errors.As(err, &version):
		return errorf(ErrVersion, "no QUIC version in common")
	case errors.As(err, &transport) && transport.ErrorCode.IsCryptoError():
		return &Error{Kind: ErrRefused, Detail: "TLS handshake failed (certificate, role or protocol name)", Remote: transport.Remote, Cause: err}
	case errors.As(err, &transport):
		return &Error{Kind: ErrProtocol, Remote: transport.Remote, Cause: err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Error{Kind: ErrDead, Detail: "connecting took too long or was given up", Cause: err}
	default:
		return &Error{Kind: ErrDead, Cause: err}
	}
}
