package edge_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/edge"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/regions"
)

func (w *world) shortToken(t *testing.T, user topology.UserID) string {
	t.Helper()
	now := time.Now()
	s, err := token.Sign(w.key, token.Claims{User: user, Workspace: "W1", Role: token.RoleMember, Expires: now.Add(2 * time.Second)}, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seen keeps the requests that a fake gateway got.
type seen struct {
	mu   sync.Mutex
	reqs []*http.Request
	body []string
}

func (s *seen) keep(r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reqs, s.body = append(s.reqs, r), append(s.body, string(b))
}

func (s *seen) list() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reqs
}

// E4: the cell is told by the edge alone who asks.
func TestProxy_E4_HeadersAreTheEdges(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	var s seen
	g.answer(func(rw http.ResponseWriter, r *http.Request) {
		s.keep(r)
		rw.Header().Set("Parley-Epoch", "1")
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Retry-After", "7")
		rw.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(rw, `{"ok":true}`)
	})
	e := w.edge(t)
	res := w.request(t, e, "POST", "/api/v1/channels?x=1&y=%2F", `{"name":"a"}`,
		"Authorization", "Bearer "+w.token(t, "U1"), "parley-user", "UEVIL", "Parley-Workspace", "WEVIL", "PARLEY-ROLE", "admin",
		"Parley-Anything", "x", "Cookie", "c=1", "Content-Type", "application/json", "Connection", "X-Hop", "X-Hop", "1", "X-Kept", "2")
	if res.code != http.StatusCreated || res.header.Get("Retry-After") != "7" || res.header.Get("Parley-Epoch") != "" {
		t.Errorf("answer %d %v", res.code, res.header)
	}
	if d := decode[map[string]bool](t, res); !d["ok"] {
		t.Errorf("body %v", d)
	}
	r := s.list()[0]
	for name, want := range map[string]string{
		"Parley-User": "U1", "Parley-Workspace": "W1", "Parley-Role": "member", "Parley-Epoch": "1", "Parley-Anything": "",
		"Cookie": "", "Authorization": "", "X-Hop": "", "X-Kept": "2", "Content-Type": "application/json",
	} {
		if got := r.Header.Values(name); strings.Join(got, ",") != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.Header.Get("Parley-Request-Id") == "" || r.Header.Get("Parley-Request-Id") != res.header.Get("Parley-Request-Id") {
		t.Errorf("request ids %q and %q", r.Header.Get("Parley-Request-Id"), res.header.Get("Parley-Request-Id"))
	}
	if r.URL.RequestURI() != "/api/v1/channels?x=1&y=%2F" || s.body[0] != `{"name":"a"}` {
		t.Errorf("%s %s", r.URL.RequestURI(), s.body[0])
	}
}

func TestProxy_HigherEpochWins(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	var s seen
	g.answer(func(rw http.ResponseWriter, r *http.Request) {
		s.keep(r)
		rw.Header().Set("Parley-Epoch", "4")
		if r.Header.Get("Parley-Epoch") != "4" {
			rw.WriteHeader(http.StatusMisdirectedRequest)
		}
	})
	e := w.edge(t)
	res := w.request(t, e, "POST", "/api/v1/channels", `{}`, "Authorization", "Bearer "+w.token(t, "U1"))
	var asked []string
	for _, r := range s.list() {
		asked = append(asked, r.Header.Get("Parley-Epoch"))
	}
	if res.code != http.StatusOK || strings.Join(asked, " ") != "1 4" {
		t.Errorf("status %d after epochs %v", res.code, asked)
	}
	if r, _ := w.table.Route("W1"); r.Epoch != 4 {
		t.Errorf("route %+v", r)
	}
}

// A cell that is not the owner any more: the request waits for the new route.
func TestProxy_MovedToAnotherCell(t *testing.T) {
	w := newWorld(t)
	g1, g2 := w.gateway(t, "gw-1", "eu-1"), w.gateway(t, "gw-2", "eu-2")
	g1.answer(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Parley-Epoch", "1")
		rw.WriteHeader(http.StatusMisdirectedRequest)
		w.table.Prefer(topology.Route{Workspace: "W1", Cell: "eu-2", Epoch: 2})
	})
	g2.answer(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, r.Header.Get("Parley-Epoch")) })
	e := w.edge(t)
	res := w.request(t, e, "GET", "/api/v1/unread", "", "Authorization", "Bearer "+w.token(t, "U1"))
	if b := res.body; res.code != http.StatusOK || string(b) != "2" {
		t.Errorf("status %d, %s", res.code, b)
	}
}

func TestProxy_NeverShows421(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	g.answer(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusMisdirectedRequest) })
	e := w.edge(t)
	res := w.request(t, e, "GET", "/api/v1/unread", "", "Authorization", "Bearer "+w.token(t, "U1"))
	if res.code != http.StatusServiceUnavailable || res.header.Get("Retry-After") == "" {
		t.Errorf("status %d", res.code)
	}
}

