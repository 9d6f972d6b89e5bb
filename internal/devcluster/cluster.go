package devcluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"parley/internal/lifecycle"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/roles"
	"parley/regions"
)

// drainMax bounds an orderly stop's hand-overs: on one machine nobody else is left
// to take anything.
const drainMax = 2 * time.Second

// cluster is a cluster being put together.
type cluster struct {
	Config
	plan     plan
	ca       *pki.Authority
	operator string
	log      *slog.Logger
	ready    func(Info)
}

// Run runs the whole cluster until ctx ends, and calls ready once everything
// serves and the demo workspaces are there.
func Run(ctx context.Context, c Config, log *slog.Logger, ready func(Info)) (err error) {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return problem.Wrap(err, problem.Invalid, "--data: %s can't be made", c.Data)
	}
	unlock, err := lock(filepath.Join(c.Data, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	w := &cluster{Config: c, log: log, ready: ready}
	if w.plan, err = newPlan(ctx, c, log); err != nil {
		return err
	}
	if w.operator, err = operatorToken(w.operatorFile()); err != nil {
		return err
	}
	if w.ca, err = pki.OpenAuthority(filepath.Join(c.Data, "ca")); err != nil {
		return err
	}
	parts := []lifecycle.Part{
		{Name: "etcd", Run: together(w.etcdParts()...)},
		{Name: "control plane", Run: together(w.controlParts()...)},
		{Name: "cells and edges", Run: together(append(w.cellParts(), w.edgeParts()...)...)},
		{Name: "demo", Run: w.demo},
	}
	return lifecycle.Run(ctx, func() {}, drainMax, log, parts...)
}

func (w *cluster) operatorFile() string { return filepath.Join(w.Data, "operator-token") }

// process is what all roles' configs have.
func (w *cluster) process(name, certs string) roles.Process {
	return roles.Process{Dir: filepath.Join(w.Data, name), CertDir: certs, DrainMax: drainMax, Admin: w.plan.admin[name]}
}

// runner is a part's Run.
type runner func(ctx context.Context, ready func()) error

// together runs parts side by side: ready when all are, ended when all have. The
// first that fails ends the others.
func together(rs ...runner) runner {
	return func(ctx context.Context, ready func()) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var starting sync.WaitGroup
		starting.Add(len(rs))
		errs := make([]error, len(rs))
		var all sync.WaitGroup
		for i, r := range rs {
			all.Go(func() {
				var once sync.Once
				if errs[i] = r(ctx, func() { once.Do(starting.Done) }); errs[i] != nil {
					cancel()
				}
				once.Do(starting.Done)
			})
		}
		starting.Wait()
		if ctx.Err() == nil {
			ready()
		}
		all.Wait()
		return errors.Join(errs...)
	}
}

// certs makes sure that a role has a certificate, and says where it is.
func (w *cluster) certs(name string, id pki.Identity) (string, error) {
	dir := filepath.Join(w.Data, "certs", name)
	if _, err := pki.LoadBundle(dir); err == nil {
		return dir, nil
	}
	b, err := w.ca.Issue(id, []string{"localhost", loopback})
	if err != nil {
		return "", err
	}
	return dir, b.Write(dir)
}

func (w *cluster) etcdParts() []runner {
	var out []runner
	for _, r := range w.plan.regions {
		out = append(out, func(ctx context.Context, ready func()) error {
			dir, err := w.certs("etcd-"+string(r.id), pki.Identity{Region: r.id, Role: pki.RoleEtcd, Name: "etcd-" + string(r.id)})
			if err != nil {
				return err
			}
			e, err := regions.StartEtcd(ctx, regions.EtcdConfig{
				Dir: filepath.Join(w.Data, "etcd-"+string(r.id)), ClientAddr: r.etcdClient, PeerAddr: r.etcdPeer, TLSDir: dir, Log: w.log,
			})
			if err != nil {
				return err
			}
			defer e.Close()
			ready()
			select {
			case err := <-e.Err():
				return fmt.Errorf("etcd of %s: %w", r.id, err)
			case <-ctx.Done():
				return nil
			}
		})
	}
	return out
}

func (w *cluster) controlParts() []runner {
	var peers []roles.Peer
	for _, n := range w.plan.control {
		peers = append(peers, roles.Peer{ID: n.id, RaftAddr: n.raft, APIURL: "https://" + n.api})
	}
	var out []runner
	for _, n := range w.plan.control {
		out = append(out, func(ctx context.Context, ready func()) error {
			dir, err := w.certs(n.id, pki.Identity{Role: pki.RoleControl, Name: n.id})
			if err != nil {
				return err
			}
			c := roles.DefaultControl()
			c.Process = w.process(n.id, dir)
			c.ID, c.RaftAddr, c.APIAddr, c.Peers, c.BootstrapTokenFile = n.id, n.raft, n.api, peers, w.operatorFile()
			return roles.RunControl(ctx, ready, c, w.log)
		})
	}
	return out
}

func (w *cluster) cellParts() []runner {
	var out []runner
	for _, r := range w.plan.regions {
		for _, c := range r.cells {
			out = append(out, func(ctx context.Context, ready func()) error {
				dir, err := w.certs(string(c.id), pki.Identity{Region: r.id, Cell: c.id, Role: pki.RoleGateway, Name: string(c.id)})
				if err != nil {
					return err
				}
				cfg := roles.DefaultCell()
				cfg.Process, cfg.WorkspacePostsPerS = w.process(string(c.id), dir), 0
				cfg.ID, cfg.Region, cfg.Etcd, cfg.Servers = c.id, r.id, []string{r.etcdClient}, c.servers
				for _, g := range c.gateways {
					cfg.Gateways = append(cfg.Gateways, roles.Gateway{ID: g.id, LinkAddr: g.link, APIAddr: g.api})
				}
				return roles.RunCell(ctx, ready, cfg, w.log)
			})
		}
	}
	return out
}

func (w *cluster) edgeParts() []runner {
	scheme := "http"
	if w.TLS {
		scheme = "https"
	}
	var out []runner
	for _, r := range w.plan.regions {
		for _, e := range r.edges {
			out = append(out, func(ctx context.Context, ready func()) error {
				dir, err := w.certs(string(e.id), pki.Identity{Region: r.id, Role: pki.RoleEdge, Name: string(e.id)})
				if err != nil {
					return err
				}
				return roles.RunEdge(ctx, ready, roles.Edge{
					Process: w.process(string(e.id), dir), ID: e.id, Region: r.id, Listen: e.addr,
					URL: scheme + "://" + e.addr, PlainHTTP: !w.TLS, Etcd: []string{r.etcdClient}, ColdCells: w.seeds(),
				}, w.log)
			})
		}
	}
	return out
}

// seeds are all cells: whom an edge asks that knows nothing.
func (w *cluster) seeds() []roles.ColdCell {
	var out []roles.ColdCell
	for _, r := range w.plan.regions {
		for _, c := range r.cells {
			s := roles.ColdCell{Cell: c.id}
			for _, g := range c.gateways {
				s.APIAddrs = append(s.APIAddrs, g.api)
				s.LinkAddrs = append(s.LinkAddrs, g.link)
			}
			out = append(out, s)
		}
	}
	return out
}
