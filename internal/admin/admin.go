// Package admin serves what operators and their tools ask of one process: does it
// live, is it ready, its metrics and profiles, and the parts in it that can be
// stopped and started. It has no password: bind it to loopback or to a network of
// operators.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"parley/internal/failpoint"
	"parley/internal/lifecycle"
	"parley/internal/problem"
)

// Server is a process's admin listener.
type Server struct {
	Addr     string // host:port, TCP; "" serves nothing
	Metrics  prometheus.Gatherer
	Switches func() []*lifecycle.Switch // nil = none
	// Check says why the role is not ready; nil, or an answer of nil, = it is, once
	// MarkReady was called.
	Check func() error

	mu    sync.Mutex
	state lifecycle.State
}

// MarkReady says that the role serves.
func (s *Server) MarkReady() { s.set(lifecycle.Serving) }

// MarkDraining says that the role takes nothing new.
func (s *Server) MarkDraining() { s.set(lifecycle.Draining) }

func (s *Server) set(st lifecycle.State) {
	s.mu.Lock()
	s.state = st
	s.mu.Unlock()
}

const (
	stopMax   = 2 * time.Second
	headerMax = 5 * time.Second
	orderMax  = time.Minute
)

// Run serves until ctx ends. It is the first part of a role to start and the last
// to stop.
func (s *Server) Run(ctx context.Context, ready func()) error {
	s.set(lifecycle.Starting)
	if s.Addr == "" {
		ready()
		<-ctx.Done()
		return nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Addr)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "admin: %s can't be listened on: is another process using it?", s.Addr)
	}
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: headerMax}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	ready()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopMax)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		_ = srv.Close() // who still reads is cut
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]string{"status": "ok"}) })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /parts", s.parts)
	mux.HandleFunc("POST /parts/{name}/{order}", s.order)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	if h := failpoint.Handler(); h != nil {
		mux.Handle("/failpoints", h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			problem.Write(w, problem.New(problem.Denied, "this is no place for browsers"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	state := s.state
	s.mu.Unlock()
	var why error
	if s.Check != nil {
		why = s.Check()
	}
	switch {
	case state != lifecycle.Serving:
		problem.Write(w, problem.New(problem.Unavailable, "the role is %s", state))
	case why != nil:
		problem.Write(w, problem.New(problem.Unavailable, "%s", problem.Show(why)))
	default:
		answer(w, map[string]string{"status": "ready"})
	}
}

// part is a line of GET /parts.
type part struct {
	Name  string          `json:"name"`
	State lifecycle.State `json:"state"`
}

func (s *Server) switches() []*lifecycle.Switch {
	if s.Switches == nil {
		return nil
	}
	return s.Switches()
}

func (s *Server) parts(w http.ResponseWriter, _ *http.Request) {
	out := []part{}
	for _, sw := range s.switches() {
		out = append(out, part{sw.Name(), sw.State()})
	}
	answer(w, out)
}

// order stops, starts or, in builds that can, crashes one part, and waits for it.
func (s *Server) order(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), orderMax)
	defer cancel()
	for _, sw := range s.switches() {
		if sw.Name() != r.PathValue("name") {
			continue
		}
		do, ok := map[string]func(context.Context) error{"stop": sw.Stop, "start": sw.Start, "crash": sw.Crash}[r.PathValue("order")]
		if !ok {
			problem.Write(w, problem.New(problem.NotFound, "a part can stop, start or crash, not %q", r.PathValue("order")))
			return
		}
		if err := do(ctx); err != nil {
			problem.Write(w, err)
			return
		}
		answer(w, part{sw.Name(), sw.State()})
		return
	}
	problem.Write(w, problem.New(problem.NotFound, "there is no part %q; GET /parts lists them", r.PathValue("name")))
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the peer may be gone
}
