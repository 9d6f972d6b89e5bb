package roles

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"parley/cell/channel"
	"parley/cell/channelnet"
	"parley/cell/directory"
	"parley/internal/lifecycle"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// peersMax bounds the static addresses of other processes.
const peersMax = 256

// sharedStores reports whether the cell's stores are such that several processes
// can use them at once.
func (c Cell) sharedStores() bool { return c.shared != nil || c.Stores.shared() }

// name is the process's, unique in the cell.
func (c Cell) name() string { return cmp.Or(c.ProcessID, string(c.ID)) }

// who is to whom the process's directory belongs.
func (c Cell) who() string {
	if c.name() == string(c.ID) {
		return "cell " + string(c.ID)
	}
	return "process " + c.name() + " of cell " + string(c.ID)
}

// validateShape checks what of the cell runs in the process.
func (c Cell) validateShape(f *faults) {
	f.check(len(c.Servers) <= partsMax, "servers", "must name at most %d channel servers", partsMax)
	f.check(len(c.Gateways) <= partsMax, "gateways", "must name at most %d gateways", partsMax)
	for _, w := range c.Workers {
		f.check(slices.Contains(workers(), w), "workers", "%q is none; there are %s", w, strings.Join(workers(), " and "))
	}
	if c.ServerAddr != "" {
		f.addr("server_addr", c.ServerAddr)
		f.check(len(c.Servers) > 0, "server_addr", "is where channel servers are reached, and servers names none")
	}
	if c.ServerListen != "" {
		f.addr("server_listen", c.ServerListen)
		f.check(c.ServerAddr != "", "server_listen", "needs server_addr, where others reach it")
	}
	f.check(len(c.Peers) <= peersMax, "peers", "must name at most %d addresses", peersMax)
	for _, p := range c.Peers {
		f.addr("peers", p)
	}
	if c.sharedStores() {
		f.check(len(c.Servers)+len(c.Gateways)+len(c.Workers) > 0, "servers", "the process has nothing to run: name servers, gateways or workers")
		f.check(len(c.Servers) == 0 || len(c.Gateways) > 0 || c.ServerAddr != "", "server_addr", "must say where the gateways' processes reach these channel servers")
		return
	}
	const alone = "on embedded stores a cell is one process"
	f.check(len(c.Servers) > 0, "servers", "must name 1 to %d channel servers: %s", partsMax, alone)
	f.check(len(c.Gateways) > 0, "gateways", "must name 1 to %d gateways: %s", partsMax, alone)
	f.check(c.ServerAddr == "", "server_addr", "is for other processes: %s", alone)
	f.check(len(c.Peers) == 0, "peers", "are other processes: %s", alone)
}

// checkIdentity refuses a certificate that the process's peers would refuse.
func (c Cell) checkIdentity(id pki.Identity) error {
	var f faults
	f.check(len(c.Gateways) == 0 || id.Role == pki.RoleGateway, "cert_dir",
		"the certificate is a %s's; a process with gateways needs --role %s", id.Role, pki.RoleGateway)
	f.check(id.Role == pki.RoleGateway || id.Role == pki.RoleCell, "cert_dir",
		"the certificate is a %s's; a process of a cell needs --role %s, or %s if it has no gateways", id.Role, pki.RoleGateway, pki.RoleCell)
	if c.sharedStores() {
		f.check(id.Cell == c.ID && id.Region == c.Region, "cert_dir",
			"the certificate is of cell %q in region %q; the cell's processes know each other by theirs", id.Cell, id.Region)
	}
	return f.err()
}

// wireCluster makes the cluster of channel servers, and its network if the cell may
// have other processes: it is there before the first channel server asks for peers,
// and after the last has handed its shards over.
func (w *cell) wireCluster() error {
	w.servers = channel.NewCluster(channel.ClusterConfig{Cell: w.ID, Logger: w.log})
	w.cached = directory.NewCache(w.rows, directory.CacheConfig{})
	if !w.sharedStores() || len(w.Servers)+len(w.Gateways) == 0 {
		return nil
	}
	if w.ServerAddr != "" {
		s, err := channelnet.NewServer(channelnet.ServerConfig{
			Cell: w.ID, Process: w.name(), Listen: cmp.Or(w.ServerListen, w.ServerAddr), Identity: w.identity, Known: w.known, Log: w.log,
		}, w.servers)
		if err != nil {
			return err
		}
		w.add(lifecycle.Part{Name: "channel network", Run: s.Run})
	}
	peers, err := channelnet.NewPeers(channelnet.PeersConfig{
		Cell: w.ID, Process: w.name(), Self: w.ServerAddr, Identity: w.identity, Static: w.Peers, Log: w.log, Metrics: w.metrics.of("peers"),
	}, w.servers, w.registry)
	if err != nil {
		return err
	}
	w.add(lifecycle.Part{Name: "peers", Run: peers.Run})
	return nil
}

// known reports whether the cell has the workspace at its generation, open or not.
func (w *cell) known(ctx context.Context, p topology.Place) (bool, error) {
	row, err := w.rows.Workspace(ctx, p.Workspace)
	if problem.Is(err, problem.NotFound) {
		return false, nil
	}
	return err == nil && row.Generation == p.Generation, err
}
