package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/wire/frame"
)

// relay passes UDP packets between one client and a server that can be changed.
type relay struct {
	front  *net.UDPConn
	client atomic.Pointer[net.UDPAddr]
	mu     sync.Mutex
	back   *net.UDPConn
	work   sync.WaitGroup
}

func newRelay(t *testing.T, server string) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{front: front}
	r.to(t, server)
	r.work.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			r.client.Store(from)
			r.mu.Lock()
			if r.back != nil {
				_, _ = r.back.Write(buf[:n]) // a lost packet is what UDP may do
			}
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = front.Close()
		r.cut()
		r.work.Wait()
	})
	return r
}

func (r *relay) addr() string { return r.front.LocalAddr().String() }

// cut drops everything from now on.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.back != nil {
		_ = r.back.Close()
		r.back = nil
	}
}

func (r *relay) to(t *testing.T, server string) {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.back = back
	r.mu.Unlock()
	r.work.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := back.Read(buf)
			if err != nil {
				return
			}
			if c := r.client.Load(); c != nil {
				_, _ = r.front.WriteToUDP(buf[:n], c) // a lost packet is what UDP may do
			}
		}
	})
}

// rawDial is a peer that speaks QUIC and TLS right, and then whatever it likes.
func (w *world) rawDial(t *testing.T, addr, alpn string) (*quic.Conn, error) {
	t.Helper()
	cfg := w.edge.Client(pki.RoleGateway)
	cfg.NextProtos = []string{alpn}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	q, err := quic.DialAddr(ctx, addr, cfg, nil)
	if err == nil {
		t.Cleanup(func() { _ = q.CloseWithError(0, "") })
	}
	return q, err
}

func TestVersion_OtherALPNIsRefused(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t, serverOptions{handler: newRecorder()})
	_, err := w.rawDial(t, s.Addr(), "parley-link/2")
	var te *quic.TransportError
	if !errors.As(err, &te) || !te.ErrorCode.IsCryptoError() {
		t.Fatalf("error %v, want a TLS alert", err)
	}
}

// openLanes opens all lanes and sends first on the control lane.
func openLanes(t *testing.T, q *quic.Conn, first []byte) {
	t.Helper()
	for i := range frame.Lanes + 1 {
		s, err := q.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := []byte{byte(i)}
		if i == frame.Control {
			b = append(b, first...)
		}
		if _, err := s.Write(b); err != nil {
			t.Fatal(err)
		}
	}
}

func encode(t *testing.T, f frame.Frame) []byte {
	t.Helper()
	b, err := frame.Append(nil, f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A peer that does not keep to the protocol is told so, and harms nobody else.
func TestServer_BadPeers(t *testing.T) {
	w := newWorld(t)
	up := newRecorder()
	s := w.serve(t, serverOptions{handler: up})
	good := w.mustDial(t, s.Addr(), newRecorder())
	for name, c := range map[string]struct {
		play func(t *testing.T, q *quic.Conn)
		says string
	}{
		"another version": {func(t *testing.T, q *quic.Conn) {
			t.Helper()
			openLanes(t, q, encode(t, frame.Hello{Version: 99}))
		}, "version 99"},
		"no Hello": {func(t *testing.T, q *quic.Conn) { t.Helper(); openLanes(t, q, encode(t, frame.Ping{})) }, "not Hello"},
		"garbage":  {func(t *testing.T, q *quic.Conn) { t.Helper(); openLanes(t, q, []byte{3, 250, 250, 250}) }, "type 250"},
		"a huge first frame": {func(t *testing.T, q *quic.Conn) {
			t.Helper()
			openLanes(t, q, append([]byte{0x80, 0x80, 0x3f}, make([]byte, 40<<10)...))
		}, "longer than"},
		"a lane twice": {func(t *testing.T, q *quic.Conn) {
			t.Helper()
			for range 2 {
				st, err := q.OpenStreamSync(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := st.Write([]byte{3}); err != nil {
					t.Fatal(err)
				}
			}
		}, "lane 3"},
		"garbage after the handshake": {func(t *testing.T, q *quic.Conn) {
			t.Helper()
			openLanes(t, q, append(encode(t, frame.Hello{Version: frame.Version}), 0))
		}, "length 0"},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := w.rawDial(t, s.Addr(), link.ALPN)
			if err != nil {
				t.Fatal(err)
			}
			c.play(t, q)
			select {
			case <-q.Context().Done():
			case <-time.After(patience):
				t.Fatal("the server kept the connection")
			}
			var app *quic.ApplicationError
			if err := context.Cause(q.Context()); !errors.As(err, &app) || !app.Remote || !strings.Contains(app.ErrorMessage, c.says) {
				t.Fatalf("closed with %v, want a reason that says %q", err, c.says)
			}
		})
	}
	if err := good.Send(1, frame.Typing{Session: 9}); err != nil {
		t.Fatal(err)
	}
	good.Flush()
	up.await(t, 1, 1)
}

// A gateway of another version is refused by the edge.
func TestDial_GatewayOfAnotherVersion(t *testing.T) {
	w := newWorld(t)
	tc := w.gateway.Server(pki.RoleEdge)
	tc.NextProtos = []string{link.ALPN}
	addr := rawServe(t, tc, encode(t, frame.Welcome{Version: 99}))
	_, _, err := w.dial(t, addr, newRecorder())
	if !errors.Is(err, link.ErrVersion) || !strings.Contains(err.Error(), "99") {
		t.Fatalf("error %v, want ErrVersion that names 99", err)
	}
}

// rawServe answers the control lane of one connection with first.
func rawServe(t *testing.T, tc *tls.Config, first []byte) string {
	t.Helper()
	l, err := quic.ListenAddr("127.0.0.1:0", tc, nil)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		q, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		s, err := q.AcceptStream(context.Background())
		if err != nil {
			return
		}
		_, _ = s.Write(first) // the test sees what follows
		<-q.Context().Done()
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return l.Addr().String()
}
