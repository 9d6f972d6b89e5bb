// Package rig is the ground on which a cluster of processes is set up on one machine,
// for drills and measurements: free ports, certificates, configs, and etcd's arguments.
package rig

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"parley/internal/pki"
)

// Loopback is where everything listens.
const Loopback = "127.0.0.1"

// Ports finds free ones. They are held until LetGo, so that none comes twice; the first
// error is kept in Err.
type Ports struct {
	Err  error
	ctx  context.Context //nolint:containedctx // of the one search
	held []io.Closer
}

// NewPorts searches until ctx ends.
func NewPorts(ctx context.Context) *Ports { return &Ports{ctx: ctx} }

// TCP is the address of a free TCP port.
func (p *Ports) TCP() string {
	l, err := new(net.ListenConfig).Listen(p.ctx, "tcp", net.JoinHostPort(Loopback, "0"))
	if err != nil {
		p.fail(err)
		return ""
	}
	p.held = append(p.held, l)
	return l.Addr().String()
}

// UDP is the address of a free UDP port.
func (p *Ports) UDP() string {
	c, err := new(net.ListenConfig).ListenPacket(p.ctx, "udp", net.JoinHostPort(Loopback, "0"))
	if err != nil {
		p.fail(err)
		return ""
	}
	p.held = append(p.held, c)
	return c.LocalAddr().String()
}

func (p *Ports) fail(err error) {
	if p.Err == nil {
		p.Err = err
	}
}

// LetGo frees them for those who are to listen there.
func (p *Ports) LetGo() {
	for _, h := range p.held {
		_ = h.Close() // it was only asked which is free
	}
}

// Place is a cluster's directory, with its certificate authority.
type Place struct {
	Dir string
	ca  *pki.Authority
}

// Open makes a place of a directory that exists.
func Open(dir string) (Place, error) {
	ca, err := pki.OpenAuthority(filepath.Join(dir, "ca"))
	return Place{dir, ca}, err
}

// CAFile is the authority's certificate.
func (p Place) CAFile() string { return filepath.Join(p.Dir, "ca", "ca.pem") }

// Certs issues a role's certificate and returns the directory that it is in.
func (p Place) Certs(id pki.Identity) (string, error) {
	dir := filepath.Join(p.Dir, "certs", id.Name)
	b, err := p.ca.Issue(id, []string{"localhost", Loopback})
	if err != nil {
		return "", err
	}
	return dir, b.Write(dir)
}

// Write writes a role's config and returns its file.
func (p Place) Write(name string, config any) (string, error) {
	b, err := yaml.Marshal(config)
	if err != nil {
		return "", err
	}
	file := p.ConfigFile(name)
	return file, os.WriteFile(file, b, 0o600)
}

// ConfigFile is where Write puts a role's config.
func (p Place) ConfigFile(name string) string { return filepath.Join(p.Dir, name+".yaml") }

// Secret writes what only its owner may read, and returns its file.
func (p Place) Secret(name, value string) (string, error) {
	file := filepath.Join(p.Dir, name)
	return file, os.WriteFile(file, []byte(value), 0o600)
}

// Member is one of a region's etcd members; its addresses are host:port.
type Member struct{ Name, Client, Peer string }

// EtcdArgs are the arguments of etcd for one of the members, with the settings of the
// embedded one.
func (p Place) EtcdArgs(m Member, all []Member, id pki.Identity) ([]string, error) {
	certs, err := p.Certs(id)
	var peers []string
	for _, m := range all {
		peers = append(peers, m.Name+"=https://"+m.Peer)
	}
	cert, key, ca := filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem"), filepath.Join(certs, "ca.pem")
	return []string{
		"--name", m.Name, "--data-dir", filepath.Join(p.Dir, m.Name),
		"--listen-client-urls", "https://" + m.Client, "--advertise-client-urls", "https://" + m.Client,
		"--listen-peer-urls", "https://" + m.Peer, "--initial-advertise-peer-urls", "https://" + m.Peer,
		"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-state", "new",
		"--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
		"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca, "--peer-client-cert-auth",
		"--heartbeat-interval", "50", "--election-timeout", "500", "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "10m",
		"--log-level", "warn", "--grpc-keepalive-min-time", "1s",
	}, err
}
