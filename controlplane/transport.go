package controlplane

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"parley/internal/pki"
	"parley/internal/problem"
)

// streams is Raft's transport: TCP with mutual TLS between nodes of the role
// control.
type streams struct {
	net.Listener
	client *tls.Config
}

func listen(addr string, id *pki.Bundle) (*streams, error) {
	l, err := tls.Listen("tcp", addr, id.Server(pki.RoleControl))
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "%s can't be listened on: is another process using it?", addr)
	}
	return &streams{Listener: l, client: id.Client(pki.RoleControl)}, nil
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	d := tls.Dialer{Config: s.client}
	return d.DialContext(ctx, "tcp", string(addr))
}

// raftLogger passes what Raft logs on to slog.
func raftLogger(log *slog.Logger) hclog.Logger { //nolint:ireturn // Raft asks for it
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, Output: io.Discard})
	l.RegisterSink(sink{log})
	return l
}

type sink struct{ log *slog.Logger }

// Accept implements hclog.SinkAdapter. What is routine to Raft is debugging to us.
func (s sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	at := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		at = slog.LevelWarn // a peer that is away is no error of this node's
	case level == hclog.Warn:
		at = slog.LevelInfo
	}
	s.log.Log(context.Background(), at, "raft says", append([]any{"part", name, "said", msg}, args...)...)
}
