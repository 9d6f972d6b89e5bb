package site

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"parley/internal/pki"
	"parley/internal/roles"
	"parley/internal/topology"
)

const (
	loopback = "127.0.0.1"
	region   = topology.RegionID("eu")
	edgeID   = "eu-edge-1"
	control  = "control-1"
	etcdName = "etcd-eu-1"
	// partsEach is the gateways, and the channel servers, of a cell.
	partsEach = 2
)

// layout is where everything of a site is.
type layout struct {
	dir                  string
	ca                   *pki.Authority
	token                string
	etcd, etcdPeer       string
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
	var (
		p    ports
		l    = &layout{dir: dir, token: "pot_bench"}
		free = func() string { return p.take(ctx, "tcp") }
	)
	defer p.letGo()
	for _, at := range []*string{&l.etcd, &l.etcdPeer, &l.raft, &l.api, &l.edge, &l.controlAdmin, &l.eAdmin} {
		*at = free()
	}
	for i := range cells {
		c := &cell{id: topology.CellID(fmt.Sprintf("eu-%d", i+1)), admin: free()}
		for n := range partsEach {
			c.gates = append(c.gates, roles.Gateway{
				ID: topology.GatewayID(fmt.Sprintf("%s-gw-%d", c.id, n+1)), LinkAddr: p.take(ctx, "udp"), APIAddr: p.take(ctx, "udp"),
			})
		}
		l.cells = append(l.cells, c)
	}
	if p.err != nil {
		return nil, p.err
	}
	var err error
	l.ca, err = pki.OpenAuthority(filepath.Join(dir, "ca"))
	return l, err
}

// ports finds free ones. They are held until all are found, so that none comes
// twice.
type ports struct {
	err  error
	held []interface{ Close() error }
}

func (p *ports) take(ctx context.Context, network string) string {
	var (
		c    interface{ Close() error }
		addr net.Addr
		err  error
	)
	if network == "udp" {
		var u net.PacketConn
		if u, err = new(net.ListenConfig).ListenPacket(ctx, network, loopback+":0"); err == nil {
			c, addr = u, u.LocalAddr()
		}
	} else {
		var t net.Listener
		if t, err = new(net.ListenConfig).Listen(ctx, network, loopback+":0"); err == nil {
			c, addr = t, t.Addr()
		}
	}
	if err != nil {
		p.err = err
		return ""
	}
	p.held = append(p.held, c)
	return addr.String()
}

func (p *ports) letGo() {
	for _, h := range p.held {
		_ = h.Close() // it was only asked which is free
	}
}

// certs issues a role's certificate and says where it is.
func (l *layout) certs(id pki.Identity) (string, error) {
	dir := filepath.Join(l.dir, "certs", id.Name)
	b, err := l.ca.Issue(id, []string{"localhost", loopback})
	if err != nil {
		return "", err
	}
	return dir, b.Write(dir)
}

// write writes a role's config and returns its file.
func (l *layout) write(name string, c any) (string, error) {
	b, err := yaml.Marshal(c)
	if err != nil {
		return "", err
	}
	file := filepath.Join(l.dir, name+".yaml")
	return file, os.WriteFile(file, b, 0o600)
}

func (l *layout) process(p roles.Process, name, certs, admin string) roles.Process {
	p.Dir, p.CertDir, p.Admin, p.DrainMax = filepath.Join(l.dir, name), certs, admin, drainMax
	return p
}

func (l *layout) controlConfig() (string, error) {
	certs, err := l.certs(pki.Identity{Role: pki.RoleControl, Name: control})
	if err != nil {
		return "", err
	}
	tokens := filepath.Join(l.dir, "operator-token")
	if err := os.WriteFile(tokens, []byte(l.token), 0o600); err != nil {
		return "", err
	}
	c := roles.DefaultControl()
	c.Process = l.process(c.Process, control, certs, l.controlAdmin)
	c.ID, c.RaftAddr, c.APIAddr, c.BootstrapTokenFile = control, l.raft, l.api, tokens
	c.Peers = []roles.Peer{{ID: control, RaftAddr: l.raft, APIURL: "https://" + l.api}}
	return l.write(control, c)
}

func (l *layout) cellConfig(at *cell, stores roles.Engines) (string, error) {
	certs, err := l.certs(pki.Identity{Region: region, Cell: at.id, Role: pki.RoleGateway, Name: string(at.id)})
	if err != nil {
		return "", err
	}
	c := roles.DefaultCell()
	c.Process = l.process(c.Process, string(at.id), certs, at.admin)
	c.ID, c.Region, c.Etcd, c.Gateways, c.Stores = at.id, region, []string{l.etcd}, at.gates, stores
	for n := range partsEach {
		c.Servers = append(c.Servers, topology.ServerID(fmt.Sprintf("%s-cs-%d", at.id, n+1)))
	}
	return l.write(string(at.id), c)
}

func (l *layout) edgeConfig() (string, error) {
	certs, err := l.certs(pki.Identity{Region: region, Role: pki.RoleEdge, Name: edgeID})
	if err != nil {
		return "", err
	}
	c := roles.DefaultEdge()
	c.Process = l.process(c.Process, edgeID, certs, l.eAdmin)
	c.ID, c.Region, c.Listen, c.URL, c.PlainHTTP, c.Etcd = edgeID, region, l.edge, "http://"+l.edge, true, []string{l.etcd}
	c.DrainSpread = 0
	return l.write(edgeID, c)
}

// etcdArgs are the settings of the embedded one.
func (l *layout) etcdArgs() ([]string, error) {
	certs, err := l.certs(pki.Identity{Region: region, Role: pki.RoleEtcd, Name: etcdName})
	cert, key, ca := filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem"), filepath.Join(certs, "ca.pem")
	return []string{
		"--name", etcdName, "--data-dir", filepath.Join(l.dir, etcdName),
		"--listen-client-urls", "https://" + l.etcd, "--advertise-client-urls", "https://" + l.etcd,
		"--listen-peer-urls", "https://" + l.etcdPeer, "--initial-advertise-peer-urls", "https://" + l.etcdPeer,
		"--initial-cluster", etcdName + "=https://" + l.etcdPeer, "--initial-cluster-state", "new",
		"--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
		"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca, "--peer-client-cert-auth",
		"--log-level", "warn", "--grpc-keepalive-min-time", "1s",
	}, err
}