func TestProxy_DeadGateway(t *testing.T) {
	w := newWorld(t)
	dead := w.gateway(t, "gw-dead", "eu-1")
	dead.stop()
	g := w.gateway(t, "gw-1", "eu-1")
	var s seen
	g.answer(func(rw http.ResponseWriter, r *http.Request) {
		s.keep(r)
		rw.WriteHeader(http.StatusCreated)
	})
	e := w.edge(t)
	for _, u := range []topology.UserID{"U1", "U2", "U3", "U4", "U5", "U6"} { // some have the dead one first
		res := w.request(t, e, "POST", "/api/v1/channels/C1/messages", `{"text":"x"}`, "Authorization", "Bearer "+w.token(t, u))
		if res.code != http.StatusCreated {
			t.Errorf("%s: status %d", u, res.code)
		}
	}
	keys := map[string]bool{}
	for _, r := range s.list() {
		keys[r.Header.Get("Idempotency-Key")] = true
	}
	if len(keys) != 6 || keys[""] {
		t.Errorf("keys %v, want 6 different ones", keys)
	}
}

// A gateway that took the request and died: repeated with the same key if it has
// one, else told as unknown.
func TestProxy_GatewayDiesHalfway(t *testing.T) {
	w := newWorld(t)
	g1, g2 := w.gateway(t, "gw-1", "eu-1"), w.gateway(t, "gw-2", "eu-1")
	var first atomic.Bool
	var s seen
	die := func(rw http.ResponseWriter, r *http.Request) {
		s.keep(r)
		if first.CompareAndSwap(false, true) {
			panic(http.ErrAbortHandler)
		}
		rw.WriteHeader(http.StatusCreated)
	}
	g1.answer(die)
	g2.answer(die)
	e := w.edge(t)
	auth := "Bearer " + w.token(t, "U1")
	res := w.request(t, e, "POST", "/api/v1/channels/C1/messages", `{"text":"x","client_msg_id":"mine"}`, "Authorization", auth)
	if res.code != http.StatusCreated || len(s.list()) != 2 || s.body[0] != s.body[1] || s.list()[0].Header.Get("Idempotency-Key") != "" {
		t.Errorf("status %d after %d requests", res.code, len(s.list()))
	}
	first.Store(false)
	res = w.request(t, e, "POST", "/api/v1/channels", `{}`, "Authorization", auth)
	d := decode[map[string]any](t, res)
	if res.code != http.StatusServiceUnavailable || d["outcome"] != "unknown" || len(s.list()) != 3 {
		t.Errorf("status %d, %v, %d requests", res.code, d, len(s.list()))
	}
}

func TestProxy_BadRequests(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	auth := "Bearer " + w.token(t, "U1")
	for name, c := range map[string]struct {
		method, path, body, auth string
		status                   int
	}{
		"no token":    {"GET", "/api/v1/unread", "", "", 401},
		"bad token":   {"GET", "/api/v1/unread", "", "Bearer x", 401},
		"basic auth":  {"GET", "/api/v1/unread", "", "Basic x", 401},
		"large body":  {"POST", "/api/v1/channels", strings.Repeat("x", chat.BodyBytesMax+1), auth, 413},
		"other path":  {"GET", "/nothing", "", auth, 404},
		"no upgrade":  {"GET", "/connect", "", auth, 400},
		"import body": {"POST", "/api/v1/admin/channels/C1/import", strings.Repeat("x", chat.BodyBytesMax+1), auth, 418},
	} {
		t.Run(name, func(t *testing.T) {
			res := w.request(t, e, c.method, c.path, c.body, "Authorization", c.auth)
			if res.code != c.status {
				t.Errorf("status %d, want %d", res.code, c.status)
			}
			if c.status != 418 && res.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("content type %q", res.header.Get("Content-Type"))
			}
		})
	}
}

