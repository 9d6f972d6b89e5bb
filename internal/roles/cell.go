package roles

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/api"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/gateway"
	"parley/cell/msglog"
	"parley/cell/roster"
	"parley/cell/search/rebuild"
	"parley/cell/unread"
	"parley/internal/admin"
	"parley/internal/failpoint"
	"parley/internal/h3"
	"parley/internal/lifecycle"
	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/regions"
)

// Cell is the config of one process of a cell: what of the cell runs in it. On
// embedded stores there is one process, with all of the cell's gateways and channel
// servers.
type Cell struct {
	Process `yaml:",inline"`
	ID      topology.CellID   `yaml:"id" doc:"the cell's name"`
	Region  topology.RegionID `yaml:"region" doc:"the region it is in"`
	Etcd    []string          `yaml:"etcd" doc:"the region's etcd: host:port, comma-separated"`
	// ProcessID tells the cell's processes apart: unique in the cell; "" = the cell's
	// name.
	ProcessID string              `yaml:"process_id" doc:"this process's name, unique in the cell; default its name"`
	Servers   []topology.ServerID `yaml:"servers" doc:"names of the channel servers in this process, comma-separated"`
	Gateways  []Gateway           `yaml:"gateways"`
	Workers   []string            `yaml:"workers" doc:"the workers in this process, comma-separated; [] in the file is none"`
	// ServerAddr is where the cell's other processes reach the channel servers of this
	// one, and ServerListen where it listens, if that is another address. TCP.
	ServerAddr   string `yaml:"server_addr" doc:"host:port, TCP: where other processes of the cell reach these channel servers"`
	ServerListen string `yaml:"server_listen" doc:"host:port to listen on, if not server_addr"`
	// Peers are server_addrs of other processes, for a start while etcd is away.
	Peers []string `yaml:"peers" doc:"server_addrs of the cell's other processes, comma-separated, for a start without etcd"`
	// WorkspacePostsPerS is a workspace's quota in this cell: 0, no limit, to 100,000.
	// Less slows communities down on a busy day, more lets one take its neighbours'
	// share. Twice as many may come at once.
	WorkspacePostsPerS int `yaml:"workspace_posts_per_s" doc:"posts a second of one workspace; 0 is no limit"`

	// Stores are the servers of this cell's stores; without any it stores in Dir.
	Stores Engines `yaml:"stores"`

	// shared opens stores that other processes use, too; nil = embedded ones. Set by
	// tests.
	shared func(ctx context.Context, log *slog.Logger) (*stores, error)
}

// Gateway is one gateway's addresses, all UDP.
type Gateway struct {
	ID       topology.GatewayID `yaml:"id"`
	LinkAddr string             `yaml:"link_addr"` // where edges reach it for QUIC links
	APIAddr  string             `yaml:"api_addr"`  // where edges and the control plane reach it for HTTP/3
	// Where it listens, if that is another address than the one it is reached at.
	LinkListen string `yaml:"link_listen"`
	APIListen  string `yaml:"api_listen"`
}

// DefaultCell is a Cell without names and addresses.
func DefaultCell() Cell {
	return Cell{Process: Process{DrainMax: drainNormal}, Workers: workers(), WorkspacePostsPerS: quotaNormal, Stores: defaultEngines()}
}

// quotaNormal is some 30 times what a community of 100,000 people posts at its
// busiest.
const (
	quotaNormal = 10_000
	quotaMost   = 100_000
)

// partsMax bounds the gateways, and the channel servers, of one process.
const partsMax = 64

// Validate lists every fault at once.
func (c Cell) Validate() error {
	var f faults
	c.validate(&f)
	f.check(c.ID != "", "id", "must name the cell")
	f.check(c.Region != "", "region", "must name the region")
	f.check(len(c.Etcd) > 0, "etcd", "must name the region's etcd")
	c.validateShape(&f)
	c.Stores.validate(&f)
	f.check(c.WorkspacePostsPerS >= 0 && c.WorkspacePostsPerS <= quotaMost, "workspace_posts_per_s", "must be 0 to %d", quotaMost)
	names := map[string]bool{}
	once := func(field, name string) {
		f.check(name != "" && !names[name], field, "%q is empty or there twice", name)
		names[name] = true
	}
	for _, s := range c.Servers {
		once("servers", string(s))
	}
	for _, g := range c.Gateways {
		once("gateways.id", string(g.ID))
		f.addr("gateways.link_addr", g.LinkAddr)
		f.addr("gateways.api_addr", g.APIAddr)
	}
	return f.err()
}

