// Package h3 serves HTTP/3 between our own roles. Its types are net/http's; every
// quic-go type stays inside.
package h3

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"parley/internal/failpoint"
	"parley/internal/network"
	"parley/internal/problem"
)

// Limits of a server's connections.
const (
	idleMax      = 30 * time.Second
	streamsMax   = 1024 // requests under way on one connection
	stopMax      = 5 * time.Second
	headerBytes  = 64 << 10
	aliveEvery   = 10 * time.Second
	handshakeMax = 5 * time.Second
)

// Server serves a handler over HTTP/3 at an address.
type Server struct {
	Addr    string // host:port, UDP
	TLS     *tls.Config
	Handler http.Handler
	Log     *slog.Logger
	Net     network.Network
}

// Run listens, calls ready, serves until ctx ends, and lets requests that are
// under way end for a short time.
func (s *Server) Run(ctx context.Context, ready func()) error {
	addr, err := net.ResolveUDPAddr("udp", s.Addr)
	if err != nil {
		return problem.Wrap(err, problem.Invalid, "the address %q", s.Addr)
	}
	socket, err := s.Net.UDP(addr)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "%s can't be listened on: is another process using it?", s.Addr)
	}
	defer func() { _ = socket.Close() }() // the server has let go of it
	srv := &http3.Server{
		Handler: s.Handler, TLSConfig: http3.ConfigureTLSConfig(s.TLS), MaxHeaderBytes: headerBytes, Logger: s.Log,
		QUICConfig: &quic.Config{
			MaxIdleTimeout: idleMax, HandshakeIdleTimeout: handshakeMax, MaxIncomingStreams: streamsMax, KeepAlivePeriod: aliveEvery,
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(socket) }()
	ready()
	select {
	case err = <-served:
		return err
	case <-ctx.Done():
	}
	if failpoint.Crashed(ctx) {
		_ = socket.Close() // first: the dead say nothing
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopMax)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		s.Log.Warn("requests did not end in order", "addr", s.Addr, "err", err)
	}
	_ = srv.Close() // what would not end is cut
	if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.Log.Debug("HTTP/3 server ended", "addr", s.Addr, "err", err)
	}
	return nil
}
