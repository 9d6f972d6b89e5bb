//go:build failpoints

// Package sim_test runs the product in simulated time: the cell, its links and the
// edges over quic-go's simnet, and the control plane's Raft over streams in memory,
// in a bubble in which an hour passes as fast as there is nothing to do. A seed
// decides what breaks when; it is in every test's name and failure.
package sim_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"parley/cell/api"
	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/gateway"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/presence"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/cell/unread"
	"parley/chaos/history"
	"parley/edge"
	"parley/internal/failpoint"
	"parley/internal/h3"
	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

const (
	cellID   = topology.CellID("eu-1")
	servers  = 3
	gateways = 2
	edges    = 2
	// leaseMax is how long the registry believes in who fell silent.
	leaseMax = 10 * time.Second
	apiPort  = 1
	linkPort = 2
	edgePort = 3
	stateMax = time.Minute // for a part to become ready, or to end
)

var acme = topology.Place{Workspace: "W1", Generation: 1}

// world is a cell with its edges.
type world struct {
	ca     *pki.Authority
	key    token.Key
	net    *wires
	log    *slog.Logger
	rec    *history.Recorder
	leases *leases

	store    *weakStore
	db       *pebbledb.DB
	rows     *directory.Directory
	cached   *directory.Cache
	bus      *router.Local
	cluster  *channel.Cluster
	unread   *unread.Counter
	roster   *roster.Roster
	presence presence.Store

	*parts
	runs topology.Incarnation
}

