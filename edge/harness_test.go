package edge_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"go.uber.org/goleak"

	"parley/edge"
	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
	"parley/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 8 * time.Second

// quick finds dead gateways soon enough for tests.
func quick() link.Liveness {
	return link.Liveness{PingEvery: 100 * time.Millisecond, DeadAfter: 600 * time.Millisecond}
}

func logger() *slog.Logger {
	if os.Getenv("PARLEY_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

// routes is the registry without etcd.
type routes struct {
	*regions.Table
	connected bool
}

func (r *routes) Connected() bool { return r.connected }

var _ edge.Routes = (*regions.Registry)(nil)

// world is a region: an authority, a signing key, a table.
type world struct {
	ca    *pki.Authority
	key   token.Key
	table *routes
	mu    sync.Mutex
	now   regions.Contents
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ca, err := pki.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	key, err := token.NewKey(now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: ca, key: key, table: &routes{Table: regions.NewTable("eu"), connected: true}}
	w.now.Keys = []token.Key{key.WithoutPrivate()}
	w.now.Edges = []regions.Edge{{ID: "us-edge-1", Region: "us", URL: "https://us.example"}}
	w.table.Fill(w.now)
	w.table.Prefer(topology.Route{Workspace: "W1", Cell: "eu-1", Epoch: 1})
	return w
}

func (w *world) issue(t *testing.T, role pki.Role, name string) *pki.Bundle {
	t.Helper()
	b, err := w.ca.Issue(pki.Identity{Region: "eu", Role: role, Name: name}, []string{"127.0.0.1", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) token(t *testing.T, user topology.UserID) string {
	t.Helper()
	now := time.Now()
	s, err := token.Sign(w.key, token.Claims{User: user, Workspace: "W1", Role: token.RoleMember, Expires: now.Add(time.Hour)}, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// list puts gateways into the table in place of those of the same id.
func (w *world) list(gs ...regions.Gateway) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range gs {
		w.now.Gateways = append(without(w.now.Gateways, g.ID), g)
	}
	w.table.Fill(w.now)
}

func (w *world) unlist(id topology.GatewayID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.Gateways = without(w.now.Gateways, id)
	w.table.Fill(w.now)
}

func without(gs []regions.Gateway, id topology.GatewayID) []regions.Gateway {
	var out []regions.Gateway
	for _, g := range gs {
		if g.ID != id {
			out = append(out, g)
		}
	}
	return out
}

// fake is a gateway played by a test. It opens every session, with a hello of one
// channel, and keeps the frames it gets; the test says the rest.
type fake struct {
	t     *testing.T
	info  regions.Gateway
	stop  func()
	hello func(frame.Open) []byte // nil answer: the session is not opened

	mu     sync.Mutex
	serve  http.HandlerFunc // the HTTP API
	conns  []*link.Conn
	frames []frame.Frame
	news   chan struct{}
}

func helloOf(o frame.Open) []byte {
	return chat.Encode(chat.Hello{
		Type: chat.TypeHello, SessionID: fmt.Sprint(o.Session), WorkspaceID: o.Workspace, UserID: o.User, URev: 3,
		Channels: []chat.HelloChannel{{ID: "C1", Rev: 10}}, HeartbeatS: 10,
	})
}

var incarnations = struct {
	sync.Mutex
	last topology.Incarnation
}{}

func (w *world) gateway(t *testing.T, id topology.GatewayID, cell topology.CellID) *fake {
	t.Helper()
	return w.gatewayWith(t, id, cell, nil)
}

// gatewayWith is a gateway whose frames another Handler takes; nil: the fake's.
func (w *world) gatewayWith(t *testing.T, id topology.GatewayID, cell topology.CellID, h link.Handler) *fake {
	t.Helper()
	f := &fake{t: t, hello: helloOf, news: make(chan struct{}, 1)}
	incarnations.Lock()
	incarnations.last++
	f.info = regions.Gateway{ID: id, Cell: cell, Incarnation: incarnations.last}
	incarnations.Unlock()
	if h == nil {
		h = f
	}
	bundle := w.issue(t, pki.RoleGateway, string(id))
	srv, err := link.NewServer(link.ServerConfig{
		Addr: "127.0.0.1:0", TLS: bundle.Server(pki.RoleEdge), Liveness: quick(),
		Accept: func(frame.Hello, pki.Identity) (frame.Welcome, link.Handler, error) {
			return frame.Welcome{Gateway: id, Cell: cell, Incarnation: f.info.Incarnation}, h, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	ready := make(chan struct{})
	work.Go(func() {
		if err := srv.Run(ctx, func() { close(ready) }); err != nil {
			t.Errorf("fake gateway: %v", err)
		}
	})
	<-ready
	f.info.LinkAddr = srv.Addr()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.info.APIAddr = socket.LocalAddr().String()
	api := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(bundle.Server(pki.RoleEdge)), QUICConfig: &quic.Config{},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			serve := f.serve
			f.mu.Unlock()
			if serve == nil {
				http.Error(w, "nothing here", http.StatusTeapot)
				return
			}
			serve(w, r)
		}),
	}
	work.Go(func() { _ = api.Serve(socket) })
	f.stop = sync.OnceFunc(func() {
		cancel()
		_ = api.Close()
		_ = socket.Close()
		work.Wait()
	})
	t.Cleanup(f.stop)
	w.list(f.info)
	return f
}

// answer sets what answers requests.
func (f *fake) answer(h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve = h
}

func (f *fake) Frames(c *link.Conn, _ int, fs []frame.Frame) {
	f.mu.Lock()
	if len(f.conns) == 0 || f.conns[len(f.conns)-1] != c {
		f.conns = append(f.conns, c)
	}
	f.frames = append(f.frames, fs...)
	f.mu.Unlock()
	for _, fr := range fs {
		if o, ok := fr.(frame.Open); ok {
			if h := f.hello(o); h != nil {
				_ = c.Send(frame.Control, frame.Opened{Session: o.Session, Payload: h})
			}
		}
	}
	c.Flush()
	select {
	case f.news <- struct{}{}:
	default:
	}
}

func (*fake) Closed(*link.Conn, error) {}

// conn is the newest link.
func (f *fake) conn() *link.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.conns) == 0 {
		f.t.Fatal("the gateway has no link")
	}
	return f.conns[len(f.conns)-1]
}

func (f *fake) say(lane int, fs ...frame.Frame) {
	f.t.Helper()
	c := f.conn()
	if err := c.Send(lane, fs...); err != nil {
		f.t.Fatal(err)
	}
	c.Flush()
}

// onC1 sends on the lane of channel C1.
func (f *fake) onC1(fs ...frame.Frame) {
	f.t.Helper()
	f.say(frame.LaneOf("C1"), fs...)
}

// all are the frames of one type so far.
func all[F frame.Frame](f *fake) []F {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []F
	for _, fr := range f.frames {
		if v, ok := fr.(F); ok {
			out = append(out, v)
		}
	}
	return out
}

// await waits for the n-th frame of a type and gives all of them.
func await[F frame.Frame](f *fake, n int) []F {
	f.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		if fs := all[F](f); len(fs) >= n {
			return fs
		}
		select {
		case <-f.news:
		case <-deadline.C:
			var z F
			f.t.Fatalf("%s got %d %T frames, want %d; all: %+v", f.info.ID, len(all[F](f)), z, n, f.frames)
		}
	}
}

// join opens group 1 on C1 at rev 10 with sessions.
func (f *fake) join(ids ...topology.SessionID) {
	f.t.Helper()
	f.onC1(frame.GroupOpen{Group: 1, Workspace: "W1", Channel: "C1", Rev: 10}, frame.Join{Group: 1, Rev: 10, Sessions: ids})
}

func event(rev int) []byte {
	return fmt.Appendf(nil, `{"type":"message","channel_id":"C1","rev":%d}`, rev)
}

func groupFrame(rev int) frame.GroupFrame {
	return frame.GroupFrame{Group: 1, From: topology.Rev(rev), To: topology.Rev(rev), Payload: event(rev)}
}

// startEdge runs an edge until the test ends.
func (w *world) edge(t *testing.T, change ...func(*edge.Config)) *edge.Edge {
	t.Helper()
	e, _ := w.edgeStop(t, change...)
	return e
}

func (w *world) edgeStop(t *testing.T, change ...func(*edge.Config)) (*edge.Edge, func()) {
	t.Helper()
	cfg := edge.Config{ID: "eu-edge-1", Region: "eu", Incarnation: 1, Listen: "127.0.0.1:0", PlainHTTP: true, Liveness: quick()}
	for _, c := range change {
		c(&cfg)
	}
	e, err := edge.New(cfg, edge.Deps{Routes: w.table, Identity: w.issue(t, pki.RoleEdge, "eu-edge-1"), Log: logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("edge: %v", err)
			}
		case <-time.After(2 * patience):
			t.Error("the edge did not stop")
		}
	})
	t.Cleanup(stop)
	return e, stop
}

