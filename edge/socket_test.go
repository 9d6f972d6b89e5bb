package edge_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"parley/edge"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// E2: a socket that does not read is cut with a code that says resume; its
// neighbours get everything meanwhile.
func TestSlowSocket_E2_IsCutAndDelaysNobody(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.QueueBytesMax = 256 << 10 })
	slow, o1 := w.open(t, e, g, "U1")
	fast, o2 := w.open(t, e, g, "U2")
	g.join(o1.Session, o2.Session)
	payload := bytes.Repeat([]byte("x"), 100<<10)
	const n = 150 // 15 MB: more than the kernel's buffers and the queue together
	for i := range n {
		rev := topology.Rev(11 + i)
		start := time.Now()
		g.onC1(frame.GroupFrame{Group: 1, From: rev, To: rev, Payload: payload})
		if b := fast.read(); len(b) != len(payload) {
			t.Fatalf("the fast socket got %d bytes", len(b))
		}
		if d := time.Since(start); d > time.Second {
			t.Fatalf("frame %d took %s beside a slow socket", i, d)
		}
	}
	got := 0
	_ = slow.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		_, _, err := slow.ws.ReadMessage()
		if err == nil {
			got++
			continue
		}
		var ce *websocket.CloseError // a cut connection also reads as one, abnormal
		if !errors.As(err, &ce) && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("the slow socket ended with %v", err)
		}
		if ce != nil && ce.Code != 4008 && ce.Code != websocket.CloseAbnormalClosure {
			t.Fatalf("the slow socket was closed with %v", ce)
		}
		break
	}
	if got >= n {
		t.Fatal("the slow socket got everything: this test shows nothing")
	}
	await[frame.Close](g, 1)
	fast.quiet()
}

// A client that is only a little slow reads its close frame.
func TestSlowSocket_ReadsWhyItWasCut(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.QueueBytesMax = 64 << 10 })
	s, o := w.open(t, e, g, "U1")
	g.join(o.Session)
	g.onC1(frame.GroupFrame{Group: 1, From: 11, To: 11, Payload: make([]byte, 100<<10)})
	if ce := s.closed(); ce.Code != 4008 || !strings.Contains(ce.Text, "resume") {
		t.Fatalf("closed with %v", ce)
	}
}

func TestSocket_FrameTooBig(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, _ := w.open(t, e, g, "U1")
	go func() { // it may fail halfway: the edge need not read it all
		_ = s.ws.WriteMessage(websocket.TextMessage, make([]byte, chat.SocketFrameBytesMax+1))
	}()
	if ce := s.closed(); ce.Code != websocket.CloseMessageTooBig || !strings.Contains(ce.Text, "524288 bytes") {
		t.Fatalf("closed with %v", ce)
	}
	await[frame.Close](g, 1)
}

// A header that claims more than a frame may have is enough: nothing is kept for
// what it announces, and nothing of it is waited for.
func TestSocket_FrameThatClaimsTooMuch(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	public := w.issue(t, pki.RoleEdge, "public")
	plain := w.edge(t)
	below := w.edge(t, func(c *edge.Config) { c.PlainHTTP, c.TLS = false, public.Public() })
	tc := &tls.Config{RootCAs: public.CAPool()}
	closes := 0
	for name, claim := range map[string]uint64{"1 GB": 1 << 30, "one byte too many": chat.SocketFrameBytesMax + 1, "all there is": 1<<63 - 1, "more than that": 1<<64 - 1} {
		for scheme, e := range map[string]*edge.Edge{"ws": plain, "wss": below} {
			t.Run(name+" by "+scheme, func(t *testing.T) {
				s, _ := dial(t, scheme+"://"+e.Addr()+"/connect?token="+w.token(t, "U1"), nil, func(d *websocket.Dialer) { d.TLSClientConfig = tc })
				s.next(chat.TypeHello, nil)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				s.raw(append(binary.BigEndian.AppendUint64([]byte{0x81, 0x80 | 127}, claim), 1, 2, 3, 4))
				stop, dribbled := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(dribbled)
					for {
						select {
						case <-stop:
							return
						case <-time.After(10 * time.Millisecond):
							_, _ = s.ws.NetConn().Write([]byte("x")) // the edge may be gone
						}
					}
				}()
				if ce := s.closed(); ce.Code != websocket.CloseMessageTooBig || !strings.Contains(ce.Text, "524288 bytes") {
					t.Errorf("closed with %v", ce)
				}
				close(stop)
				<-dribbled
				runtime.ReadMemStats(&after)
				if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
					t.Errorf("%d bytes were made for it", n)
				}
				closes++
				await[frame.Close](g, closes)
			})
		}
	}
}