func newWorld(t *testing.T, seed uint64, rec *history.Recorder) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		net: newWires(seed), log: slog.New(slog.DiscardHandler), rec: rec, store: newWeakStore(), parts: newParts(t),
		bus: router.NewLocal(router.LocalConfig{}), presence: presence.NewMemory(time.Now),
	}
	if name := os.Getenv("PARLEY_TEST_LOG"); name != "" {
		f, err := os.Create(name)
		must(t, err)
		t.Cleanup(func() { must(t, f.Close()) })
		w.log = slog.New(slog.NewTextHandler(f, nil))
	}
	var err error
	w.ca, err = pki.OpenAuthority(filepath.Join(dir, "ca"))
	must(t, err)
	now := time.Now()
	w.key, err = token.NewKey(now.Add(-time.Hour), now.Add(24*time.Hour))
	must(t, err)
	w.db, err = pebbledb.Open(pebbledb.Config{Dir: filepath.Join(dir, "store")})
	must(t, err)
	t.Cleanup(func() { must(t, w.db.Close()) })
	w.rows, err = directory.Open(t.Context(), filepath.Join(dir, "directory.db"), time.Now, w.log)
	must(t, err)
	t.Cleanup(func() { must(t, w.rows.Close()) })
	w.leases = newLeases(w.key.WithoutPrivate())
	w.cached = directory.NewCache(w.rows, directory.CacheConfig{})
	w.cluster = channel.NewCluster(channel.ClusterConfig{Cell: cellID, Logger: w.log})
	w.unread = unread.New(w.cached, w.cluster, w.db.ReadState(), w.bus)
	w.roster = roster.New(roster.Config{}, w.cached, w.cluster, w.bus, time.Now, w.log)
	must(t, w.cached.PutWorkspace(t.Context(), directory.Workspace{
		ID: acme.Workspace, Epoch: 1, Generation: acme.Generation, State: directory.StateOpen, Slug: "acme", Name: "Acme",
	}))
	t.Cleanup(w.stopAll)
	w.start("leases", w.leases.run)
	w.start("roster", w.roster.Run)
	for i := range servers {
		w.startServer(serverID(i))
	}
	for i := range gateways {
		w.startGateway(i)
	}
	for i := range edges {
		w.startEdge(i)
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serverID(i int) topology.ServerID   { return topology.ServerID(fmt.Sprintf("cs-%d", i+1)) }
func gatewayID(i int) topology.GatewayID { return topology.GatewayID(fmt.Sprintf("gw-%d", i+1)) }
func gatewayHost(i int) string           { return fmt.Sprintf("10.0.1.%d", i+1) }
func edgeName(i int) string              { return fmt.Sprintf("edge-%d", i+1) }
func edgeHost(i int) string              { return fmt.Sprintf("10.0.2.%d", i+1) }
func edgeURL(i int) string               { return fmt.Sprintf("http://%s:%d", edgeHost(i), edgePort) }

func (w *world) stopAll() {
	for i := range edges {
		w.stop(edgeName(i), nil)
	}
	w.parts.stopAll()
}

func (w *world) startServer(id topology.ServerID) {
	cfg := channel.Default()
	cfg.ID, cfg.Cell = id, cellID
	s, err := channel.New(cfg, channel.Deps{
		Log: msglog.Breakable(w.store, id), History: w.db.History(), Events: w.db.Events(), Bus: w.bus,
		Directory: directory.ForChannels(w.rows), Peers: w.cluster, Live: w.leases.servers, Now: failpoint.Clock(string(id)),
		Logger: w.log, Tap: w.tap(id),
	})
	must(w.t, err)
	w.cluster.Add(s)
	p := w.start(string(id), s.Run, w.leases.server(id))
	p.drain = s.Drain
}

// tap writes down what a server had confirmed.
func (w *world) tap(id topology.ServerID) func(topology.ChannelRef, topology.Token, []change.Change, bool) {
	return func(ch topology.ChannelRef, t topology.Token, cs []change.Change, recovered bool) {
		state := ""
		if recovered {
			state = history.Recovered
		}
		for _, c := range cs {
			w.rec.Add(history.Record{
				Kind: history.Append, Workspace: ch.Workspace, Cell: cellID, Channel: ch.Channel, Rev: c.Rev, Token: t, By: id, MessageID: c.ID, State: state,
			})
		}
	}
}

func (w *world) issue(role pki.Role, name, host string) *pki.Bundle {
	b, err := w.ca.Issue(pki.Identity{Region: "eu", Cell: cellID, Role: role, Name: name}, []string{host})
	must(w.t, err)
	return b
}

func (w *world) run() topology.Incarnation {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs++
	return w.runs
}

func (w *world) startGateway(i int) {
	id, at := gatewayID(i), gatewayHost(i)
	b := w.issue(pki.RoleGateway, string(id), at)
	entry := regions.Gateway{
		ID: id, Cell: cellID, Incarnation: w.run(), LinkAddr: fmt.Sprintf("%s:%d", at, linkPort), APIAddr: fmt.Sprintf("%s:%d", at, apiPort),
	}
	g, err := gateway.New(gateway.Config{
		ID: id, Cell: cellID, Region: "eu", Incarnation: entry.Incarnation, Listen: entry.LinkAddr, Net: w.net.of(at),
	}, gateway.Deps{
		TLS: b.Server(pki.RoleEdge), Directory: w.rows, Servers: w.cluster, Bus: w.bus, Unread: w.unread, Presence: w.presence,
		Now: time.Now, Log: w.log,
	})
	must(w.t, err)
	serve := &h3.Server{Addr: entry.APIAddr, TLS: b.Server(pki.RoleEdge), Log: w.log, Net: w.net.of(at), Handler: api.Handler(api.Deps{
		Cell: cellID, Directory: w.cached, Rooms: w.cached, Roster: w.roster, Channels: w.cluster, Unread: w.unread,
		Marks: w.db.ReadState(), Now: time.Now, Log: w.log,
	})}
	p := w.start(string(id), g.Run, serve.Run, w.leases.gateway(entry))
	p.drain = func(ctx context.Context) error {
		w.leases.forgetGateway(id)
		return g.Drain(ctx)
	}
}

// table is an edge's registry.
type table struct{ *regions.Table }

func (table) Connected() bool { return true }

func (w *world) startEdge(i int) {
	at := edgeHost(i)
	e, err := edge.New(edge.Config{
		ID: topology.EdgeID(edgeName(i)), Region: "eu", Incarnation: w.run(), Listen: fmt.Sprintf("%s:%d", at, edgePort),
		PlainHTTP: true, PublicURL: edgeURL(i), Net: w.net.of(at), DrainSpread: 2 * time.Second,
	}, edge.Deps{Routes: table{w.leases.table}, Identity: w.issue(pki.RoleEdge, edgeName(i), at), Log: w.log})
	must(w.t, err)
	p := w.start(edgeName(i), e.Run)
	p.drain = e.Drain
}

// people are the network as clients see it: they are nobody's neighbours.
func (w *world) people() network.Network { return w.net.of("192.0.2.1") }

// leases is the registry: who is in it, and until when it believes so.
type leases struct {
	table *regions.Table
	keys  []token.Key

	mu   sync.Mutex
	cs   map[topology.ServerID]time.Time
	gws  map[topology.GatewayID]regions.Gateway
	till map[topology.GatewayID]time.Time
}

func newLeases(keys ...token.Key) *leases {
	l := &leases{
		table: regions.NewTable("eu"), keys: keys, cs: map[topology.ServerID]time.Time{},
		gws: map[topology.GatewayID]regions.Gateway{}, till: map[topology.GatewayID]time.Time{},
	}
	l.table.Prefer(topology.Route{Workspace: acme.Workspace, Cell: cellID, Epoch: 1})
	l.fill()
	return l
}

func (l *leases) fill() {
	c := regions.Contents{Keys: l.keys}
	for _, g := range l.gws {
		c.Gateways = append(c.Gateways, g)
	}
	l.table.Fill(c)
}

// run lets leases end.
func (l *leases) run(ctx context.Context, ready func()) error {
	ready()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := time.Now()
		l.mu.Lock()
		maps.DeleteFunc(l.cs, func(_ topology.ServerID, until time.Time) bool { return now.After(until) })
		for id, until := range l.till {
			if now.After(until) {
				delete(l.gws, id)
				delete(l.till, id)
				l.fill()
			}
		}
		l.mu.Unlock()
	}
}

func (l *leases) servers() []topology.ServerID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.cs))
}

// hold renews a lease until ctx ends, then leaves unless the holder fell dead. A
// part that is paused renews nothing.
func (l *leases) hold(ctx context.Context, of string, renew, leave func()) {
	t := time.NewTicker(leaseMax / 3)
	defer t.Stop()
	for {
		if failpoint.At(ctx, failpoint.LeaseRenew, of) == nil {
			l.mu.Lock()
			renew()
			l.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			if !failpoint.Crashed(ctx) {
				l.mu.Lock()
				leave()
				l.mu.Unlock()
			}
			return
		case <-t.C:
		}
	}
}

func (l *leases) server(id topology.ServerID) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		l.hold(ctx, string(id), func() { l.cs[id] = time.Now().Add(leaseMax) }, func() { delete(l.cs, id) })
		return nil
	}
}

func (l *leases) gateway(g regions.Gateway) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		l.mu.Lock()
		l.gws[g.ID] = g
		l.fill()
		l.mu.Unlock()
		ready()
		l.hold(ctx, string(g.ID), func() { l.till[g.ID] = time.Now().Add(leaseMax) }, func() { l.drop(g.ID) })
		return nil
	}
}

func (l *leases) drop(id topology.GatewayID) {
	delete(l.gws, id)
	delete(l.till, id)
	l.fill()
}

func (l *leases) forgetGateway(id topology.GatewayID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(id)
}