// socket is a client.
type socket struct {
	t  *testing.T
	ws *websocket.Conn
}

func (w *world) connect(t *testing.T, e *edge.Edge, user topology.UserID, query string) *socket {
	t.Helper()
	s, res := dial(t, "ws://"+e.Addr()+"/connect?token="+w.token(t, user)+query, nil)
	if s == nil {
		t.Fatalf("connect: %d %s", res.code, res.body)
	}
	return s
}

// reply is an HTTP answer, read whole.
type reply struct {
	code   int
	header http.Header
	body   []byte
	proto  int
}

func readReply(t *testing.T, res *http.Response) reply {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{code: res.StatusCode, header: res.Header, body: b, proto: res.ProtoMajor}
}

// dial connects a socket; nil says that it was refused.
func dial(t *testing.T, url string, header http.Header, change ...func(*websocket.Dialer)) (*socket, reply) {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: patience}
	for _, c := range change {
		c(&d)
	}
	ws, res, err := d.Dial(url, header)
	if res == nil {
		t.Fatalf("connect: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	r := readReply(t, res)
	if err != nil {
		return nil, r
	}
	t.Cleanup(func() { _ = ws.Close() })
	return &socket{t: t, ws: ws}, r
}

func (s *socket) read() []byte {
	s.t.Helper()
	_ = s.ws.SetReadDeadline(time.Now().Add(patience))
	_, b, err := s.ws.ReadMessage()
	if err != nil {
		s.t.Fatalf("read: %v", err)
	}
	return b
}

// next reads an event of the type; any other fails the test.
func (s *socket) next(kind string, into any) {
	s.t.Helper()
	b := s.read()
	var e chat.Envelope
	if err := json.Unmarshal(b, &e); err != nil || e.Type != kind {
		s.t.Fatalf("got %s, want a %s event", b, kind)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			s.t.Fatal(err)
		}
	}
}

