package roles

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/edge"
	"parley/internal/lifecycle"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/regions"
)

// Edge is an edge's config.
type Edge struct {
	ID        topology.EdgeID
	Region    topology.RegionID
	Dir       string   // for the copy of the routes
	CertDir   string   // ca.pem, cert.pem, key.pem of the role edge
	Listen    string   // for clients, host:port
	URL       string   // where clients reach it
	PlainHTTP bool     // clients speak plain HTTP: behind a load balancer, or on one machine
	Etcd      []string // of the region
	ColdCells []edge.CellSeed
}

// RunEdge runs an edge until ctx ends.
func RunEdge(ctx context.Context, ready func(), c Edge, log *slog.Logger) error {
	if err := makeDir(c.Dir); err != nil {
		return err
	}
	run, err := incarnation(c.Dir, time.Now())
	if err != nil {
		return err
	}
	identity, err := pki.LoadBundle(c.CertDir)
	if err != nil {
		return err
	}
	registry, err := regions.Open(regions.Config{
		Region: c.Region, Endpoints: c.Etcd, TLS: identity.Client(pki.RoleEtcd), Dir: c.Dir, Log: log.With("edge", string(c.ID)),
	})
	if err != nil {
		return err
	}
	var public *tls.Config
	if !c.PlainHTTP {
		public = identity.Public()
	}
	e, err := edge.New(edge.Config{
		ID: c.ID, Region: c.Region, Incarnation: run, Listen: c.Listen, PlainHTTP: c.PlainHTTP, TLS: public,
		PublicURL: c.URL, ColdCells: c.ColdCells,
	}, edge.Deps{Routes: registry, Identity: identity, Metrics: prometheus.NewRegistry(), Log: log})
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
	return lifecycle.Run(ctx, ready, drainMax, log,
		lifecycle.Part{Name: "registry", Run: registry.Run},
		lifecycle.Part{Name: "edge", Run: e.Run, Drain: e.Drain},
		lifecycle.Part{Name: "registration", Run: register},
	)
}
