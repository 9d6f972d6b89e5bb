package channelnet

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/channel"
	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/regions"
)

// PeersConfig is what Peers need to know.
type PeersConfig struct {
	Cell     topology.CellID
	Process  string // this process's name, unique in the cell
	Self     string // where the others reach this one; "" = nowhere
	Identity *pki.Bundle
	// Static are addresses of processes to reach whatever the registry says: for a
	// start without etcd. Wrong ones cost an attempt a second.
	Static  []string
	Net     network.Network
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil = nowhere
}

// Registry says which channel servers the cell has, and where. What it last knew
// stays when it knows nothing new.
type Registry interface {
	Servers(cell topology.CellID) []regions.Server
	Changed() <-chan struct{}
}

// pace is how fast connections are found dead; tests have less time.
type pace struct{ pingEvery, deadAfter time.Duration }

// Peers keeps a connection to each other process of the cell that has channel
// servers, and their channel servers in a Cluster.
type Peers struct {
	cfg      PeersConfig
	tls      *tls.Config
	cluster  *channel.Cluster
	registry Registry
	log      *slog.Logger
	metrics  *metrics
	pace     pace
	version  uint32

	processes map[string]*process // Run's alone
	running   sync.WaitGroup
}

// NewPeers checks its arguments and touches nothing.
func NewPeers(cfg PeersConfig, c *channel.Cluster, r Registry) (*Peers, error) {
	var faults []error
	if cfg.Process == "" {
		faults = append(faults, problem.Field("process", "must name this process"))
	}
	if cfg.Identity == nil || cfg.Identity.Identity().Cell != cfg.Cell {
		faults = append(faults, problem.Field("cert_dir", "the certificate must be of cell %q: issue one with --cell %s", cfg.Cell, cfg.Cell))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Peers{
		cfg: cfg, tls: inCell(cfg.Identity.Client(pki.RoleGateway, pki.RoleCell), cfg.Identity.Identity()), cluster: c, registry: r,
		log: cfg.Log, metrics: newMetrics(cfg.Metrics), pace: pace{pingEvery, deadAfter}, version: Version,
		processes: map[string]*process{},
	}, nil
}

// Run keeps the connections until ctx ends, then ends them all. It is ready when
// the channel servers that the registry names are known, in reach or not.
func (p *Peers) Run(ctx context.Context, ready func()) error {
	defer p.running.Wait()
	for {
		changed := p.registry.Changed()
		p.follow(ctx)
		if ready != nil {
			ready()
			ready = nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow compares the processes with those that the registry and the config name.
func (p *Peers) follow(ctx context.Context) {
	named := map[string][]topology.ServerID{}
	for _, addr := range p.cfg.Static {
		named[addr] = nil
	}
	for _, s := range p.registry.Servers(p.cfg.Cell) {
		if s.Addr != "" {
			named[s.Addr] = append(named[s.Addr], s.ID)
		}
	}
	delete(named, p.cfg.Self)
	for addr, ids := range named {
		q := p.processes[addr]
		if q == nil || q.ended() {
			q = p.start(ctx, addr)
		}
		q.list(ids, false)
	}
	for addr, q := range p.processes {
		if _, still := named[addr]; still {
			continue
		}
		// Silence in the registry is not death: who answers stays.
		q.list(nil, true)
		if q.ended() {
			delete(p.processes, addr)
		}
	}
}

func (p *Peers) start(ctx context.Context, addr string) *process {
	q := newProcess(p, addr)
	ctx, q.stop = context.WithCancel(ctx)
	p.processes[addr] = q
	p.running.Go(func() {
		defer q.stop()
		q.run(ctx)
	})
	return q
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