// Compression is never negotiated, so no small frame becomes a large one.
func TestSocket_NoCompression(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, res := dial(t, "ws://"+e.Addr()+"/connect?token="+w.token(t, "U1"), nil, func(d *websocket.Dialer) { d.EnableCompression = true })
	if h := res.header.Get("Sec-Websocket-Extensions"); h != "" {
		t.Fatalf("extensions %q", h)
	}
	// A frame that claims to be compressed breaks the protocol.
	_, _ = s.ws.NetConn().Write([]byte{0xc1, 0x80, 0, 0, 0, 0})
	if ce := s.closed(); ce.Code != websocket.CloseProtocolError || !strings.Contains(ce.Text, "RSV1") {
		t.Fatalf("closed with %v", ce)
	}
}

func TestSocket_CloseIsAnswered(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, _ := w.open(t, e, g, "U1")
	if err := s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4321, "bye"), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if ce := s.closed(); ce.Code != 4321 {
		t.Fatalf("closed with %v", ce)
	}
	await[frame.Close](g, 1)
}

// A half-open socket: the client vanished without a word.
func TestSocket_SilenceEndsIt(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.Heartbeat = 300 * time.Millisecond })
	s, _ := w.open(t, e, g, "U1")
	pinged := make(chan struct{}, 16)
	s.ws.SetPingHandler(func(string) error { pinged <- struct{}{}; return nil }) // deaf: no pong
	if ce := s.closed(); ce.Code != 4008 {
		t.Errorf("closed with %v", ce)
	}
	if len(pinged) == 0 {
		t.Error("it was never pinged")
	}
	await[frame.Close](g, 1)
}

func TestSocket_AnsweringPingsKeepsIt(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.Heartbeat = 200 * time.Millisecond })
	s, o := w.open(t, e, g, "U1")
	g.join(o.Session)
	done := time.AfterFunc(1500*time.Millisecond, func() { g.onC1(groupFrame(11)) })
	defer done.Stop()
	s.message(11) // reading answers pings
}

func TestConnect_Refusals(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.Origins = []string{"https://good.example"} })
	good := w.token(t, "U1")
	for name, c := range map[string]struct {
		query  string
		header http.Header
		status int
		kind   string
	}{
		"no token":             {"", nil, 401, "unauthentic"},
		"garbage":              {"?token=abc", nil, 401, "unauthentic"},
		"a foreign page":       {"?token=" + good, http.Header{"Origin": {"https://evil.example"}}, 403, "denied"},
		"an allowed page":      {"?token=" + good, http.Header{"Origin": {"https://good.example"}}, 101, ""},
		"by header":            {"", http.Header{"Authorization": {"Bearer " + good}}, 101, ""},
		"an unknown ticket":    {"?ticket=abc", nil, 401, "unauthentic"},
		"resume=maybe":         {"?resume=maybe&token=" + good, nil, 400, "invalid"},
		"an edge's own origin": {"?token=" + good, http.Header{"Origin": {"http://" + e.Addr()}}, 101, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, res := dial(t, "ws://"+e.Addr()+"/connect"+c.query, c.header)
			if res.code != c.status {
				t.Fatalf("%d %s; want status %d", res.code, res.body, c.status)
			}
			if c.kind == "" {
				return
			}
			if ct := res.header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			if d := decode[map[string]any](t, res); d["kind"] != c.kind {
				t.Errorf("document %v", d)
			}
		})
	}
}

func TestTicket_CountsOnce(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	res := w.request(t, e, "POST", "/api/v1/tickets", "", "Authorization", "Bearer "+w.token(t, "U1"))
	if res.code != http.StatusCreated {
		t.Fatalf("status %d", res.code)
	}
	tk := decode[chat.TicketResponse](t, res)
	if until := time.Until(tk.ExpiresTS.Time()); until < 25*time.Second || until > 31*time.Second {
		t.Errorf("it lives for %s", until)
	}
	url := "ws://" + e.Addr() + "/connect?ticket=" + tk.Ticket
	s, _ := dial(t, url, nil)
	var h chat.Hello
	s.next(chat.TypeHello, &h)
	if h.UserID != "U1" {
		t.Errorf("hello for %s", h.UserID)
	}
	if _, res := dial(t, url, nil); res.code != http.StatusUnauthorized {
		t.Errorf("the second use: %d", res.code)
	}
	if res := w.request(t, e, "POST", "/api/v1/tickets", ""); res.code != http.StatusUnauthorized {
		t.Errorf("without a token: status %d", res.code)
	}
}

