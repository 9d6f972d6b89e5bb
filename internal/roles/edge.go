package roles

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/edge"
	"parley/internal/admin"
	"parley/internal/lifecycle"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/regions"
)

// Edge is an edge's config.
type Edge struct {
	Process     `yaml:",inline"`
	ID          topology.EdgeID   `yaml:"id" doc:"the edge's name"`
	Region      topology.RegionID `yaml:"region" doc:"the region it is in"`
	Listen      string            `yaml:"listen" doc:"host:port for clients"`
	URL         string            `yaml:"url" doc:"where clients reach it"`
	PlainHTTP   bool              `yaml:"plain_http" doc:"clients speak plain HTTP: behind a load balancer, or on one machine"`
	PublicCerts string            `yaml:"public_cert_dir" doc:"directory with cert.pem and key.pem for clients; empty takes cert_dir's"`
	Etcd        []string          `yaml:"etcd" doc:"the region's etcd: host:port, comma-separated"`
	Origins     []string          `yaml:"origins" doc:"web origins allowed beside its own, comma-separated"`
	DrainSpread time.Duration     `yaml:"drain_spread" doc:"over which a stop asks sockets to go elsewhere; below drain_max"`
	// ColdCells are whom it asks that starts without routes and without etcd.
	ColdCells []ColdCell `yaml:"cold_cells"`
}

// ColdCell is a cell's gateways; both lists name the same ones in the same order.
type ColdCell struct {
	Cell      topology.CellID `yaml:"cell"`
	APIAddrs  []string        `yaml:"api_addrs"`
	LinkAddrs []string        `yaml:"link_addrs"`
}

// DefaultEdge is an Edge without names and addresses.
func DefaultEdge() Edge {
	return Edge{Process: Process{DrainMax: drainNormal}, DrainSpread: 20 * time.Second}
}

// Validate lists every fault at once.
func (c Edge) Validate() error {
	var f faults
	c.validate(&f)
	f.check(c.ID != "", "id", "must name the edge")
	f.check(c.Region != "", "region", "must name the region")
	f.addr("listen", c.Listen)
	f.check(strings.HasPrefix(c.URL, "http"), "url", "%q must be http://host or https://host", c.URL)
	f.check(len(c.Etcd) > 0, "etcd", "must name the region's etcd")
	f.check(c.DrainSpread >= 0 && c.DrainSpread <= c.DrainMax, "drain_spread", "must be 0 to drain_max, %s", c.DrainMax)
	for _, cell := range c.ColdCells {
		f.check(len(cell.APIAddrs) == len(cell.LinkAddrs), "cold_cells", "cell %s has %d api_addrs and %d link_addrs", cell.Cell, len(cell.APIAddrs), len(cell.LinkAddrs))
	}
	return f.err()
}

// RunEdge runs an edge until ctx ends.
func RunEdge(ctx context.Context, ready func(), c Edge, log *slog.Logger) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := makeDir(c.Dir); err != nil {
		return err
	}
	unlock, err := lock(c.Dir, "edge "+string(c.ID))
	if err != nil {
		return err
	}
	defer unlock()
	e, registry, metrics, err := c.wire(log)
	if err != nil {
		return err
	}
	register := untilDone(func(ctx context.Context) (func(), error) {
		g, err := registry.RegisterEdge(ctx, regions.Edge{ID: c.ID, Region: c.Region, URL: c.URL})
		if err != nil {
			return nil, err
		}
		return func() { <-g.Done() }, nil
	})
	return c.serve(ctx, ready, &admin.Server{Metrics: metrics, Check: e.Ready}, log, []lifecycle.Part{
		{Name: "registry", Run: registry.Run},
		{Name: "edge", Run: e.Run, Drain: e.Drain},
		{Name: "registration", Run: register},
	})
}

func (c Edge) wire(log *slog.Logger) (*edge.Edge, *regions.Registry, *prometheus.Registry, error) {
	run, err := incarnation(c.Dir, time.Now())
	if err != nil {
		return nil, nil, nil, err
	}
	reset, err := resetKey(c.Dir)
	if err != nil {
		return nil, nil, nil, err
	}
	identity, err := pki.LoadBundle(c.CertDir)
	if err != nil {
		return nil, nil, nil, err
	}
	registry, err := regions.Open(regions.Config{
		Region: c.Region, Endpoints: c.Etcd, TLS: identity.Client(pki.RoleEtcd), Dir: c.Dir, Log: log.With("edge", string(c.ID)),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := edge.Config{
		ID: c.ID, Region: c.Region, Incarnation: run, Listen: c.Listen, PlainHTTP: c.PlainHTTP, PublicURL: c.URL,
		Origins: c.Origins, DrainSpread: c.DrainSpread, ResetKey: reset,
	}
	if !c.PlainHTTP {
		if cfg.TLS, err = c.public(identity); err != nil {
			return nil, nil, nil, err
		}
	}
	for _, cell := range c.ColdCells {
		cfg.ColdCells = append(cfg.ColdCells, edge.CellSeed(cell))
	}
	metrics := newMetrics()
	e, err := edge.New(cfg, edge.Deps{Routes: registry, Identity: identity, Metrics: metrics, Log: log})
	return e, registry, metrics, err
}

// public is what clients see: a certificate of their own authorities, or the
// role's own.
func (c Edge) public(identity *pki.Bundle) (*tls.Config, error) {
	if c.PublicCerts == "" {
		return identity.Public(), nil
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(c.PublicCerts, "cert.pem"), filepath.Join(c.PublicCerts, "key.pem"))
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "public_cert_dir: no certificate can be read from %s", c.PublicCerts)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}
