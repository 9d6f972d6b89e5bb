package link_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/internal/wire/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// recorder is a Handler that keeps what it gets, per lane.
type recorder struct {
	mu     sync.Mutex
	got    [frame.Lanes + 1][]frame.Frame
	late   int // Frames calls after Closed
	closes []error
	news   chan struct{} // holds one: something arrived
	ended  chan struct{}
	block  func(lane int) // called before keeping, if set
}

func newRecorder() *recorder {
	return &recorder{news: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (r *recorder) Frames(_ *link.Conn, lane int, fs []frame.Frame) {
	if r.block != nil {
		r.block(lane)
	}
	r.mu.Lock()
	if len(r.closes) > 0 {
		r.late++
	}
	r.got[lane] = append(r.got[lane], fs...)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *recorder) Closed(_ *link.Conn, err error) {
	r.mu.Lock()
	r.closes = append(r.closes, err)
	first := len(r.closes) == 1
	r.mu.Unlock()
	if first {
		close(r.ended)
	}
}

func (r *recorder) lane(i int) []frame.Frame {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]frame.Frame(nil), r.got[i]...)
}

func (r *recorder) count(lane int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got[lane])
}

// await waits until the lane has n frames.
func (r *recorder) await(tb testing.TB, lane, n int) []frame.Frame {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		if r.count(lane) >= n {
			return r.lane(lane)
		}
		select {
		case <-r.news:
		case <-deadline.C:
			tb.Fatalf("lane %d has %d frames, want %d", lane, len(r.lane(lane)), n)
		}
	}
}

func (r *recorder) awaitClosed(tb testing.TB) error {
	tb.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		tb.Fatal("the link did not end")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closes[0]
}

// world is an authority and one gateway.
type world struct {
	ca      *pki.Authority
	gateway *pki.Bundle
	edge    *pki.Bundle
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	ca, err := pki.OpenAuthority(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{ca: ca}
	w.gateway = w.issue(tb, pki.RoleGateway, "gw-1")
	w.edge = w.issue(tb, pki.RoleEdge, "edge-1")
	return w
}

func (w *world) issue(tb testing.TB, role pki.Role, name string) *pki.Bundle {
	tb.Helper()
	b, err := w.ca.Issue(pki.Identity{Region: "eu", Role: role, Name: name}, []string{"127.0.0.1"})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// running is a server whose links all have one Handler.
type running struct {
	*link.Server
	stop func()
}

type serverOptions struct {
	addr     string
	handler  link.Handler
	reset    *link.ResetKey
	liveness link.Liveness
	accept   func(frame.Hello, pki.Identity) (frame.Welcome, link.Handler, error)
}

func (w *world) serve(tb testing.TB, o serverOptions) *running {
	tb.Helper()
	if o.addr == "" {
		o.addr = "127.0.0.1:0"
	}
	if o.accept == nil {
		o.accept = func(frame.Hello, pki.Identity) (frame.Welcome, link.Handler, error) {
			return frame.Welcome{Gateway: "gw-1", Cell: "eu-1", Incarnation: 7}, o.handler, nil
		}
	}
	s, err := link.NewServer(link.ServerConfig{
		Addr: o.addr, TLS: w.gateway.Server(pki.RoleEdge), Accept: o.accept, ResetKey: o.reset, Liveness: o.liveness,
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		tb.Fatal(err)
	}
	r := &running{Server: s}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("server: %v", err)
		}
	})
	tb.Cleanup(r.stop)
	return r
}

func (w *world) dial(tb testing.TB, addr string, h link.Handler, change ...func(*link.DialConfig)) (*link.Conn, frame.Welcome, error) {
	tb.Helper()
	cfg := link.DialConfig{
		Addr: addr, TLS: w.edge.Client(pki.RoleGateway), Hello: frame.Hello{Edge: "edge-1", Region: "eu", Incarnation: 3}, Handler: h,
	}
	for _, c := range change {
		c(&cfg)
	}
	c, welcome, err := link.Dial(tb.Context(), cfg)
	if err == nil {
		tb.Cleanup(func() {
			c.Close(nil)
			c.Wait()
		})
	}
	return c, welcome, err
}

