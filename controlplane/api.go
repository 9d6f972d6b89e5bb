package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
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
	headerMax       = 5 * time.Second
	stopMax         = 3 * time.Second
)

// api serves the operators' API.
type api struct {
	n      *Node
	errors *connect.ErrorWriter
	proxy  http.RoundTripper
}

func (n *Node) newAPI() *api {
	return &api{
		n: n, errors: connect.NewErrorWriter(),
		proxy: &http.Transport{TLSClientConfig: n.deps.Identity.Client(pki.RoleControl), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16},
	}
}

func (a *api) run(ctx context.Context, listening func()) error {
	tlsConfig := a.n.deps.Identity.Public()
	tlsConfig.ClientAuth, tlsConfig.ClientCAs = tls.VerifyClientCertIfGiven, a.n.deps.Identity.CAPool()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.n.cfg.APIAddr)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "%s can't be listened on: is another process using it?", a.n.cfg.APIAddr)
	}
	srv := &http.Server{Handler: a.handler(), TLSConfig: tlsConfig, ReadHeaderTimeout: headerMax, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	listening()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
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
		connect.WithInterceptors(problems{}), connect.WithReadMaxBytes(messageBytesMax), connect.WithSendMaxBytes(messageBytesMax))
	mux.Handle(path, a.identify(a.toLeader(service)))
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
	return mux
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
		var name string
		if ok {
			a.n.fsm.read(func(s *state.State) { name, ok = s.Operator(secret) })
		}
		if !ok {
			a.refuse(w, r, problem.New(problem.Unauthentic, "an operator token is needed: Authorization: Bearer …"))
			return
		}
		ctx := context.WithValue(r.Context(), byKey{}, by{actor: name, from: from(r)})
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

// from is the caller's address; a node's word counts for what it passed on.
func from(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		if id, err := pki.PeerIdentity(*r.TLS); err == nil && id.Role == pki.RoleControl {
			return r.Header.Get(headerFrom)
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// toLeader passes on to the leader what this node can't answer itself.
func (a *api) toLeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.answersItself(r) {
			next.ServeHTTP(w, r)
			return
		}
		_, id := a.n.raft.LeaderWithID()
		if string(id) == a.n.cfg.ID {
			next.ServeHTTP(w, r)
			return
		}
		p, ok := a.n.cfg.peer(string(id))
		target, err := url.Parse(p.APIURL)
		passedOn := r.TLS != nil && len(r.TLS.PeerCertificates) > 0
		if !ok || err != nil || passedOn {
			a.refuse(w, r, problem.New(problem.Unavailable, "there is no leader now; try again"))
			return
		}
		proxy := httputil.ReverseProxy{
			Transport: a.proxy, FlushInterval: -1,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(target)
				p.Out.Header.Set(headerFrom, from(p.In))
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				a.refuse(w, r, problem.Wrap(err, problem.Unknown, "the leader did not answer; look whether the change is there"))
			},
		}
		proxy.ServeHTTP(w, r)
	})
}

// answersItself reports whether a call needs no leader.
func (a *api) answersItself(r *http.Request) bool {
	switch r.URL.Path {
	case controlv1connect.ControlServiceGetStatusProcedure, controlv1connect.ControlServiceWatchProcedure,
		controlv1connect.ControlServiceListPeersProcedure:
		return true
	}
	return r.Header.Get(HeaderConsistency) == "stale"
}

// fresh makes reads linearizable, unless the caller asked for less.
func (a *api) fresh(h http.Header) error {
	if h.Get(HeaderConsistency) == "stale" {
		return nil
	}
	return a.n.linearizable()
}

// problems gives every error of a call connect's form.
type problems struct{}

// WrapUnary implements connect.Interceptor.
func (problems) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, r)
		return res, connectError(err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (problems) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (problems) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error { return connectError(next(ctx, c)) }
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