// cell is a cell being wired.
type cell struct {
	Cell
	log      *slog.Logger
	run      topology.Incarnation
	identity *pki.Bundle
	resetKey *link.ResetKey
	registry *regions.Registry
	metrics  *metricSet

	*stores
	cached   *directory.Cache
	servers  *channel.Cluster
	unread   *unread.Counter
	roster   *roster.Roster
	handler  http.Handler
	tap      tap
	parts    []lifecycle.Part
	switches []*lifecycle.Switch

	mu       sync.Mutex
	gateways map[topology.GatewayID]*gateway.Gateway // the present ones
}

// RunCell runs a cell until ctx ends.
func RunCell(ctx context.Context, ready func(), c Cell, log *slog.Logger) (err error) {
	w := &cell{Cell: c, log: log.With("cell", string(c.ID)), metrics: newMetricSet(), gateways: map[topology.GatewayID]*gateway.Gateway{}}
	if err := c.Validate(); err != nil {
		return err
	}
	if err := makeDir(c.Dir); err != nil {
		return err
	}
	unlock, err := lock(c.Dir, c.who())
	if err != nil {
		return err
	}
	defer unlock()
	if w.run, err = incarnation(c.Dir, time.Now()); err != nil {
		return err
	}
	if w.resetKey, err = resetKey(c.Dir); err != nil {
		return err
	}
	if w.identity, err = c.loadIdentity(); err != nil {
		return err
	}
	if err := c.readyEtcd(ctx, w.identity, w.log); err != nil {
		return err
	}
	if w.tap, err = openTap(c.Dir, c.ID); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.tap.close()) }()
	if c.shared != nil {
		w.stores, err = c.shared(ctx, w.log)
	} else {
		w.stores, err = c.openStores(ctx, w.log, w.metrics)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.closeAll()) }()
	for _, wire := range []func() error{w.wireRegistry, w.wireCluster, w.wireServers, w.wireServices, w.wireWorkers, w.wireGateways} {
		if err := wire(); err != nil {
			return err
		}
	}
	a := &admin.Server{Metrics: w.metrics, Switches: func() []*lifecycle.Switch { return w.switches }}
	return c.serve(ctx, ready, a, w.log, w.parts)
}

func (w *cell) add(p lifecycle.Part) { w.parts = append(w.parts, p) }

func (w *cell) wireRegistry() (err error) {
	w.registry, err = regions.Open(regions.Config{
		Region: w.Region, Endpoints: w.Etcd, TLS: w.identity.Client(pki.RoleEtcd), Dir: w.Dir, WithoutRoutes: true, Log: w.log,
	})
	w.add(lifecycle.Part{Name: "store", Run: w.watchStores})
	w.add(lifecycle.Part{Name: "registry", Run: w.registry.Run})
	return err
}

// wireServers makes the channel servers; each is registered once it serves.
func (w *cell) wireServers() error {
	for _, id := range w.Servers {
		w.addSwitch(string(id), func() ([]lifecycle.Part, error) { return w.makeServer(id) })
	}
	return nil
}

// rosterConfig says who carries out what is left in the outbox: of several processes
// one.
func (w *cell) rosterConfig() roster.Config {
	if !w.sharedStores() {
		return roster.Config{}
	}
	return roster.Config{Name: w.name()}
}

func (w *cell) addSwitch(name string, parts func() ([]lifecycle.Part, error)) {
	sw := lifecycle.NewSwitch(name, w.DrainMax, w.log, parts)
	w.switches = append(w.switches, sw)
	w.add(sw.Part())
}