func (w *world) mustDial(tb testing.TB, addr string, h link.Handler, change ...func(*link.DialConfig)) *link.Conn {
	tb.Helper()
	c, _, err := w.dial(tb, addr, h, change...)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestHandshake_BothSidesKnowEachOther(t *testing.T) {
	w := newWorld(t)
	hellos, peers := make(chan frame.Hello, 1), make(chan pki.Identity, 1)
	s := w.serve(t, serverOptions{accept: func(h frame.Hello, p pki.Identity) (frame.Welcome, link.Handler, error) {
		hellos <- h
		peers <- p
		return frame.Welcome{Gateway: "gw-1", Cell: "eu-1", Incarnation: 7}, newRecorder(), nil
	}})
	c, welcome, err := w.dial(t, s.Addr(), newRecorder())
	if err != nil {
		t.Fatal(err)
	}
	if want := (frame.Welcome{Version: frame.Version, Gateway: "gw-1", Cell: "eu-1", Incarnation: 7}); welcome != want {
		t.Errorf("welcome %+v, want %+v", welcome, want)
	}
	hello, peer := <-hellos, <-peers
	if want := (frame.Hello{Version: frame.Version, Edge: "edge-1", Region: "eu", Incarnation: 3}); hello != want {
		t.Errorf("hello %+v, want %+v", hello, want)
	}
	if c.Peer().Name != "gw-1" || peer.Name != "edge-1" || c.Remote() != s.Addr() {
		t.Errorf("peers are %+v at %s and %+v", c.Peer(), c.Remote(), peer)
	}
}

// I1: order per lane, each once, in both directions.
func TestLink_I1_FramesArriveInOrderOnce(t *testing.T) {
	w := newWorld(t)
	up := newRecorder()
	down := newRecorder()
	conns := make(chan *link.Conn, 1)
	s := w.serve(t, serverOptions{handler: &echoing{recorder: up, conns: conns}})
	c := w.mustDial(t, s.Addr(), down)
	const n = 2000
	for i := range n {
		for lane := range frame.Lanes + 1 {
			if err := c.Send(lane, frame.Typing{Session: topology.SessionID(i), Channel: topology.ChannelID(strconv.Itoa(lane))}); err != nil {
				t.Fatal(err)
			}
		}
		if i%7 == 0 {
			c.Flush()
		}
	}
	c.Flush()
	for lane := range frame.Lanes + 1 {
		checkOrder(t, "up", lane, up.await(t, lane, n))
		checkOrder(t, "down", lane, down.await(t, lane, n))
	}
}

func checkOrder(t *testing.T, way string, lane int, fs []frame.Frame) {
	t.Helper()
	for i, f := range fs {
		want := frame.Typing{Session: topology.SessionID(i), Channel: topology.ChannelID(strconv.Itoa(lane))}
		if f != frame.Frame(want) {
			t.Fatalf("%s, lane %d: frame %d is %+v", way, lane, i, f)
		}
	}
}

// echoing sends everything back on the lane it came on.
type echoing struct {
	*recorder
	conns chan *link.Conn
}

func (e *echoing) Frames(c *link.Conn, lane int, fs []frame.Frame) {
	e.recorder.Frames(c, lane, fs)
	_ = c.Send(lane, fs...) // a link that has ended shows in the test's own waits
	c.Flush()
}

func TestLink_LargeFrames(t *testing.T) {
	w := newWorld(t)
	r := newRecorder()
	s := w.serve(t, serverOptions{handler: r})
	c := w.mustDial(t, s.Addr(), newRecorder())
	text := strings.Repeat("parley ", 140_000)
	for range 3 {
		if err := c.Send(4, frame.Post{Session: 1, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Send(4, frame.Post{Session: 1, Text: text + text}); err == nil {
		t.Error("a frame over the limit was taken")
	}
	c.Flush()
	for i, f := range r.await(t, 4, 3) {
		if p, ok := f.(frame.Post); !ok || p.Text != text {
			t.Fatalf("frame %d came out changed", i)
		}
	}
	if c.Err() != nil {
		t.Fatalf("a frame that can't be encoded ended the link: %v", c.Err())
	}
}

// I2 and I3: a peer that does not read one lane neither blocks the sender nor
// the other lanes, and in the end closes the link with ErrOverrun.
func TestLink_I2_I3_StalledLanes(t *testing.T) {
	w := newWorld(t)
	r := newRecorder()
	release := make(chan struct{})
	r.block = func(lane int) {
		if lane >= 2 {
			<-release
		}
	}
	s := w.serve(t, serverOptions{handler: r})
	sender := newRecorder()
	c := w.mustDial(t, s.Addr(), sender)
	payload := frame.Post{Text: strings.Repeat("x", 32<<10)}
	for lane := 2; lane <= frame.Lanes; lane++ { // every lane but 1 fills its window
		for range 64 {
			if err := c.Send(lane, payload); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Flush()
	for i := range 100 {
		start := time.Now()
		if err := c.Send(1, frame.Typing{Session: topology.SessionID(i)}); err != nil {
			t.Fatal(err)
		}
		c.Flush()
		r.await(t, 1, i+1)
		if d := time.Since(start); d > 2*time.Second {
			t.Fatalf("the healthy lane took %s behind stalled ones", d)
		}
	}
	var err error
	for range 2 * link.LaneBytesMax / (32 << 10) {
		if err = c.Send(2, payload); err != nil {
			break
		}
		c.Flush()
	}
	if !errors.Is(err, link.ErrOverrun) || !errors.Is(c.Err(), link.ErrOverrun) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want ErrOverrun", err)
	}
	close(release)
	if err := sender.awaitClosed(t); !errors.Is(err, link.ErrOverrun) {
		t.Errorf("closed with %v, want ErrOverrun", err)
	}
	if err := r.awaitClosed(t); !errors.Is(err, link.ErrOverrun) {
		t.Errorf("the peer's link closed with %v, want ErrOverrun", err)
	}
}

// I4: Closed once and last, whoever closes and however often.
func TestLink_I4_ClosedIsCalledOnceAndLast(t *testing.T) {
	w := newWorld(t)
	up, down := newRecorder(), newRecorder()
	s := w.serve(t, serverOptions{handler: up})
	c := w.mustDial(t, s.Addr(), down)
	const ahead = 1000
	var senders sync.WaitGroup
	for lane := 1; lane <= 4; lane++ {
		senders.Go(func() {
			for sent := 0; c.Send(lane, frame.Typing{Session: 1, Channel: "C1"}) == nil; sent++ {
				c.Flush()
				for sent > up.count(lane)+ahead && c.Err() == nil {
					runtime.Gosched() // more would overrun the lane on a busy machine
				}
			}
		})
	}
	up.await(t, 1, 10)
	var closers sync.WaitGroup
	for range 8 {
		closers.Go(func() { c.Close(errors.New("enough")) })
	}
	closers.Wait()
	senders.Wait()
	if err := up.awaitClosed(t); !errors.Is(err, link.ErrClosed) {
		t.Errorf("the peer's link closed with %v", err)
	}
	if err := down.awaitClosed(t); !errors.Is(err, link.ErrClosed) || !strings.Contains(err.Error(), "enough") {
		t.Errorf("closed with %v", err)
	}
	s.stop()
	c.Wait()
	for name, r := range map[string]*recorder{"up": up, "down": down} {
		if len(r.closes) != 1 || r.late > 0 {
			t.Errorf("%s: Closed %d times, %d Frames after it", name, len(r.closes), r.late)
		}
	}
	if err := c.Send(1, frame.Typing{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send on an ended link: %v", err)
	}
}

// I5: the QUIC stack of a peer acknowledges on, but its reader hangs.
func TestLink_I5_SilentPeerIsFoundOut(t *testing.T) {
	w := newWorld(t)
	r := newRecorder()
	release := make(chan struct{})
	r.block = func(lane int) {
		if lane == frame.Control {
			<-release
		}
	}
	s := w.serve(t, serverOptions{handler: r})
	down := newRecorder()
	quick := link.Liveness{PingEvery: 50 * time.Millisecond, DeadAfter: 300 * time.Millisecond}
	c := w.mustDial(t, s.Addr(), down, func(d *link.DialConfig) { d.Liveness = quick })
	start := time.Now()
	if err := c.Send(frame.Control, frame.Close{Session: 1}); err != nil {
		t.Fatal(err)
	}
	c.Flush()
	if err := down.awaitClosed(t); !errors.Is(err, link.ErrDead) {
		t.Errorf("closed with %v, want ErrDead", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("it took %s", d)
	}
	close(release)
}

func TestRestart_ResetKeyKillsOldLinks(t *testing.T) {
	w := newWorld(t)
	// A relay stands between, so that the first server can vanish without a word.
	key := &link.ResetKey{1, 2, 3}
	first := w.serve(t, serverOptions{handler: newRecorder(), reset: key})
	relay := newRelay(t, first.Addr())
	down := newRecorder()
	w.mustDial(t, relay.addr(), down)
	relay.cut()
	first.stop()
	second := w.serve(t, serverOptions{handler: newRecorder(), reset: key})
	start := time.Now()
	relay.to(t, second.Addr())
	err := down.awaitClosed(t)
	if !errors.Is(err, link.ErrDead) || !strings.Contains(err.Error(), "restarted") {
		t.Errorf("closed with %v, want ErrDead that names the restart", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	s := w.serve(t, serverOptions{handler: newRecorder()})
	no := w.serve(t, serverOptions{accept: func(frame.Hello, pki.Identity) (frame.Welcome, link.Handler, error) {
		return frame.Welcome{}, nil, errors.New("secret reason")
	}})
	for name, c := range map[string]struct {
		addr   string
		change func(*link.DialConfig)
		kind   error
		not    string
	}{
		"wrong role of the client": {s.Addr(), func(d *link.DialConfig) {
			d.TLS = w.issue(t, pki.RoleControl, "c").Client(pki.RoleGateway)
		}, link.ErrRefused, ""},
		"wrong role of the server":  {s.Addr(), func(d *link.DialConfig) { d.TLS = w.edge.Client(pki.RoleControl) }, link.ErrRefused, ""},
		"another authority":         {s.Addr(), func(d *link.DialConfig) { d.TLS = other.edge.Client(pki.RoleGateway) }, link.ErrRefused, ""},
		"refused by Accept":         {no.Addr(), func(*link.DialConfig) {}, link.ErrRefused, "secret"},
		"an address without a host": {"nonsense", func(*link.DialConfig) {}, link.ErrDead, ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _, err := w.dial(t, c.addr, newRecorder(), c.change)
			if err == nil { // TLS 1.3 lets a client speak before the server has judged it
				<-conn.Done()
				err = conn.Err()
			}
			if !errors.Is(err, c.kind) {
				t.Fatalf("error %v, want %v", err, c.kind)
			}
			if c.not != "" && strings.Contains(err.Error(), c.not) {
				t.Fatalf("error %v tells what is the server's own", err)
			}
		})
	}
}

func TestDial_NobodyThere(t *testing.T) {
	w := newWorld(t)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _, err = link.Dial(ctx, link.DialConfig{
		Addr: silent.LocalAddr().String(), TLS: w.edge.Client(pki.RoleGateway), Handler: newRecorder(),
	})
	if !errors.Is(err, link.ErrDead) {
		t.Fatalf("error %v, want ErrDead", err)
	}
}

func TestNewServer_ListsAllFaults(t *testing.T) {
	_, err := link.NewServer(link.ServerConfig{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"addr", "tls", "accept"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not name %s", err, field)
		}
	}
}

func TestServer_PortInUse(t *testing.T) {
	w := newWorld(t)
	s := w.serve(t, serverOptions{handler: newRecorder()})
	second, err := link.NewServer(link.ServerConfig{Addr: s.Addr(), TLS: w.gateway.Server(pki.RoleEdge), Accept: func(frame.Hello, pki.Identity) (frame.Welcome, link.Handler, error) {
		return frame.Welcome{}, nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), s.Addr()) {
		t.Fatalf("error %v does not name the address", err)
	}
}
