package edge

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/wire/chat"
)

const apiPrefix = "/api/v1/"

// server is the HTTP server for clients.
func (e *Edge) server(ctx context.Context) *http.Server {
	s := &http.Server{
		Handler: e.handler(), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
	if e.cfg.TLS != nil {
		s.TLSConfig = e.cfg.TLS.Clone()
	}
	return s
}

func (e *Edge) handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(method, path string, h http.HandlerFunc) {
		mux.HandleFunc(method+" "+path, h)
		mux.HandleFunc(path, otherMethod(method))
	}
	serve(http.MethodGet, "/healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	serve(http.MethodGet, "/readyz", e.readyz)
	serve(http.MethodGet, "/connect", e.connect)
	serve(http.MethodGet, apiPrefix+"edges", e.edges)
	serve(http.MethodPost, apiPrefix+"tickets", e.ticket)
	serve(http.MethodGet, apiPrefix+"openapi.json", e.openAPI)
	mux.HandleFunc(apiPrefix, e.proxy)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(problem.NotFound, "no such path: %s", r.URL.Path))
	})
	return e.counted(e.cors(mux))
}

// otherMethod refuses every method but the path's own.
func otherMethod(allow string) http.HandlerFunc {
	if allow == http.MethodGet {
		allow = "GET, HEAD" // as the mux has it
	}
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		problem.Write(w, problem.New(problem.Method, "%s takes %s, not %s", r.URL.Path, allow, r.Method))
	}
}

// counted counts answers and turns a defect into a 500.
func (e *Edge) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &counting{ResponseWriter: w}
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // the very value, as net/http documents it
					panic(v) //nolint:forbidigo // not ours to keep
				}
				e.log.Error("request panicked", "step", r.URL.Path, "err", v)
				problem.Write(w, problem.New(problem.Internal, "internal error"))
			}
			e.metrics.requests.WithLabelValues(strconv.Itoa(c.code)).Inc()
		}()
		next.ServeHTTP(c, r)
	})
}

type counting struct {
	http.ResponseWriter
	code int
}

func (c *counting) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController and the upgrade reach the connection.
func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text) // the peer may be gone; nothing to do about it
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // as above
}

func (e *Edge) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := e.Ready(); err != nil {
		problem.Write(w, err)
		return
	}
	writeText(w, http.StatusOK, "ready\n")
}

// Ready says why the edge should be given no new clients now; nil when it should.
func (e *Edge) Ready() error {
	switch {
	case e.draining.Load():
		return problem.New(problem.Unavailable, "draining")
	case !e.serving.Load():
		return problem.New(problem.Unavailable, "starting")
	case len(e.routes.keys())+len(e.cfg.ColdKeys) == 0:
		return problem.New(problem.Unavailable, "no signing keys are known yet")
	default:
		return nil
	}
}

