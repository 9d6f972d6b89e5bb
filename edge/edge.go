// Package edge is the way in for clients: it terminates TLS and WebSockets,
// verifies tokens itself, finds the cell of a workspace in its own copy of the
// routes, and carries sockets over links and requests over HTTP/3 to one of the
// cell's gateways. A client's socket survives the gateway, the cell and a move
// of the workspace: the edge knows each session's cursors and resumes it
// elsewhere. Nothing here calls the control plane.
//
// Invariants, which the tests name:
//
//	E1 A session gets the changes of a channel in order of rev, each once, over
//	   any number of links; it gets its hello before anything else.
//	E2 A slow socket is closed with a code that tells the client to resume; it
//	   never delays another socket or a lane.
//	E3 A post that was accepted from a socket is answered: by the cell, or after
//	   the hold time by an error that says that its outcome is unknown. It is sent
//	   again with the same key, in the session's order, before newer posts.
//	E4 A cell is told who the caller is by the edge alone: what a client sends
//	   under the Parley- headers never gets through.
//
// Lock order: lane before session before peer; pool alone.
package edge

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

// Routes is the edge's own copy of its region's registry: regions.Registry.
// All reads are from memory.
type Routes interface { //nolint:interfacebloat // one table; its reads are what an edge knows
	Route(ws topology.WorkspaceID) (topology.Route, bool)
	Prefer(r topology.Route) bool
	Merge(rs []topology.Route) int
	Gateways(cell topology.CellID) []regions.Gateway
	Cells() []regions.Cell
	Edges() []regions.Edge
	Keys() []token.Key
	Connected() bool
	Changed() <-chan struct{}
}

// Deps is what an edge works on.
type Deps struct {
	Routes   Routes
	Identity *pki.Bundle           // role edge
	Metrics  prometheus.Registerer // nil: none
	Log      *slog.Logger          // nil: discarded
}

// Edge is one edge process. New, then Run once; Drain before Run's ctx ends.
type Edge struct {
	cfg      Config
	routes   *table
	verifier *token.Verifier
	cells    *cells // HTTP/3 to gateways
	peers    *pool  // links to gateways
	sockets  *sockets
	tickets  *tickets
	metrics  *metrics
	log      *slog.Logger

	addr     string
	bound    chan struct{} // closed when addr is known
	draining atomic.Bool
	serving  atomic.Bool
	work     sync.WaitGroup
}

// New checks the configuration; it touches nothing.
func New(cfg Config, deps Deps) (*Edge, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(deps); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	log := deps.Log.With("edge", string(cfg.ID))
	e := &Edge{
		cfg: cfg, routes: newTable(deps.Routes, cfg.ColdCells), verifier: &token.Verifier{},
		tickets: newTickets(), metrics: newMetrics(deps.Metrics), log: log, bound: make(chan struct{}),
	}
	e.peers = newPool(cfg, e.routes, deps.Identity, e.metrics, log)
	e.cells = newCells(e.peers, deps.Identity)
	e.cells.keysLearned = e.loadKeys
	e.sockets = newSockets(cfg, e.peers, e.metrics, log)
	return e, nil
}

// Addr is where clients connect, with the port that was got. It waits until Run
// has bound it.
func (e *Edge) Addr() string {
	<-e.bound
	return e.addr
}

// Run listens, calls ready, and serves until ctx ends; then it closes every
// socket and link and waits for all of it.
func (e *Edge) Run(ctx context.Context, ready func()) error {
	ln, err := e.cfg.Net.ListenTCP(ctx, e.cfg.Listen)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "edge address %s can't be listened on: is another process using it?", e.cfg.Listen)
	}
	e.addr = ln.Addr().String()
	close(e.bound)
	own, cancel := context.WithCancel(context.WithoutCancel(ctx)) // links and requests end after the sockets
	defer cancel()
	e.loadKeys()
	e.peers.start(own)
	e.work.Go(func() { e.followTable(own) })
	e.work.Go(func() { e.cells.learnCold(own, e.cfg.ColdEvery) })
	e.work.Go(func() { e.sockets.run(own) })
	e.work.Go(func() { e.peers.run(own) })
	srv := e.server(own)
	failed := make(chan error, 1)
	e.work.Go(func() {
		if e.cfg.PlainHTTP {
			failed <- srv.Serve(ln)
			return
		}
		failed <- srv.ServeTLS(ln, "", "")
	})
	e.serving.Store(true)
	e.log.Info("the edge serves", "region", string(e.cfg.Region), "addr", e.addr, "server", e.cfg.PublicURL)
	if ready != nil {
		ready()
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	e.serving.Store(false)
	e.stop(srv, cancel)
	return err
}

// stopMax bounds how long requests under way may take at the end.
const stopMax = 3 * time.Second

func (e *Edge) stop(srv *http.Server, cancel context.CancelFunc) {
	e.sockets.closeAll(closeGoingAway, "the edge stops", e.cfg.WriteMax)
	ctx, done := context.WithTimeout(context.Background(), stopMax)
	defer done()
	if err := srv.Shutdown(ctx); err != nil {
		_ = srv.Close() // requests that would not end are cut
	}
	cancel()
	e.work.Wait()
	e.cells.close()
}

// Drain asks all sockets to go elsewhere, spread over Config.DrainSpread, and
// returns when they are gone, or closes the rest when ctx or the spread ends.
// /readyz fails from its start. Requests and sockets are served meanwhile.
func (e *Edge) Drain(ctx context.Context) error {
	e.draining.Store(true)
	return e.sockets.drain(ctx, e.cfg.DrainSpread)
}

// loadKeys gives the verifier the present signing keys.
func (e *Edge) loadKeys() { e.verifier.SetKeys(append(e.routes.keys(), e.cfg.ColdKeys...)) }

// followTable acts on changes of the table: new keys, other gateways.
func (e *Edge) followTable(ctx context.Context) {
	for {
		changed := e.routes.Changed()
		e.loadKeys()
		e.peers.tableChanged()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
