package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/quic-go/quic-go"

	"parley/internal/failpoint"
	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/wire/frame"
)

// connsMax bounds a server's links; one per edge and incarnation is normal.
const connsMax = 1024

// ServerConfig is what a gateway needs to accept links.
type ServerConfig struct {
	Addr string      // host:port, UDP; port 0 takes any
	TLS  *tls.Config // pki.Bundle.Server(pki.RoleEdge)
	// Accept decides about an edge, once per link. Its error goes to the edge in
	// words that are safe to show. The Handler serves this link.
	Accept   func(frame.Hello, pki.Identity) (frame.Welcome, Handler, error)
	Log      *slog.Logger
	ResetKey *ResetKey // nil: edges find out a restart of this node by pings
	Liveness Liveness
	Net      network.Network
}

// Server accepts links.
type Server struct {
	cfg   ServerConfig
	ready chan struct{} // closed when addr is known
	addr  string

	mu    sync.Mutex
	conns map[*quic.Conn]*Conn // nil value: still in the handshake
	work  sync.WaitGroup
}

// NewServer checks the configuration; it touches nothing.
func NewServer(cfg ServerConfig) (*Server, error) {
	var faults []error
	if cfg.Addr == "" {
		faults = append(faults, problem.Field("addr", "is empty; give host:port"))
	}
	if cfg.TLS == nil {
		faults = append(faults, problem.Field("tls", "is missing; links are always mutual TLS"))
	}
	if cfg.Accept == nil {
		faults = append(faults, problem.Field("accept", "is missing"))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, ready: make(chan struct{}), conns: map[*quic.Conn]*Conn{}}, errors.Join(faults...)
}

// Addr is where the server listens, with the port that it got. It waits until
// Run has bound it, so call it after Run has called ready.
func (s *Server) Addr() string {
	<-s.ready
	return s.addr
}

// Run listens, calls ready, serves until ctx ends, closes all links and waits
// for them. It is called once.
func (s *Server) Run(ctx context.Context, ready func()) error {
	addr, err := net.ResolveUDPAddr("udp", s.cfg.Addr)
	if err != nil {
		return problem.Wrap(err, problem.Invalid, "link address %q", s.cfg.Addr)
	}
	socket, err := s.cfg.Net.UDP(addr)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "link address %s can't be listened on: is another process using it?", s.cfg.Addr)
	}
	transport := &quic.Transport{Conn: socket, StatelessResetKey: resetKey(s.cfg.ResetKey)}
	defer func() {
		_ = transport.Close() // on the way out: nothing depends on it
		_ = socket.Close()
	}()
	listener, err := transport.Listen(withALPN(s.cfg.TLS), quicConfig())
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "link address %s can't be listened on", s.cfg.Addr)
	}
	s.addr = socket.LocalAddr().String()
	close(s.ready)
	if ready != nil {
		ready()
	}
	err = s.accept(ctx, listener)
	if failpoint.Crashed(ctx) {
		_ = socket.Close() // first: the dead say nothing
	}
	_ = listener.Close() // as above
	s.closeAll()
	s.work.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) accept(ctx context.Context, l *quic.Listener) error {
	for {
		q, err := l.Accept(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		full := len(s.conns) >= connsMax
		if !full {
			s.conns[q] = nil
		}
		s.mu.Unlock()
		if full {
			_ = q.CloseWithError(codeRefused, "too many links") // it reports nothing of use
			continue
		}
		s.work.Go(func() {
			s.serve(ctx, q)
			s.mu.Lock()
			delete(s.conns, q)
			s.mu.Unlock()
		})
	}
}

func (s *Server) serve(ctx context.Context, q *quic.Conn) {
	c, handler, err := s.handshake(ctx, q)
	if err != nil {
		err = mapError(err)
		_ = q.CloseWithError(codeOf(err), reasonOf(err)) // it reports nothing of use
		s.cfg.Log.Warn("link refused", "addr", q.RemoteAddr().String(), "err", err)
		return
	}
	s.mu.Lock()
	s.conns[q] = c
	s.mu.Unlock()
	c.start(handler)
	if ctx.Err() != nil {
		c.Close(errorf(ErrClosed, "the gateway stops"))
	}
	c.Wait()
}

//nolint:ireturn // the Handler is the caller's own, passed through
func (s *Server) handshake(ctx context.Context, q *quic.Conn) (*Conn, Handler, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeMax)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = q.CloseWithError(codeClosed, "the gateway stops, or the handshake took too long") })
	defer stop()
	peer, err := pki.PeerIdentity(q.ConnectionState().TLS)
	if err != nil {
		return nil, nil, &Error{Kind: ErrRefused, Detail: "the edge's certificate", Cause: err}
	}
	c := newConn(q, peer, s.cfg.Liveness, s.cfg.Log)
	c.shared = true
	for range lanes {
		if err := c.acceptLane(ctx); err != nil {
			return nil, nil, err
		}
	}
	f, err := c.readFirst()
	if err != nil {
		return nil, nil, err
	}
	hello, ok := f.(frame.Hello)
	if !ok {
		return nil, nil, errorf(ErrProtocol, "the edge's first frame is %s, not Hello", frame.Name(f))
	}
	if hello.Version != frame.Version {
		return nil, nil, errorf(ErrVersion, "the edge speaks link version %d, this gateway %d", hello.Version, frame.Version)
	}
	welcome, handler, err := s.cfg.Accept(hello, peer)
	if err != nil {
		return nil, nil, &Error{Kind: ErrRefused, Detail: problem.Show(err), Cause: err}
	}
	welcome.Version = frame.Version
	b, err := frame.Append(nil, welcome)
	if err != nil {
		return nil, nil, err
	}
	_, err = c.lanes[frame.Control].stream.Write(b)
	return c, handler, err
}

// acceptLane takes one stream, whose first byte names its lane.
func (c *Conn) acceptLane(ctx context.Context) error {
	st, err := c.quic.AcceptStream(ctx)
	if err != nil {
		return err
	}
	var first [1]byte
	if _, err := io.ReadFull(st, first[:]); err != nil {
		return errorf(ErrProtocol, "a stream that doesn't name its lane: %v", err)
	}
	i := int(first[0])
	if i >= lanes || c.lanes[i].stream != nil {
		return errorf(ErrProtocol, "a stream names lane %d, which is unknown or taken", i)
	}
	c.lanes[i].stream = st
	if i == frame.Control {
		st.SetPriority(0, true) // pings and resumes go before bulk
	}
	return nil
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c != nil {
			c.Close(errorf(ErrClosed, "the gateway stops"))
		}
	}
}