// allowed reports whether a browser's page of this origin may use the edge.
func (e *Edge) allowed(origin string, r *http.Request) bool {
	if slices.Contains(e.cfg.Origins, origin) || slices.Contains(e.cfg.Origins, "*") {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// cors lets pages of the configured origins in, and nobody else's.
func (e *Edge) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		ok := e.allowed(origin, r)
		if ok {
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Expose-Headers", "Retry-After, "+headerRequestID)
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			if ok {
				h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, "+headerKey)
				h.Set("Access-Control-Max-Age", "600")
			}
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bearer is the token of an Authorization header.
func bearer(r *http.Request) string {
	scheme, word, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(word)
}

func (e *Edge) claims(r *http.Request) (token.Claims, error) {
	return e.verifier.Verify(bearer(r), time.Now())
}

// connectClaims takes a token from the header, or a token or ticket from the URL.
func (e *Edge) connectClaims(r *http.Request) (token.Claims, error) {
	q := r.URL.Query()
	if t := q.Get("ticket"); t != "" {
		return e.tickets.redeem(t, time.Now())
	}
	word := q.Get("token")
	if word == "" {
		word = bearer(r)
	}
	return e.verifier.Verify(word, time.Now())
}

func (e *Edge) connect(w http.ResponseWriter, r *http.Request) {
	if err := e.acceptSocket(w, r); err != nil {
		problem.Write(w, err)
	}
}

func (e *Edge) acceptSocket(w http.ResponseWriter, r *http.Request) error {
	if e.draining.Load() {
		return &problem.Error{Kind: problem.Unavailable, Msg: "this edge is draining; GET /api/v1/edges lists others", RetryAfter: time.Second}
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return problem.Field("Upgrade", "/connect speaks WebSocket: send Upgrade: websocket over HTTP/1.1")
	}
	if o := r.Header.Get("Origin"); o != "" && !e.allowed(o, r) {
		return problem.New(problem.Denied, "pages of %q may not connect; the operator can allow the origin", o)
	}
	c, err := e.connectClaims(r)
	if err != nil {
		return err
	}
	if c.User == "" {
		return problem.New(problem.Denied, "the token names no user; sockets are for people")
	}
	var resume bool
	switch v := r.URL.Query().Get("resume"); v {
	case "", "0":
	case "1":
		resume = true
	default:
		return problem.Field("resume", "must be 0 or 1")
	}
	inner := w
	if c, ok := w.(*counting); ok { // the upgrade needs the connection itself
		c.code = http.StatusSwitchingProtocols
		inner = c.ResponseWriter
	}
	return e.sockets.accept(inner, r, c, resume)
}

func (e *Edge) edges(w http.ResponseWriter, _ *http.Request) {
	out := chat.EdgesResponse{Edges: []chat.Edge{}}
	for _, x := range e.routes.Edges() {
		out.Edges = append(out.Edges, chat.Edge{ID: x.ID, Region: x.Region, URL: x.URL})
	}
	writeJSON(w, http.StatusOK, out)
}

func (e *Edge) ticket(w http.ResponseWriter, r *http.Request) {
	c, err := e.claims(r)
	if err != nil {
		problem.Write(w, err)
		return
	}
	word, expires, err := e.tickets.issue(c, time.Now())
	if err != nil {
		problem.Write(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusCreated, chat.TicketResponse{Ticket: word, ExpiresTS: chat.Timestamp(expires.UnixMicro())})
}

func (e *Edge) openAPI(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), e.cfg.RequestMax)
	defer cancel()
	res, err := e.cells.anyCell(ctx, apiPrefix+"openapi.json")
	if err != nil {
		problem.Write(w, err)
		return
	}
	relay(w, res)
}

// proxy passes a request on to the caller's cell.
func (e *Edge) proxy(w http.ResponseWriter, r *http.Request) {
	if err := e.pass(w, r); err != nil {
		e.log.Debug("a request failed", "err", err)
		problem.Write(w, err)
	}
}

func (e *Edge) pass(w http.ResponseWriter, r *http.Request) error {
	c, err := e.claims(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	header := forwarded(r.Header)
	header.Set(headerWorkspace, string(c.Workspace))
	header.Set(headerUser, string(c.User))
	header.Set(headerRole, c.Role)
	id := rand.Text()
	header.Set(headerRequestID, id)
	a := ask{
		workspace: c.Workspace, user: c.User, method: r.Method, uri: r.URL.RequestURI(), header: header, body: body,
		again: r.Method == http.MethodGet || r.Method == http.MethodHead,
	}
	if isPost(r) {
		a.again = true
		if header.Get(headerKey) == "" && !hasKey(body) {
			header.Set(headerKey, rand.Text())
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), e.cfg.RequestMax)
	defer cancel()
	w.Header().Set(headerRequestID, id)
	res, err := e.cells.send(ctx, a)
	if err != nil {
		return err
	}
	relay(w, res)
	return nil
}

// bodyMax bounds a request's body: imports come in larger pieces.
func bodyMax(path string) int64 {
	if strings.HasPrefix(path, apiPrefix+"admin/") && strings.HasSuffix(path, "/import") {
		return chat.ImportBodyBytesMax
	}
	return chat.BodyBytesMax
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if c := r.Header.Get("Content-Encoding"); c != "" && !strings.EqualFold(c, "identity") {
		w.Header().Set("Accept-Encoding", "identity")
		return nil, &problem.Error{
			Kind: problem.MediaType, Field: "Content-Encoding", Msg: fmt.Sprintf("Content-Encoding: %.40q is not taken: send the JSON as it is, without compression", c),
		}
	}
	most := bodyMax(r.URL.Path)
	if r.ContentLength > most {
		if r.ContentLength <= 2*most { // else nothing of it is read; who is still sending may miss the answer
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return nil, problem.New(problem.TooLarge, "the body is larger than %d bytes", most)
	}
	inner := w
	if c, ok := w.(*counting); ok { // net/http's own: told of too much, it waits for no more before it answers
		inner = c.ResponseWriter
	}
	b, err := io.ReadAll(http.MaxBytesReader(inner, r.Body, most))
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return nil, problem.New(problem.TooLarge, "the body is larger than %d bytes", most)
	case err != nil:
		return nil, problem.Wrap(err, problem.Invalid, "the body could not be read")
	}
	return b, nil
}

// isPost recognises a post of a message: the one POST that cells answer with the
// same message again, given the same key.
func isPost(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, apiPrefix+"channels/")
	channel, tail, _ := strings.Cut(rest, "/")
	return ok && r.Method == http.MethodPost && channel != "" && tail == "messages"
}

// hasKey reports whether a message brings its own key. A body that is no JSON is
// the cell's to refuse.
func hasKey(body []byte) bool {
	var m struct {
		Key string `json:"client_msg_id"`
	}
	return bytes.Contains(body, []byte("client_msg_id")) && json.Unmarshal(body, &m) == nil && m.Key != ""
}

// dropped are the headers that end at the edge: those of the connection, and the
// credentials, which no cell needs.
func dropped(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", "Authorization", "Cookie", "Origin", "Host", "Content-Length", "Alt-Svc":
		return true
	default:
		return strings.HasPrefix(name, "Parley-")
	}
}

// forwarded is the client's headers that a cell may see. E4: none under our names.
func forwarded(in http.Header) http.Header {
	out := make(http.Header, len(in))
	listed := strings.Split(in.Get("Connection"), ",")
	for name, vs := range in {
		canonical := http.CanonicalHeaderKey(name)
		if dropped(canonical) || slices.ContainsFunc(listed, func(l string) bool { return strings.EqualFold(strings.TrimSpace(l), name) }) {
			continue
		}
		out[canonical] = vs
	}
	return out
}

// relay gives a cell's answer to the client.
func relay(w http.ResponseWriter, res answer) {
	defer func() { _ = res.Body.Close() }() // read as far as it counts
	for name, vs := range res.Header {
		if !dropped(name) {
			w.Header()[name] = vs
		}
	}
	w.WriteHeader(res.StatusCode)
	if _, err := w.Write(res.head); err != nil {
		return // the client is gone
	}
	if len(res.head) < answerBytesMax {
		return
	}
	if _, err := io.Copy(w, res.Body); err != nil {
		panic(http.ErrAbortHandler) //nolint:forbidigo // the client must not take half an answer for a whole
	}
}
