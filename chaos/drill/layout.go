package drill

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"parley/internal/detour"
	"parley/internal/pki"
	"parley/internal/rig"
	"parley/internal/roles"
	"parley/internal/topology"
)

// layout is every process of a drill's cluster with its address: two regions,
// each with an etcd of three, a cell and an edge, and a control plane of three.
// Edges reach cells through relays, one per gateway, so that either way between
// them can be slowed and cut; the first region's cell reaches its engines by wires.
type layout struct {
	rig.Place
	regions []region
	control []controlNode
	token   string
	quota   int64 // of a workspace, at each channel server
}

type region struct {
	id   topology.RegionID
	etcd []rig.Member
	cell cell
	edge edge
}

type cell struct {
	id       topology.CellID
	units    []unit
	stores   roles.Engines
	wires    []wire // to the nodes of its engines
	gateways []gateway
	servers  []topology.ServerID
}

// unit is one process of a cell, and what is in it.
type unit struct {
	name, admin string
	gateways    []gateway
	servers     []topology.ServerID
	workers     []string
	reached     string // where other processes of the cell reach the servers; "" = there are none
}

// hosts reports whether a gateway or channel server is in the process.
func (u unit) hosts(part string) bool {
	return slices.Contains(u.servers, topology.ServerID(part)) ||
		slices.ContainsFunc(u.gateways, func(g gateway) bool { return string(g.id) == part })
}

func (c cell) names() (out []string) {
	for _, u := range c.units {
		out = append(out, u.name)
	}
	return out
}

// gateway's addresses are where it listens; the relayed ones where edges reach it.
type gateway struct {
	id        topology.GatewayID
	link, api string
	linkVia   string
	apiVia    string
}

type edge struct {
	id            topology.EdgeID
	listen, admin string
}

type controlNode struct{ id, raft, api, admin string }

const (
	membersOfThree = 3
	gatewaysEach   = 2
	serversEach    = 2
)

// newLayout takes free ports, and asks where the cells' engines are, if they have any.
func newLayout(ctx context.Context, dir string, cfg Config) (*layout, error) {
	engines := cfg.Engines
	p := ports{rig.NewPorts(ctx)}
	defer p.LetGo()
	place, err := rig.Open(dir)
	if err != nil {
		return nil, err
	}
	l := &layout{Place: place, token: "pot_drill", quota: cfg.quota()}
	for _, id := range []topology.RegionID{"eu", "us"} {
		r := region{id: id, cell: cell{id: topology.CellID(id + "-1")}}
		for i := range membersOfThree {
			r.etcd = append(r.etcd, rig.Member{Name: fmt.Sprintf("etcd-%s-%d", id, i+1), Client: p.TCP(), Peer: p.TCP()})
		}
		for i := range gatewaysEach {
			r.cell.gateways = append(r.cell.gateways, gateway{
				id: topology.GatewayID(fmt.Sprintf("%s-gw-%d", r.cell.id, i+1)), link: p.UDP(), api: p.UDP(), linkVia: p.UDP(), apiVia: p.UDP(),
			})
		}
		for i := range serversEach {
			r.cell.servers = append(r.cell.servers, topology.ServerID(fmt.Sprintf("%s-cs-%d", r.cell.id, i+1)))
		}
		r.cell.units = []unit{p.whole(r.cell)}
		if engines != "" && len(l.regions) == 0 {
			r.cell.units = p.split(r.cell)
		}
		r.edge = edge{id: topology.EdgeID(id + "-edge-1"), listen: p.TCP(), admin: p.TCP()}
		l.regions = append(l.regions, r)
	}
	for i := range membersOfThree {
		l.control = append(l.control, controlNode{fmt.Sprintf("control-%d", i+1), p.TCP(), p.TCP(), p.TCP()})
	}
	for i := range l.regions {
		if engines == "" {
			continue
		}
		if l.regions[i].cell.stores, err = l.engines(ctx, engines, engineSets[i]); err != nil {
			return nil, err
		}
	}
	if c := &l.regions[0].cell; engines != "" {
		c.wires = p.wires(c.stores)
		c.stores.Via = detour.Map{}
		for _, w := range c.wires {
			c.stores.Via[w.target] = w.listen
		}
	}
	return l, p.Err
}

