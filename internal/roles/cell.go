package roles

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/api"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/gateway"
	"parley/cell/pebbledb"
	"parley/cell/presence"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/cell/unread"
	"parley/cell/worker"
	"parley/internal/h3"
	"parley/internal/lifecycle"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/regions"
)

// Cell is the config of a cell on embedded stores: one process with all of the
// cell's gateways and channel servers.
type Cell struct {
	ID       topology.CellID
	Region   topology.RegionID
	Dir      string // for the stores
	CertDir  string // of the role gateway: ca.pem, cert.pem, key.pem
	Etcd     []string
	Gateways []Gateway
	Servers  []topology.ServerID
}

// Gateway is one gateway's addresses, both UDP.
type Gateway struct {
	ID       topology.GatewayID
	LinkAddr string // QUIC links of edges
	APIAddr  string // HTTP/3
}

// cell is a cell being wired.
type cell struct {
	Cell
	log      *slog.Logger
	run      topology.Incarnation
	identity *pki.Bundle
	registry *regions.Registry
	metrics  *prometheus.Registry

	db       *pebbledb.DB
	rows     *directory.Directory
	cached   *directory.Cache
	bus      *router.Local
	servers  *channel.Cluster
	unread   *unread.Counter
	roster   *roster.Roster
	presence presence.Store
	handler  http.Handler
	gateways []*gateway.Gateway
	parts    []lifecycle.Part
}

// RunCell runs a cell until ctx ends.
func RunCell(ctx context.Context, ready func(), c Cell, log *slog.Logger) (err error) {
	w := &cell{Cell: c, log: log.With("cell", string(c.ID)), metrics: prometheus.NewRegistry()}
	if err := makeDir(c.Dir); err != nil {
		return err
	}
	if w.run, err = incarnation(c.Dir, time.Now()); err != nil {
		return err
	}
	if w.identity, err = pki.LoadBundle(c.CertDir); err != nil {
		return err
	}
	if w.db, err = pebbledb.Open(pebbledb.Config{Dir: filepath.Join(c.Dir, "store"), Log: w.log}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.db.Close()) }()
	if w.rows, err = directory.Open(ctx, filepath.Join(c.Dir, "directory.db"), time.Now, w.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.rows.Close()) }()
	for _, wire := range []func() error{w.wireRegistry, w.wireServers, w.wireServices, w.wireWorkers, w.wireGateways} {
		if err := wire(); err != nil {
			return err
		}
	}
	return lifecycle.Run(ctx, ready, drainMax, w.log, w.parts...)
}

// watchStore ends the cell when its store has failed for good: a restart finds
// out what is on disk.
func (w *cell) watchStore(ctx context.Context, ready func()) error {
	ready()
	select {
	case <-w.db.Failed():
		return w.db.Err()
	case <-ctx.Done():
		return nil
	}
}

func (w *cell) add(p lifecycle.Part) { w.parts = append(w.parts, p) }

func (w *cell) wireRegistry() (err error) {
	w.registry, err = regions.Open(regions.Config{
		Region: w.Region, Endpoints: w.Etcd, TLS: w.identity.Client(pki.RoleEtcd), Dir: w.Dir, WithoutRoutes: true, Log: w.log,
	})
	w.add(lifecycle.Part{Name: "store", Run: w.watchStore})
	w.add(lifecycle.Part{Name: "registry", Run: w.registry.Run})
	return err
}

// wireServers makes the channel servers and registers each once it serves.
func (w *cell) wireServers() error {
	w.bus = router.NewLocal(router.LocalConfig{})
	w.servers = channel.NewCluster(channel.ClusterConfig{Cell: w.ID, Logger: w.log})
	w.cached = directory.NewCache(w.rows, directory.CacheConfig{})
	for _, id := range w.Servers {
		cfg := channel.Default()
		cfg.ID, cfg.Cell = id, w.ID
		s, err := channel.New(cfg, channel.Deps{
			Log: w.db.Log(), History: w.db.History(), Events: w.db.Events(), Bus: w.bus,
			Directory: directory.ForChannels(w.rows), Peers: w.servers, Live: w.liveServers, Logger: w.log,
			Metrics: w.metrics,
		})
		if err != nil {
			return err
		}
		w.servers.Add(s)
		w.add(lifecycle.Part{Name: "channel server " + string(id), Run: s.Run, Drain: s.Drain})
		w.add(lifecycle.Part{Name: "registration of " + string(id), Run: untilDone(func(ctx context.Context) (func(), error) {
			g, err := w.registry.RegisterServer(ctx, regions.Server{ID: id, Cell: w.ID, Incarnation: w.run})
			if err != nil {
				return nil, err
			}
			return func() { <-g.Done() }, nil
		})})
	}
	return nil
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

func (w *cell) wireServices() error {
	w.presence = presence.NewMemory(time.Now)
	w.unread = unread.New(w.cached, w.servers, w.db.ReadState(), w.bus)
	w.roster = roster.New(roster.Config{}, w.cached, w.servers, w.bus, time.Now, w.log)
	w.add(lifecycle.Part{Name: "roster", Run: w.roster.Run})
	w.handler = api.Handler(api.Deps{
		Cell: w.ID, Directory: w.cached, Rooms: w.cached, Roster: w.roster, Channels: w.servers, Unread: w.unread,
		Marks: w.db.ReadState(), Now: time.Now, Log: w.log,
	})
	return nil
}

func (w *cell) wireWorkers() error {
	mentions, err := worker.NewMentions(w.db.Events(), worker.FromLog(w.db.Log()), w.db.ReadState(), w.log)
	if err != nil {
		return err
	}
	if err := w.metrics.Register(mentions); err != nil {
		return err
	}
	w.add(lifecycle.Part{Name: "mentions", Run: mentions.Run})
	return nil
}

// wireGateways makes the gateways: each with its links, its API, and then its
// entry in the registry, which is the first to go in a stop.
func (w *cell) wireGateways() error {
	for _, g := range w.Gateways {
		gw, err := gateway.New(gateway.Config{
			ID: g.ID, Cell: w.ID, Region: w.Region, Incarnation: w.run, Listen: g.LinkAddr,
		}, gateway.Deps{
			TLS: w.identity.Server(pki.RoleEdge), Directory: w.rows, Servers: w.servers, Bus: w.bus, Unread: w.unread,
			Presence: w.presence, Now: time.Now, Log: w.log,
			Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"gateway": string(g.ID)}, w.metrics),
		})
		if err != nil {
			return err
		}
		serve := &h3.Server{Addr: g.APIAddr, TLS: w.identity.Server(pki.RoleEdge, pki.RoleControl), Handler: w.handler, Log: w.log}
		w.gateways = append(w.gateways, gw)
		w.add(lifecycle.Part{Name: "gateway " + string(g.ID), Run: gw.Run, Drain: gw.Drain})
		w.add(lifecycle.Part{Name: "api of " + string(g.ID), Run: serve.Run})
		w.add(w.registerGateway(g))
	}
	w.add(lifecycle.Part{Name: "load report", Run: w.reportLoad})
	return nil
}

func (w *cell) registerGateway(g Gateway) lifecycle.Part {
	return lifecycle.Part{Name: "registration of " + string(g.ID), Run: untilDone(func(ctx context.Context) (func(), error) {
		r, err := w.registry.RegisterGateway(ctx, regions.Gateway{
			ID: g.ID, Cell: w.ID, LinkAddr: g.LinkAddr, APIAddr: g.APIAddr, Incarnation: w.run,
		})
		if err != nil {
			return nil, err
		}
		return func() { <-r.Done() }, nil
	})}
}