func TestHomeless_IsKeptThenTold(t *testing.T) {
	w := newWorld(t)
	e := w.edge(t, func(c *edge.Config) { c.HomelessMax = 400 * time.Millisecond })
	s := w.connect(t, e, "U1", "")
	if ee := s.errorEvent(); ee.Kind != "unavailable" {
		t.Errorf("error %+v", ee)
	}
	if ce := s.closed(); ce.Code != 4008 {
		t.Errorf("closed with %v", ce)
	}
	// One that waits is served as soon as there is a gateway.
	other := w.connect(t, e, "U2", "")
	w.gateway(t, "gw-1", "eu-1")
	other.next(chat.TypeHello, nil)
}

func TestDrain_AsksToLeaveThenCloses(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.DrainSpread = 300 * time.Millisecond })
	polite, _ := w.open(t, e, g, "U1")
	stubborn, _ := w.open(t, e, g, "U2")
	if res := w.request(t, e, "GET", "/readyz", ""); res.code != http.StatusOK {
		t.Fatalf("readyz %d", res.code)
	}
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(context.Background()) }()
	var ga chat.GoawayEvent
	polite.next(chat.TypeGoaway, &ga)
	if ga.AfterMS < 0 || ga.AfterMS > 300 {
		t.Errorf("goaway %+v", ga)
	}
	if res := w.request(t, e, "GET", "/readyz", ""); res.code != http.StatusServiceUnavailable {
		t.Errorf("readyz %d while draining", res.code)
	}
	if _, res := dial(t, "ws://"+e.Addr()+"/connect?token="+w.token(t, "U3"), nil); res.code != http.StatusServiceUnavailable {
		t.Errorf("a new socket while draining: %d", res.code)
	}
	polite.quiet() // served to the end
	_ = polite.ws.Close()
	if ce := stubborn.closed(); ce.Code != websocket.CloseGoingAway {
		t.Errorf("closed with %v", ce)
	}
	select {
	case err := <-drained:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("drain does not end")
	}
}

func TestStop_ClosesSocketsInOrder(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e, stop := w.edgeStop(t)
	s, _ := w.open(t, e, g, "U1")
	go stop()
	if ce := s.closed(); ce.Code != websocket.CloseGoingAway {
		t.Errorf("closed with %v", ce)
	}
	stop()
}

func TestTLS(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	public := w.issue(t, pki.RoleEdge, "public")
	e := w.edge(t, func(c *edge.Config) { c.PlainHTTP, c.TLS = false, public.Public() })
	tc := &tls.Config{RootCAs: public.CAPool()}
	s, _ := dial(t, "wss://"+e.Addr()+"/connect?token="+w.token(t, "U1"), nil, func(d *websocket.Dialer) { d.TLSClientConfig = tc })
	s.next(chat.TypeHello, nil)
	tr := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Get("https://" + e.Addr() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if r := readReply(t, res); r.proto != 2 || r.code != http.StatusOK {
		t.Errorf("HTTP/%d %d", r.proto, r.code)
	}
}

func TestExpiredToken_EndsTheSocket(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	tok := w.shortToken(t, "U1")
	s, _ := dial(t, "ws://"+e.Addr()+"/connect?token="+tok, nil)
	s.next(chat.TypeHello, nil)
	if ee := s.errorEvent(); ee.Kind != "unauthentic" {
		t.Errorf("error %+v", ee)
	}
	if ce := s.closed(); ce.Code != 4001 {
		t.Errorf("closed with %v", ce)
	}
	await[frame.Close](g, 1)
}

func TestNew_ListsAllFaults(t *testing.T) {
	_, err := edge.New(edge.Config{}, edge.Deps{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"id", "region", "listen", "tls", "routes", "identity"} {
		if !strings.Contains(err.Error(), field+":") {
			t.Errorf("%q does not name %s", err, field)
		}
	}
}

func TestRun_PortInUse(t *testing.T) {
	w := newWorld(t)
	e := w.edge(t)
	second, err := edge.New(edge.Config{ID: "x", Region: "eu", Listen: e.Addr(), PlainHTTP: true},
		edge.Deps{Routes: w.table, Identity: w.issue(t, pki.RoleEdge, "x")})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), e.Addr()) {
		t.Fatalf("error %v does not name the address", err)
	}
}