// ports finds free ones, and with them whole cells.
type ports struct{ *rig.Ports }

// whole is a cell in one process.
func (p ports) whole(c cell) unit {
	return unit{name: string(c.id), admin: p.TCP(), gateways: c.gateways, servers: c.servers, workers: roles.DefaultCell().Workers}
}

// split is a cell in which each part has a process for itself, the workers one
// together.
func (p ports) split(c cell) (out []unit) {
	for _, s := range c.servers {
		out = append(out, unit{name: string(s), admin: p.TCP(), servers: []topology.ServerID{s}, reached: p.TCP()})
	}
	for _, g := range c.gateways {
		out = append(out, unit{name: string(g.id), admin: p.TCP(), gateways: []gateway{g}})
	}
	return append(out, unit{name: string(c.id) + "-workers", admin: p.TCP(), workers: roles.DefaultCell().Workers})
}

func (l *layout) process(name, certs, admin string) roles.Process {
	return roles.Process{Dir: filepath.Join(l.Dir, name), CertDir: certs, Admin: admin, DrainMax: drainMax}
}

func (l *layout) controlConfig(n controlNode) (string, error) {
	certs, err := l.Certs(pki.Identity{Role: pki.RoleControl, Name: n.id})
	if err != nil {
		return "", err
	}
	tokens, err := l.Secret("operator-token", l.token)
	if err != nil {
		return "", err
	}
	c := roles.DefaultControl()
	c.Process = l.process(n.id, certs, n.admin)
	c.ID, c.RaftAddr, c.APIAddr, c.BootstrapTokenFile = n.id, n.raft, n.api, tokens
	for _, p := range l.control {
		c.Peers = append(c.Peers, roles.Peer{ID: p.id, RaftAddr: p.raft, APIURL: "https://" + p.api})
	}
	return l.Write(n.id, c)
}

func (r region) etcdClients() (out []string) {
	for _, m := range r.etcd {
		out = append(out, m.Client)
	}
	return out
}

func (l *layout) cellConfig(r region, u unit) (string, error) {
	certs, err := l.Certs(pki.Identity{Region: r.id, Cell: r.cell.id, Role: pki.RoleGateway, Name: u.name})
	if err != nil {
		return "", err
	}
	c := roles.DefaultCell()
	c.Process = l.process(u.name, certs, u.admin)
	c.WorkspacePostsPerS = int(l.quota)
	c.ID, c.Region, c.Etcd, c.Servers, c.Workers = r.cell.id, r.id, r.etcdClients(), u.servers, u.workers
	c.ProcessID, c.ServerAddr, c.Stores = u.name, u.reached, r.cell.stores
	for _, g := range u.gateways {
		c.Gateways = append(c.Gateways, roles.Gateway{ID: g.id, LinkAddr: g.linkVia, APIAddr: g.apiVia, LinkListen: g.link, APIListen: g.api})
	}
	return l.Write(u.name, c)
}

func (l *layout) edgeConfig(r region) (string, error) {
	certs, err := l.Certs(pki.Identity{Region: r.id, Role: pki.RoleEdge, Name: string(r.edge.id)})
	if err != nil {
		return "", err
	}
	c := roles.DefaultEdge()
	c.Process = l.process(string(r.edge.id), certs, r.edge.admin)
	c.ID, c.Region, c.Listen, c.URL, c.PlainHTTP, c.Etcd = r.edge.id, r.id, r.edge.listen, r.edge.url(), true, r.etcdClients()
	c.DrainSpread = drainSpread
	for _, other := range l.regions {
		cold := roles.ColdCell{Cell: other.cell.id}
		for _, g := range other.cell.gateways {
			cold.APIAddrs = append(cold.APIAddrs, g.apiVia)
			cold.LinkAddrs = append(cold.LinkAddrs, g.linkVia)
		}
		c.ColdCells = append(c.ColdCells, cold)
	}
	return l.Write(string(r.edge.id), c)
}

func (e edge) url() string { return "http://" + e.listen }

func (l *layout) controlURLs() (out []string) {
	for _, n := range l.control {
		out = append(out, "https://"+n.api)
	}
	return out
}