func (w *cell) makeServer(id topology.ServerID) ([]lifecycle.Part, error) {
	cfg := channel.Default()
	cfg.ID, cfg.Cell = id, w.ID
	// A workspace's channels are spread over all servers, and a busy one may be most
	// of its load: each server lets the whole quota pass.
	cfg.PostsPerS, cfg.PostsBurst = float64(w.WorkspacePostsPerS), 2*w.WorkspacePostsPerS
	s, err := channel.New(cfg, channel.Deps{
		Log: msglog.Breakable(w.messages, id), History: w.history, Events: w.events, Bus: w.bus,
		Directory: directory.ForChannels(w.cached.Fresh()), Peers: w.servers, Live: w.liveServers, Now: failpoint.Clock(string(id)), Logger: w.log,
		Metrics: w.metrics.of(string(id)), Tap: w.tap.of(id),
	})
	if err != nil {
		return nil, err
	}
	w.servers.Add(s)
	register := untilDone(func(ctx context.Context) (func(), error) {
		g, err := w.registry.RegisterServer(ctx, regions.Server{ID: id, Cell: w.ID, Incarnation: w.run, Addr: w.ServerAddr})
		if err != nil {
			return nil, err
		}
		return func() { <-g.Done() }, nil
	})
	return []lifecycle.Part{
		{Name: "channel server", Run: s.Run, Drain: s.Drain},
		{Name: "registration", Run: register},
	}, nil
}

// liveServers is the registry's word on who lives: a hint about who should own.
func (w *cell) liveServers() []topology.ServerID {
	if !w.registry.Connected() {
		return nil
	}
	var out []topology.ServerID
	for _, s := range w.registry.Servers(w.ID) {
		out = append(out, s.ID)
	}
	return out
}

// wireServices makes what gateways need, in each process that has any.
func (w *cell) wireServices() error {
	if len(w.Gateways) == 0 {
		return nil
	}
	w.unread = unread.New(w.cached, w.servers, w.marks, w.bus)
	w.roster = roster.New(w.rosterConfig(), w.cached, w.servers, w.bus, time.Now, w.log)
	w.add(lifecycle.Part{Name: "roster", Run: w.roster.Run})
	w.handler = api.Handler(api.Deps{
		Cell: w.ID, Directory: w.cached, Rooms: w.cached, Roster: w.roster, Channels: w.servers, Unread: w.unread,
		Marks: w.marks, Search: w.finder(), Rebuild: rebuild.New(w.cached, w.servers, w.index, time.Now), Keys: w.registry.Keys, Now: time.Now, Log: w.log,
	})
	return nil
}

// wireGateways makes the gateways: each with its links, its API, and then its
// entry in the registry, which is the first to go in a stop.
func (w *cell) wireGateways() error {
	for _, g := range w.Gateways {
		w.addSwitch(string(g.ID), func() ([]lifecycle.Part, error) { return w.makeGateway(g) })
	}
	if len(w.Servers)+len(w.Gateways) > 0 {
		w.add(lifecycle.Part{Name: "load report", Run: w.reportLoad})
	}
	return nil
}

func (w *cell) makeGateway(g Gateway) ([]lifecycle.Part, error) {
	run, err := incarnation(w.Dir, time.Now())
	if err != nil {
		return nil, err
	}
	gw, err := gateway.New(gateway.Config{
		ID: g.ID, Cell: w.ID, Region: w.Region, Incarnation: run, Listen: cmp.Or(g.LinkListen, g.LinkAddr), ResetKey: w.resetKey,
	}, gateway.Deps{
		TLS: w.identity.Server(pki.RoleEdge), Directory: w.cached.Fresh(), Servers: w.servers, Bus: w.bus, Unread: w.unread,
		Presence: w.presence, Now: time.Now, Log: w.log,
		Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"gateway": string(g.ID)}, w.metrics.of(string(g.ID))),
	})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.gateways[g.ID] = gw
	w.mu.Unlock()
	api := &h3.Server{Addr: cmp.Or(g.APIListen, g.APIAddr), TLS: w.identity.Server(pki.RoleEdge, pki.RoleControl), Handler: w.handler, Log: w.log}
	register := untilDone(func(ctx context.Context) (func(), error) {
		r, err := w.registry.RegisterGateway(ctx, regions.Gateway{
			ID: g.ID, Cell: w.ID, LinkAddr: g.LinkAddr, APIAddr: g.APIAddr, Incarnation: run,
		})
		if err != nil {
			return nil, err
		}
		return func() { <-r.Done() }, nil
	})
	return []lifecycle.Part{
		{Name: "links", Run: gw.Run, Drain: gw.Drain},
		{Name: "api", Run: api.Run},
		{Name: "registration", Run: register},
	}, nil
}