// message reads the next event, which must be the message at rev of C1.
func (s *socket) message(rev int) {
	s.t.Helper()
	if b := s.read(); string(b) != string(event(rev)) {
		s.t.Fatalf("got %s, want rev %d", b, rev)
	}
}

// quiet proves that nothing but the pong waits: what was sent before it would
// come first.
func (s *socket) quiet() {
	s.t.Helper()
	s.write(`{"type":"ping","id":"quiet"}`)
	s.next(chat.TypePong, nil)
}

func (s *socket) write(text string) {
	s.t.Helper()
	if err := s.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		s.t.Fatalf("write: %v", err)
	}
}

// closed reads to the end and returns the close code.
func (s *socket) closed() *websocket.CloseError {
	s.t.Helper()
	_ = s.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		_, b, err := s.ws.ReadMessage()
		if err == nil {
			continue
		}
		ce, ok := err.(*websocket.CloseError) //nolint:errorlint // gorilla does not wrap
		if !ok {
			s.t.Fatalf("ended with %v after %s, want a close frame", err, b)
		}
		return ce
	}
}

func (s *socket) errorEvent() chat.ErrorEvent {
	s.t.Helper()
	var e chat.ErrorEvent
	s.next(chat.TypeError, &e)
	return e
}

// request asks the edge's HTTP API.
func (w *world) request(t *testing.T, e *edge.Edge, method, path, body string, header ...string) reply {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, "http://"+e.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Add(header[i], header[i+1])
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	return readReply(t, res)
}

func decode[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return v
}