// What a body claims, or would become, is refused before it is read.
func TestProxy_BodiesThatAreNotRead(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	var s seen
	g.answer(func(_ http.ResponseWriter, r *http.Request) { s.keep(r) })
	e := w.edge(t)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := io.CopyN(z, zeros{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		header, body string
		status       int
		field, says  string
	}{
		"a claim of 1 GB":          {"Content-Length: 1073741824\r\nExpect: 100-continue", "", 413, "", "524288 bytes"},
		"1 GB of which some comes": {"Content-Length: 1073741824", strings.Repeat("x", 1000), 413, "", "524288 bytes"},
		"chunks without end":       {"Transfer-Encoding: chunked", strings.Repeat("10000\r\n"+strings.Repeat("x", 0x10000)+"\r\n", 9), 413, "", "524288 bytes"},
		"a bomb":                   {"Content-Encoding: gzip\r\nContent-Length: " + strconv.Itoa(bomb.Len()), bomb.String(), 415, "Content-Encoding", "without compression"},
		"another compression":      {"Content-Encoding: br, gzip\r\nContent-Length: 1", "x", 415, "Content-Encoding", "without compression"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", e.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := io.WriteString(conn, "POST /api/v1/channels HTTP/1.1\r\nHost: "+e.Addr()+"\r\nAuthorization: Bearer "+w.token(t, "U1")+"\r\n"+c.header+"\r\n\r\n"+c.body); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			r := readReply(t, res)
			runtime.ReadMemStats(&after)
			d := decode[problem.Document](t, r)
			if r.code != c.status || d.Field != c.field || !strings.Contains(d.Detail, c.says) || r.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %s", r.code, r.body)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
				t.Errorf("%d bytes were made for it", n)
			}
		})
	}
	if n := len(s.list()); n > 0 {
		t.Errorf("%d of them reached the cell", n)
	}
	if res := w.request(t, e, "POST", "/api/v1/channels", "{}", "Authorization", "Bearer "+w.token(t, "U1"), "Content-Encoding", "identity"); res.code != http.StatusOK {
		t.Errorf("a plain body that says so: %d %s", res.code, res.body)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A path that the edge answers itself says which methods it has.
func TestEdge_OtherMethods(t *testing.T) {
	w := newWorld(t)
	e := w.edge(t)
	for path, allow := range map[string]string{
		"/api/v1/tickets": "POST", "/api/v1/edges": "GET, HEAD", "/api/v1/openapi.json": "GET, HEAD", "/connect": "GET, HEAD",
		"/healthz": "GET, HEAD", "/readyz": "GET, HEAD",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			if strings.Contains(allow, method) {
				continue
			}
			res := w.request(t, e, method, path, "", "Authorization", "Bearer "+w.token(t, "U1"))
			if d := decode[problem.Document](t, res); res.code != http.StatusMethodNotAllowed || res.header.Get("Allow") != allow || d.Kind != problem.Method {
				t.Errorf("%s %s: %d, Allow %q, %s", method, path, res.code, res.header.Get("Allow"), res.body)
			}
		}
	}
}

func TestEdgesAndOpenAPI_NeedNoToken(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	g.answer(func(rw http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(rw, r.URL.Path) })
	w.now.Cells = []regions.Cell{{ID: "eu-9", Region: "eu"}, {ID: "eu-1", Region: "eu"}}
	w.list()
	e := w.edge(t)
	if d := decode[chat.EdgesResponse](t, w.request(t, e, "GET", "/api/v1/edges", "")); len(d.Edges) != 1 || d.Edges[0].URL != "https://us.example" {
		t.Errorf("edges %+v", d)
	}
	if b := w.request(t, e, "GET", "/api/v1/openapi.json", "").body; string(b) != "/api/v1/openapi.json" {
		t.Errorf("document %s", b)
	}
}

func TestCORS(t *testing.T) {
	w := newWorld(t)
	e := w.edge(t, func(c *edge.Config) { c.Origins = []string{"https://good.example"} })
	for origin, want := range map[string]string{"https://good.example": "https://good.example", "https://evil.example": ""} {
		res := w.request(t, e, "OPTIONS", "/api/v1/channels", "", "Origin", origin, "Access-Control-Request-Method", "POST")
		if res.code != http.StatusNoContent || res.header.Get("Access-Control-Allow-Origin") != want ||
			(res.header.Get("Access-Control-Allow-Methods") != "") != (want != "") {
			t.Errorf("%s: %d %v", origin, res.code, res.header)
		}
	}
}

// An edge without table and etcd asks the cells of its config.
func TestColdStart(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	g.answer(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/internal/v1/workspaces" {
			coldRows(rw, r.URL.Query().Get("after"))
			return
		}
		_, _ = io.WriteString(rw, r.Header.Get("Parley-Epoch"))
	})
	w.unlist("gw-1")
	w.table = &routes{Table: regions.NewTable("eu")}
	e := w.edge(t, func(c *edge.Config) {
		c.ColdCells = []edge.CellSeed{{Cell: "eu-1", APIAddrs: []string{g.info.APIAddr}, LinkAddrs: []string{g.info.LinkAddr}}}
		c.ColdKeys = []token.Key{w.key.WithoutPrivate()}
		c.ColdEvery = 50 * time.Millisecond
	})
	s := w.connect(t, e, "U1", "")
	s.next(chat.TypeHello, nil)
	res := w.request(t, e, "GET", "/api/v1/unread", "", "Authorization", "Bearer "+w.token(t, "U1"))
	if b := res.body; string(b) != "5" {
		t.Errorf("epoch %s", b)
	}
	for w.table.Len() < 1500 {
		changed := w.table.Changed()
		if w.table.Len() >= 1500 {
			break
		}
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("%d routes, want 1500", w.table.Len())
		}
	}
}

// coldRows is a cell of 1,500 workspaces, W1 and X1 … X1499.
func coldRows(w io.Writer, after string) {
	from, rows := 1, []string{}
	if after == "" {
		rows = append(rows, `{"workspace":"W1","epoch":5,"cell":"eu-1"}`)
	} else {
		from, _ = strconv.Atoi(strings.TrimPrefix(after, "X"))
		from++
	}
	for i := from; i < 1500 && len(rows) < 1000; i++ {
		rows = append(rows, `{"workspace":"X`+strconv.Itoa(i)+`","epoch":1,"cell":"eu-1"}`)
	}
	_, _ = io.WriteString(w, "["+strings.Join(rows, ",")+"]")
}
