//go:build failpoints

package sim_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"parley/internal/network"
)

// wires is the network of a simulation: datagrams over quic-go's simnet, streams
// in memory, both between hosts that a test can cut off from each other.
type wires struct {
	mu        sync.Mutex
	rnd       *rand.Rand
	sockets   map[string]simnet.PacketReceiver
	listeners map[string]*listener
	streams   map[*streamConn]struct{}
	cut       map[way]bool
	port      int
	loss      float64       // share of datagrams that never arrive
	delay     time.Duration // of a datagram, at least
	jitter    time.Duration // and at most this much more
}

// way is one direction between two hosts.
type way struct{ from, to string }

func newWires(seed uint64) *wires {
	return &wires{
		rnd: rand.New(rand.NewPCG(seed, 1)), sockets: map[string]simnet.PacketReceiver{}, listeners: map[string]*listener{},
		streams: map[*streamConn]struct{}{}, cut: map[way]bool{}, port: 20_000, delay: time.Millisecond, jitter: time.Millisecond,
	}
}

// of is the network as a host sees it.
func (w *wires) of(host string) network.Network {
	return network.Network{
		Listen:  func(_ context.Context, addr string) (net.Listener, error) { return w.listen(addr) },
		Dial:    func(ctx context.Context, addr string) (net.Conn, error) { return w.dial(ctx, host, addr) },
		Packets: func(addr *net.UDPAddr) (net.PacketConn, error) { return w.packets(host, addr) },
	}
}

func (w *wires) packets(host string, addr *net.UDPAddr) (net.PacketConn, error) {
	if addr == nil {
		w.mu.Lock()
		w.port++
		addr = &net.UDPAddr{IP: net.ParseIP(host), Port: w.port}
		w.mu.Unlock()
	}
	return simnet.NewSimConn(addr, w), nil
}

// AddNode implements simnet.Router.
func (w *wires) AddNode(addr net.Addr, to simnet.PacketReceiver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sockets[addr.String()] = to
}

// SendPacket implements simnet.Router.
func (w *wires) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	to := w.sockets[p.To.String()]
	lost := to == nil || w.cut[way{host(p.From), host(p.To)}] || w.rnd.Float64() < w.loss
	after := w.delay + time.Duration(w.rnd.Int64N(int64(w.jitter)+1))
	w.mu.Unlock()
	if !lost {
		time.AfterFunc(after, func() { to.RecvPacket(p) })
	}
	return nil
}

func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}

// weather sets how datagrams fare.
func (w *wires) weather(loss float64, delay, jitter time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss, w.delay, w.jitter = loss, delay, jitter
}

// cutOff lets nothing pass from one host to another until heal is called. Streams
// that were open between them break then, as they do when a host comes back.
func (w *wires) cutOff(from, to string) (heal func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[way{from, to}] = true
	return func() {
		w.mu.Lock()
		delete(w.cut, way{from, to})
		var broken []*streamConn
		for c := range w.streams {
			if (c.from == from && c.to == to) || (c.from == to && c.to == from) {
				broken = append(broken, c)
			}
		}
		w.mu.Unlock()
		for _, c := range broken {
			_ = c.Close() // its other end reads the end of it
		}
	}
}

func (w *wires) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[way{from, to}]
}

func (w *wires) listen(addr string) (net.Listener, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listeners[addr] != nil {
		return nil, fmt.Errorf("%s is in use", addr)
	}
	l := &listener{w: w, addr: addr, calls: make(chan net.Conn), closed: make(chan struct{})}
	w.listeners[addr] = l
	return l, nil
}

type listener struct {
	w      *wires
	addr   string
	calls  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.w.mu.Lock()
		delete(l.w.listeners, l.addr)
		l.w.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return named(l.addr) }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.calls:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

type named string

func (named) Network() string  { return "tcp" }
func (a named) String() string { return string(a) }

func (w *wires) dial(ctx context.Context, from, addr string) (net.Conn, error) {
	to, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if w.isCut(from, to) || w.isCut(to, from) {
		<-ctx.Done() // as a SYN that nobody answers
		return nil, ctx.Err()
	}
	w.mu.Lock()
	l := w.listeners[addr]
	w.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	s := &streamConn{Conn: here, w: w, from: from, to: to, at: from + ":1", peer: addr}
	select {
	case l.calls <- &streamConn{Conn: there, w: w, at: addr, peer: from + ":1"}:
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	w.streams[s] = struct{}{}
	w.mu.Unlock()
	return s, nil
}

// streamConn is one end of a stream; the dialling one knows both hosts and stands
// for the cut between them.
type streamConn struct {
	net.Conn
	w        *wires
	from, to string // of the dialling end
	at, peer string
}

func (c *streamConn) LocalAddr() net.Addr  { return named(c.at) }
func (c *streamConn) RemoteAddr() net.Addr { return named(c.peer) }

// Write implements net.Conn: what is written into a cut is lost.
func (c *streamConn) Write(b []byte) (int, error) {
	if c.from != "" && c.w.isCut(c.from, c.to) {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *streamConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err == nil && c.from != "" && c.w.isCut(c.to, c.from) {
			continue
		}
		return n, err
	}
}

// Close implements net.Conn.
func (c *streamConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.streams, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}
