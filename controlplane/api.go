package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/pki"
	"parley/internal/problem"
)

// Headers of the API beside connect's own.
const (
	// HeaderConsistency with the value "stale" lets the node that was asked
	// answer from its own state.
	HeaderConsistency = "Parley-Consistency"
	// HeaderKind and HeaderField say in errors what package problem has.
	HeaderKind  = "Parley-Kind"
	HeaderField = "Parley-Field"
	// headerFrom is from where a request came that another node passed on.
	headerFrom = "Parley-From"
)

// Limits of the API.
const (
	messageBytesMax = 4 << 20
	headerBytesMax  = 64 << 10
	headerMax       = 5 * time.Second
	stallMax        = 30 * time.Second // how long a peer may neither send nor take a byte that is due
	pingAfter       = 15 * time.Second
	idleMax         = 2 * time.Minute
	stopMax         = 3 * time.Second
)

// api serves the operators' API.
type api struct {
	n        *Node
	errors   *connect.ErrorWriter
	proxy    *http.Transport
	stopping chan struct{} // closed when the server is to end: streams have to
}

func (n *Node) newAPI() *api {
	return &api{
		n: n, errors: connect.NewErrorWriter(), stopping: make(chan struct{}),
		proxy: &http.Transport{
			TLSClientConfig: n.deps.Identity.Client(pki.RoleControl), ForceAttemptHTTP2: true,
			DialContext: n.dial, TLSHandshakeTimeout: headerMax, IdleConnTimeout: idleMax,
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter}, // finds a leader whose host is gone
		},
	}
}

func (n *Node) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, headerMax)
	defer cancel()
	return n.deps.Net.DialContext(ctx, network, addr)
}

func (a *api) run(ctx context.Context, listening func()) error {
	defer a.proxy.CloseIdleConnections()
	tlsConfig := a.n.deps.Identity.Public()
	tlsConfig.ClientAuth, tlsConfig.ClientCAs = tls.VerifyClientCertIfGiven, a.n.deps.Identity.CAPool()
	l, err := a.n.deps.Net.ListenTCP(ctx, a.n.cfg.APIAddr)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "%s can't be listened on: is another process using it?", a.n.cfg.APIAddr)
	}
	srv := &http.Server{
		Handler: a.handler(), TLSConfig: tlsConfig, ReadHeaderTimeout: headerMax, IdleTimeout: idleMax, MaxHeaderBytes: headerBytesMax,
		HTTP2:    &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter}, // ends the watches of hosts that are gone
		ErrorLog: slog.NewLogLogger(a.n.log.Handler(), slog.LevelDebug),                 // strangers' faults
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	listening()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	close(a.stopping)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopMax)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		_ = srv.Close() // what would not end is cut
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	path, service := controlv1connect.NewControlServiceHandler(a,
		connect.WithInterceptors(problems{a.n.log}), connect.WithReadMaxBytes(messageBytesMax), connect.WithSendMaxBytes(messageBytesMax))
	// The leader knows all tokens, a follower perhaps not yet the newest: who answers
	// a call looks who makes it.
	mux.Handle(path, a.toLeader(a.identify(service)))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if _, id := a.n.raft.LeaderWithID(); id == "" {
			http.Error(w, "there is no leader", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusOK)
	})
	registry := a.n.deps.Metrics
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return unhurried(mux)
}

type byKey struct{}

func whoAsks(ctx context.Context) by {
	who, _ := ctx.Value(byKey{}).(by) // identify ran before every call
	return who
}

// identify lets in who shows an operator token.
func (a *api) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		var who state.OperatorToken
		if ok {
			a.n.fsm.read(func(s *state.State) { who, ok = s.Operator(secret) })
		}
		if !ok {
			a.refuse(w, r, problem.New(problem.Unauthentic, "an operator token is needed: Authorization: Bearer …"))
			return
		}
		ctx := context.WithValue(r.Context(), byKey{}, by{actor: who.Name, from: from(r), token: who.ID})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if a.errors.IsSupported(r) {
		_ = a.errors.Write(w, r, connectError(err)) // the peer may be gone
		return
	}
	problem.Write(w, err)
}

// fresh makes reads linearizable, unless the caller asked for less.
func (a *api) fresh(h http.Header) error {
	if h.Get(HeaderConsistency) == "stale" {
		return nil
	}
	return a.n.linearizable()
}

// problems gives every error of a call connect's form, and logs what only we can
// mend.
type problems struct{ log *slog.Logger }

// WrapUnary implements connect.Interceptor.
func (p problems) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, r)
		return res, p.answer(r.Spec().Procedure, err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (p problems) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (p problems) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		return p.answer(c.Spec().Procedure, next(ctx, c))
	}
}

func (p problems) answer(procedure string, err error) error {
	_, known := errors.AsType[*connect.Error](err)
	if err != nil && !known && problem.Is(err, problem.Internal) {
		p.log.Error("a call failed", "call", procedure, "err", err)
	}
	return connectError(err)
}

func connectError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*connect.Error](err); ok {
		return err
	}
	e := connect.NewError(code(problem.KindOf(err)), errors.New(problem.Show(err)))
	e.Meta().Set(HeaderKind, string(problem.KindOf(err)))
	var p *problem.Error
	if errors.As(err, &p) && p.Field != "" {
		e.Meta().Set(HeaderField, p.Field)
	}
	return e
}

func code(k problem.Kind) connect.Code {
	switch k {
	case problem.Invalid, problem.TooLarge:
		return connect.CodeInvalidArgument
	case problem.Unauthentic:
		return connect.CodeUnauthenticated
	case problem.Denied:
		return connect.CodePermissionDenied
	case problem.NotFound:
		return connect.CodeNotFound
	case problem.Conflict:
		return connect.CodeAlreadyExists
	case problem.Precond:
		return connect.CodeFailedPrecondition
	case problem.Exhausted, problem.Full:
		return connect.CodeResourceExhausted
	case problem.Unavailable, problem.Unknown:
		return connect.CodeUnavailable
	case problem.Unsupported:
		return connect.CodeUnimplemented
	default:
		return connect.CodeInternal
	}
}

// KindOf is the kind of an error of a call, for clients.
func KindOf(err error) problem.Kind {
	var e *connect.Error
	if !errors.As(err, &e) {
		return problem.KindOf(err)
	}
	if k := e.Meta().Get(HeaderKind); k != "" {
		return problem.Kind(k)
	}
	for _, k := range []problem.Kind{
		problem.Invalid, problem.Unauthentic, problem.Denied, problem.NotFound, problem.Conflict, problem.Precond,
		problem.Exhausted, problem.Unavailable, problem.Unsupported,
	} {
		if code(k) == e.Code() {
			return k
		}
	}
	return problem.Internal
}

// page is a page's bounds.
func page(p *controlv1.Page) (after string, size int, err error) {
	const normal, most = 100, 1000
	switch n := p.GetSize(); {
	case n == 0:
		size = normal
	case n < 0 || n > most:
		return "", 0, problem.Field("page.size", "must be 1 to %d", most)
	default:
		size = int(n)
	}
	return p.GetToken(), size, nil
}

// cut takes the one beyond a page off and gives the token of the next.
func cut[T any](all []T, size int, id func(T) string) ([]T, string) {
	if len(all) <= size {
		return all, ""
	}
	return all[:size], id(all[size-1])
}
