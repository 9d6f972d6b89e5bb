package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/problem"
)

// streams is Raft's transport: TCP with mutual TLS between nodes of the role
// control. It ends what it accepted when it is closed, which Raft leaves undone.
type streams struct {
	net.Listener
	via    network.Network
	client *tls.Config

	mu       sync.Mutex
	accepted map[*stream]struct{} // nil = closed
	dialled  map[*dialled]struct{}
	silent   bool
}

// dialled is a connection that this node has opened.
type dialled struct {
	net.Conn
	of *streams
}

// Close implements net.Conn.
func (c *dialled) Close() error {
	c.of.mu.Lock()
	delete(c.of.dialled, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// mute cuts all connections and makes no new ones until it is taken back.
func (s *streams) mute(on bool) {
	s.mu.Lock()
	s.silent = on
	var all []net.Conn
	if on {
		for c := range s.accepted {
			all = append(all, c.Conn)
		}
		for c := range s.dialled {
			all = append(all, c.Conn)
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // whoever uses it is told
	}
}

// stream is a connection that a peer has opened.
type stream struct {
	net.Conn
	of     *streams
	shaken sync.Once
	err    error
}

// handshakeMax bounds the TLS handshake of a peer.
const handshakeMax = 5 * time.Second

// Read implements net.Conn. The first one shakes hands: a peer that connects and
// says nothing is let go.
func (c *stream) Read(b []byte) (int, error) {
	c.shaken.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeMax)
		defer cancel()
		if t, ok := c.Conn.(*tls.Conn); ok {
			c.err = t.HandshakeContext(ctx)
		}
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(b)
}

// Close implements net.Conn.
func (c *stream) Close() error {
	c.of.mu.Lock()
	delete(c.of.accepted, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &stream{Conn: conn, of: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accepted == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	if s.silent {
		_ = conn.Close() // whoever reads it is told
	}
	s.accepted[c] = struct{}{}
	return c, nil
}

// Close implements net.Listener.
func (s *streams) Close() error {
	err := s.Listener.Close()
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.accepted))
	s.accepted = nil
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Conn.Close() // the peer is told; no more can be done
	}
	return err
}

func listen(via network.Network, addr string, id *pki.Bundle) (*streams, error) {
	l, err := via.ListenTCP(context.Background(), addr) // listening waits for nothing
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "%s can't be listened on: is another process using it?", addr)
	}
	return &streams{
		Listener: tls.NewListener(l, id.Server(pki.RoleControl)), via: via, client: id.Client(pki.RoleControl),
		accepted: map[*stream]struct{}{}, dialled: map[*dialled]struct{}{},
	}, nil
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	plain, err := s.via.DialTCP(ctx, string(addr))
	if err != nil {
		return nil, err
	}
	conn, err := shake(ctx, plain, string(addr), s.client)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	c := &dialled{Conn: conn, of: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		return nil, errors.Join(errStalled, conn.Close())
	}
	s.dialled[c] = struct{}{}
	return c, nil
}

// shake begins TLS with the node at addr.
func shake(ctx context.Context, plain net.Conn, addr string, cfg *tls.Config) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	cfg.ServerName = host
	conn := tls.Client(plain, cfg)
	return conn, conn.HandshakeContext(ctx)
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
