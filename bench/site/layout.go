package site

import (
	"context"
	"fmt"
	"path/filepath"

	"parley/internal/pki"
	"parley/internal/rig"
	"parley/internal/roles"
	"parley/internal/topology"
)

const (
	region  = topology.RegionID("eu")
	edgeID  = "eu-edge-1"
	control = "control-1"
	// partsEach is the gateways, and the channel servers, of a cell.
	partsEach = 2
)

// layout is where everything of a site is.
type layout struct {
	rig.Place
	token                string
	etcd                 rig.Member
	raft, api            string
	edge                 string
	cells                []*cell
	controlAdmin, eAdmin string
}

// cell is one process.
type cell struct {
	id    topology.CellID
	admin string
	file  string // its config
	gates []roles.Gateway
}

// newLayout takes free ports.
func newLayout(ctx context.Context, dir string, cells int) (*layout, error) {
	place, err := rig.Open(dir)
	if err != nil {
		return nil, err
	}
	p := rig.NewPorts(ctx)
	defer p.LetGo()
	l := &layout{Place: place, token: "pot_bench", etcd: rig.Member{Name: "etcd-eu-1", Client: p.TCP(), Peer: p.TCP()}}
	for _, at := range []*string{&l.raft, &l.api, &l.edge, &l.controlAdmin, &l.eAdmin} {
		*at = p.TCP()
	}
	for i := range cells {
		c := &cell{id: topology.CellID(fmt.Sprintf("eu-%d", i+1)), admin: p.TCP()}
		for n := range partsEach {
			c.gates = append(c.gates, roles.Gateway{
				ID: topology.GatewayID(fmt.Sprintf("%s-gw-%d", c.id, n+1)), LinkAddr: p.UDP(), APIAddr: p.UDP(),
			})
		}
		l.cells = append(l.cells, c)
	}
	return l, p.Err
}

func (l *layout) process(p roles.Process, name, certs, admin string) roles.Process {
	p.Dir, p.CertDir, p.Admin, p.DrainMax = filepath.Join(l.Dir, name), certs, admin, drainMax
	return p
}

func (l *layout) controlConfig() (string, error) {
	certs, err := l.Certs(pki.Identity{Role: pki.RoleControl, Name: control})
	if err != nil {
		return "", err
	}
	tokens, err := l.Secret("operator-token", l.token)
	if err != nil {
		return "", err
	}
	c := roles.DefaultControl()
	c.Process = l.process(c.Process, control, certs, l.controlAdmin)
	c.ID, c.RaftAddr, c.APIAddr, c.BootstrapTokenFile = control, l.raft, l.api, tokens
	c.Peers = []roles.Peer{{ID: control, RaftAddr: l.raft, APIURL: "https://" + l.api}}
	return l.Write(control, c)
}

func (l *layout) cellConfig(at *cell, stores roles.Engines) (string, error) {
	certs, err := l.Certs(pki.Identity{Region: region, Cell: at.id, Role: pki.RoleGateway, Name: string(at.id)})
	if err != nil {
		return "", err
	}
	c := roles.DefaultCell()
	c.Process = l.process(c.Process, string(at.id), certs, at.admin)
	c.ID, c.Region, c.Etcd, c.Gateways, c.Stores = at.id, region, []string{l.etcd.Client}, at.gates, stores
	for n := range partsEach {
		c.Servers = append(c.Servers, topology.ServerID(fmt.Sprintf("%s-cs-%d", at.id, n+1)))
	}
	return l.Write(string(at.id), c)
}

func (l *layout) edgeConfig() (string, error) {
	certs, err := l.Certs(pki.Identity{Region: region, Role: pki.RoleEdge, Name: edgeID})
	if err != nil {
		return "", err
	}
	c := roles.DefaultEdge()
	c.Process = l.process(c.Process, edgeID, certs, l.eAdmin)
	c.ID, c.Region, c.Listen, c.URL, c.PlainHTTP, c.Etcd = edgeID, region, l.edge, "http://"+l.edge, true, []string{l.etcd.Client}
	c.DrainSpread = 0
	return l.Write(edgeID, c)
}

func (l *layout) etcdArgs() ([]string, error) {
	return l.EtcdArgs(l.etcd, []rig.Member{l.etcd}, pki.Identity{Region: region, Role: pki.RoleEtcd, Name: l.etcd.Name})
}
