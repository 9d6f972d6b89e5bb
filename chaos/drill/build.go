package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"parley/chaos/fault"
	"parley/chaos/process"
	"parley/internal/pki"
	"parley/internal/topology"
)

// build starts the whole cluster, and makes its two workspaces.
func build(ctx context.Context, cfg Config) (w *world, err error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.Dir, "cluster")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w = &world{
		cfg: cfg, procs: map[string]*process.Process{}, relays: map[topology.GatewayID]*fault.Relay{}, wires: map[string]*fault.Wire{},
		web: &http.Client{Timeout: orderMax}, silenced: func() {},
	}
	if w.layout, err = newLayout(ctx, dir, cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	if err := w.define(); err != nil {
		return w, err
	}
	if err := w.link(); err != nil {
		return w, err
	}
	began := time.Now()
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error {
			return w.start(ctx, append(w.etcdNames("eu"), w.etcdNames("us")...)...)
		},
		func(ctx context.Context) error { return w.start(ctx, w.controlNames()...) },
		w.foundPlaces,
		func(ctx context.Context) error { return w.start(ctx, w.servingNames()...) },
		w.foundWorkspaces,
	} {
		if err := step(ctx); err != nil {
			return w, err
		}
	}
	fmt.Fprintf(cfg.Out, "%d processes are up after %.1f s\n", len(w.procs), time.Since(began).Seconds())
	return w, nil
}

// define describes every process.
func (w *world) define() error {
	for _, r := range w.regions {
		if err := w.defineEtcd(r); err != nil {
			return err
		}
		for _, u := range r.cell.units {
			file, err := w.cellConfig(r, u)
			if err != nil {
				return err
			}
			w.define1(u.name, "cell", file, u.admin)
		}
		file, err := w.edgeConfig(r)
		if err != nil {
			return err
		}
		w.define1(string(r.edge.id), "edge", file, r.edge.admin)
	}
	for _, n := range w.control {
		file, err := w.controlConfig(n)
		if err != nil {
			return err
		}
		w.define1(n.id, "control", file, n.admin)
	}
	return nil
}

func (w *world) define1(name, role, file, admin string) {
	w.procs[name] = process.New(process.Config{
		Name: name, Binary: w.cfg.Binary, Args: []string{role, "--config", file}, LogFile: filepath.Join(w.Dir, name+".log"),
		Ready: process.URL("http://" + admin + "/readyz"),
	})
}

// defineEtcd describes a region's etcd.
func (w *world) defineEtcd(r region) error {
	for _, m := range r.etcd {
		args, err := w.EtcdArgs(m, r.etcd, pki.Identity{Region: r.id, Role: pki.RoleEtcd, Name: m.Name})
		if err != nil {
			return err
		}
		w.procs[m.Name] = process.New(process.Config{
			Name: m.Name, Binary: w.cfg.Etcd, LogFile: filepath.Join(w.Dir, m.Name+".log"), Args: args, Ready: process.Port(m.Client),
		})
	}
	return nil
}

// link puts a relay before each gateway, and a wire before each node of the
// target's engines.
func (w *world) link() error {
	for _, r := range w.regions {
		for _, g := range r.cell.gateways {
			relay, err := fault.NewRelay(map[string]string{g.linkVia: g.link, g.apiVia: g.api})
			if err != nil {
				return err
			}
			w.relays[g.id] = relay
		}
		for _, to := range r.cell.wires {
			wire, err := fault.NewWire(to.listen, to.target)
			if err != nil {
				return err
			}
			w.wires[to.node] = wire
		}
	}
	return nil
}

// foundPlaces records the regions and the cells.
func (w *world) foundPlaces(ctx context.Context) error {
	for _, r := range w.regions {
		if _, err := w.cli(ctx, "region", "create", string(r.id), "--etcd", strings.Join(r.etcdClients(), ",")); err != nil {
			return err
		}
		if _, err := w.cli(ctx, "cell", "create", string(r.cell.id), "--region", string(r.id)); err != nil {
			return err
		}
	}
	return nil
}

// foundWorkspaces places the swarm's workspace and its noisy neighbour, and, apart
// from them, the control's.
func (w *world) foundWorkspaces(ctx context.Context) error {
	for slug, r := range map[string]region{swarmHome: w.regions[0], controlled: w.regions[1], noisyHome: w.regions[0]} {
		if _, err := w.cli(ctx, "workspace", "create", "--slug", slug, "--region", string(r.id), "--pin", string(r.cell.id)); err != nil {
			return err
		}
	}
	return nil
}

// stop kills every process and ends the relays and wires: what a drill has left is nobody's.
func (w *world) stop() error {
	var errs []error
	for _, p := range w.procs {
		errs = append(errs, p.Kill())
	}
	for _, r := range w.relays {
		errs = append(errs, r.Close())
	}
	for _, to := range w.wires {
		to.Close()
	}
	w.web.CloseIdleConnections()
	return errors.Join(errs...)
}
