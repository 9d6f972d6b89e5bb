package channelnet

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"connectrpc.com/connect"

	"parley/cell/channel"
	"parley/internal/failpoint"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/gen/parley/cell/v1/cellv1connect"
	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// ServerConfig is what a Server needs to know.
type ServerConfig struct {
	Cell     topology.CellID
	Process  string // this process's name, unique in the cell
	Listen   string // host:port, TCP
	Identity *pki.Bundle
	// Known reports whether the cell has the workspace at its generation. Its word
	// is kept for two seconds; when it can't say, the request is let through: the
	// gateway has asked the same.
	Known func(ctx context.Context, p topology.Place) (bool, error)
	Net   network.Network
	Log   *slog.Logger
}

// Server serves the channel servers of this process to the cell's other ones.
type Server struct {
	cfg     ServerConfig
	tls     *tls.Config
	cluster *channel.Cluster
	log     *slog.Logger
	places  *places
	version uint32
}

// NewServer checks its arguments and touches nothing.
func NewServer(cfg ServerConfig, c *channel.Cluster) (*Server, error) {
	var faults []error
	if cfg.Process == "" {
		faults = append(faults, problem.Field("process", "must name this process"))
	}
	if cfg.Listen == "" {
		faults = append(faults, problem.Field("server_addr", "must be host:port"))
	}
	if cfg.Identity == nil || cfg.Identity.Identity().Cell != cfg.Cell {
		faults = append(faults, problem.Field("cert_dir", "the certificate must be of cell %q: issue one with --cell %s", cfg.Cell, cfg.Cell))
	}
	if cfg.Known == nil {
		faults = append(faults, errors.New("channelnet: needs to know the cell's workspaces"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, tls: inCell(cfg.Identity.Server(pki.RoleGateway, pki.RoleCell), cfg.Identity.Identity()),
		cluster: c, log: cfg.Log, places: newPlaces(cfg.Known), version: Version,
	}, nil
}

// Run listens, calls ready, and serves until ctx ends; then what is under way is
// cut. It is called once. The channel servers should have been drained before.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ln, err := s.cfg.Net.ListenTCP(ctx, s.cfg.Listen)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "server_addr: %s can't be listened on: is another process using it?", s.cfg.Listen)
	}
	mux := http.NewServeMux()
	var streams sync.WaitGroup
	path, handler := cellv1connect.NewChannelServiceHandler(&service{s, &streams}, connect.WithReadMaxBytes(requestBytesMax))
	mux.Handle(path, identified(handler))
	srv := &http.Server{
		Handler: mux, TLSConfig: s.tls, Protocols: new(http.Protocols), ReadHeaderTimeout: handshakeMax,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: deadAfter, PingTimeout: deadAfter, MaxReadFrameSize: 256 << 10,
			MaxReceiveBufferPerConnection: 4<<20 - 1, MaxReceiveBufferPerStream: 1 << 20,
		},
	}
	srv.Protocols.SetHTTP2(true)
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, "", "") }()
	ready()
	select {
	case err = <-served:
	case <-ctx.Done():
		if failpoint.Crashed(ctx) {
			_ = ln.Close() // first: the dead say nothing
		}
		_ = srv.Close()
		err = <-served
	}
	streams.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// service implements cellv1connect.ChannelServiceHandler.
type service struct {
	*Server
	streams *sync.WaitGroup
}

// Serve implements cellv1connect.ChannelServiceHandler.
func (s *service) Serve(ctx context.Context, st *connect.BidiStream[cellv1.ServeRequest, cellv1.ServeResponse]) error {
	s.streams.Add(1)
	defer s.streams.Done()
	m, err := st.Receive()
	if err != nil {
		return err
	}
	who, err := s.greet(ctx, m.GetHello())
	if err != nil {
		s.log.Warn("another process of the cell is refused", "process", string(m.GetHello().GetProcess()), "err", err)
		return st.Send(&cellv1.ServeResponse{Refused: problemOf(err)})
	}
	if err := st.Send(&cellv1.ServeResponse{Welcome: &cellv1.Welcome{Version: s.version, Process: []byte(s.cfg.Process)}}); err != nil {
		return err
	}
	return newServing(s.Server, who, m.GetHello().GetHoldings()).run(ctx, st)
}

// greet decides about a caller whose certificate was looked at already.
func (s *Server) greet(ctx context.Context, h *cellv1.Hello) (pki.Role, error) {
	if h.GetVersion() != s.version {
		return "", problem.New(problem.Unsupported, "the process %s speaks version %d of the cell's protocol, the process %s version %d",
			h.GetProcess(), h.GetVersion(), s.cfg.Process, s.version)
	}
	if string(h.GetCell()) != string(s.cfg.Cell) {
		return "", problem.New(problem.Denied, "the process %s is of cell %q, this one of %q", h.GetProcess(), h.GetCell(), s.cfg.Cell)
	}
	return roleOf(ctx)
}
