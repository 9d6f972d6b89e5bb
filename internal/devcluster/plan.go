// Package devcluster runs a whole Parley on one machine, in one process: regions,
// each with an etcd, cells and edges, and a control plane of three. It writes the
// roles' configs and runs the same roles that run alone elsewhere; they speak TLS
// and QUIC over loopback, as they would across an ocean.
package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Config is how big the cluster is and where it lives.
type Config struct {
	Regions  []topology.RegionID // 1 to 8, in order
	Cells    int                 // per region, 1 to 8
	Edges    int                 // per region, 1 to 8
	Gateways int                 // per cell, 1 to 8
	Servers  int                 // channel servers per cell, 1 to 8
	Data     string              // directory
	// PortBase is the first of the ports taken; 0 takes any that are free. They
	// are remembered in Data, so that a second start has the same.
	PortBase      int
	PortBaseGiven bool // somebody asked for it: it wins over those remembered
	TLS           bool // clients speak TLS, too
	Admin         bool // each role serves its health, metrics and profiles on a port of its own
}

// Default is two regions with two cells and an edge each.
func Default() Config {
	return Config{
		Regions: []topology.RegionID{"eu", "us"}, Cells: 2, Edges: 1, Gateways: 2, Servers: 2,
		Data: "data", PortBase: 8400,
	}
}

const sizeMax = 8

// Validate lists every fault at once.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			faults = append(faults, problem.Field(field, format, args...))
		}
	}
	check(len(c.Regions) >= 1 && len(c.Regions) <= sizeMax, "regions", "must name 1 to %d", sizeMax)
	seen := map[topology.RegionID]bool{}
	for _, r := range c.Regions {
		check(r != "" && strings.Trim(string(r), "abcdefghijklmnopqrstuvwxyz0123456789-") == "", "regions", "%q must have lower-case letters, digits and - only", r)
		check(!seen[r], "regions", "%q is there twice", r)
		seen[r] = true
	}
	for _, n := range []struct {
		field string
		value int
	}{{"cells", c.Cells}, {"edges", c.Edges}, {"gateways", c.Gateways}, {"servers", c.Servers}} {
		check(n.value >= 1 && n.value <= sizeMax, n.field, "must be 1 to %d, not %d", sizeMax, n.value)
	}
	check(c.PortBase == 0 || (c.PortBase >= 1024 && c.PortBase <= 65000), "port-base", "must be 0 or 1024 to 65000")
	check(c.Data != "", "data", "must name a directory")
	return errors.Join(faults...)
}

// controlNodes is how many control-plane nodes there are: the least that stands
// the loss of one.
const controlNodes = 3

// plan is every part with its name and address.
type plan struct {
	control []controlPlan
	regions []regionPlan
	admin   map[string]string // by the role's name
}

type controlPlan struct{ id, raft, api string }

type regionPlan struct {
	id                   topology.RegionID
	etcdClient, etcdPeer string
	cells                []cellPlan
	edges                []edgePlan
}

type cellPlan struct {
	id       topology.CellID
	gateways []gatewayPlan
	servers  []topology.ServerID
}

type gatewayPlan struct {
	id        topology.GatewayID
	link, api string // UDP
}

type edgePlan struct {
	id   topology.EdgeID
	addr string
}

// newPlan names the parts and gives them their ports, those people use first.
func newPlan(ctx context.Context, c Config, log *slog.Logger) (plan, error) {
	ports, err := openPorts(ctx, c, log)
	if err != nil {
		return plan{}, err
	}
	var p plan
	p.regions = make([]regionPlan, len(c.Regions))
	for i, r := range c.Regions {
		p.regions[i].id = r
		for n := range c.Edges {
			id := fmt.Sprintf("%s-edge-%d", r, n+1)
			p.regions[i].edges = append(p.regions[i].edges, edgePlan{topology.EdgeID(id), ports.tcp(id)})
		}
	}
	for n := range controlNodes {
		id := fmt.Sprintf("control-%d", n+1)
		p.control = append(p.control, controlPlan{id: id, api: ports.tcp(id + "/api")})
	}
	for n := range p.control {
		p.control[n].raft = ports.tcp(p.control[n].id + raftPart)
	}
	for i := range p.regions {
		r := &p.regions[i]
		r.etcdClient, r.etcdPeer = ports.tcp(string(r.id)+etcdPart), ports.tcp(string(r.id)+"/etcd-peer")
		for n := range c.Cells {
			r.cells = append(r.cells, planCell(c, fmt.Sprintf("%s-%d", r.id, n+1), ports))
		}
	}
	p.admin = map[string]string{}
	if c.Admin {
		for _, name := range p.names() {
			p.admin[name] = ports.tcp(name + "/admin")
		}
	}
	return p, ports.save()
}

// names are those of all roles.
func (p plan) names() (out []string) {
	for _, r := range p.regions {
		for _, e := range r.edges {
			out = append(out, string(e.id))
		}
		for _, c := range r.cells {
			out = append(out, string(c.id))
		}
	}
	for _, n := range p.control {
		out = append(out, n.id)
	}
	return out
}

func planCell(c Config, id string, ports *ports) cellPlan {
	cell := cellPlan{id: topology.CellID(id)}
	for n := range c.Gateways {
		g := fmt.Sprintf("%s-gw-%d", id, n+1)
		cell.gateways = append(cell.gateways, gatewayPlan{topology.GatewayID(g), ports.udp(g + "/link"), ports.udp(g + "/api")})
	}
	for n := range c.Servers {
		cell.servers = append(cell.servers, topology.ServerID(fmt.Sprintf("%s-cs-%d", id, n+1)))
	}
	return cell
}

// writeFile replaces a file whole: a reader sees the old one or the new one.
func writeFile(name string, b []byte, mode fs.FileMode) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return problem.Wrap(err, problem.Internal, "%s can't be written", name)
	}
	if err := os.Rename(tmp, name); err != nil {
		return problem.Wrap(err, problem.Internal, "%s can't be replaced", name)
	}
	return nil
}

// edgeURLs are the cluster's ways in, the first region's first.
func (p plan) edgeURLs(c Config) []EdgeInfo {
	scheme := "http"
	if c.TLS {
		scheme = "https"
	}
	var out []EdgeInfo
	for _, r := range p.regions {
		for _, e := range r.edges {
			out = append(out, EdgeInfo{Region: r.id, URL: scheme + "://" + e.addr})
		}
	}
	return out
}

// adminURLs are where the roles tell how they are.
func (p plan) adminURLs() (out []AdminInfo) {
	for _, name := range p.names() {
		if addr, ok := p.admin[name]; ok {
			out = append(out, AdminInfo{name, "http://" + addr})
		}
	}
	return out
}

func (p plan) controlURLs() []string {
	out := make([]string, 0, len(p.control))
	for _, n := range p.control {
		out = append(out, "https://"+n.api)
	}
	return slices.Clip(out)
}
