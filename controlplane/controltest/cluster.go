// Package controltest runs a control plane of three nodes with an etcd per region
// and a cell that opens what it is told to, all in the test's process and over TLS
// on loopback, for the tests of who serves and who calls the control plane.
package controltest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"parley/controlplane"
	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/pki"
)

const (
	// Patience bounds every wait.
	Patience = 20 * time.Second
	// Secret is the first operator token.
	Secret = "pot_test"

	nodes    = 3
	election = 200 * time.Millisecond
	lookWait = 5 * time.Millisecond
	gather   = 50 * time.Millisecond
)

// Cluster is the nodes with what they need.
type Cluster struct {
	tb    testing.TB
	CA    *pki.Authority
	CADir string // holds ca.pem
	Nodes []*Node
	web   *http.Transport

	mu    sync.Mutex
	ahead time.Duration // of the nodes' clock
}

// Node is one node, running or not.
type Node struct {
	*controlplane.Node

	Config controlplane.Config
	c      *Cluster
	cert   *pki.Bundle
	cancel context.CancelFunc
	ended  chan error
}

// Start runs three nodes until the test ends, and waits until they have a leader.
func Start(tb testing.TB) *Cluster {
	tb.Helper()
	c := Prepare(tb)
	for _, n := range c.Nodes {
		n.Start()
	}
	c.Leader()
	return c
}

// Prepare makes what Start runs.
func Prepare(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, CADir: tb.TempDir()}
	var err error
	if c.CA, err = pki.OpenAuthority(c.CADir); err != nil {
		tb.Fatal(err)
	}
	c.web = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.CA.CAPool(), MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	tb.Cleanup(c.web.CloseIdleConnections)
	var peers []controlplane.Peer
	for i := range nodes {
		peers = append(peers, controlplane.Peer{ID: fmt.Sprintf("n%d", i+1), RaftAddr: FreeTCP(tb), APIURL: "https://" + FreeTCP(tb)})
	}
	for _, p := range peers {
		n := &Node{c: c, cert: c.Cert(pki.Identity{Role: pki.RoleControl, Name: p.ID}), Config: controlplane.Config{
			ID: p.ID, RaftAddr: p.RaftAddr, APIAddr: p.APIURL[len("https://"):], Peers: peers, Dir: filepath.Join(tb.TempDir(), p.ID),
			BootstrapToken: Secret, Election: election, GatherEvery: gather,
		}}
		c.Nodes = append(c.Nodes, n)
	}
	tb.Cleanup(func() {
		for _, n := range c.Nodes {
			n.cancelIfUp()
		}
		for _, n := range c.Nodes {
			n.Stop()
		}
	})
	return c
}

// Cert is a certificate that is good on loopback.
func (c *Cluster) Cert(id pki.Identity) *pki.Bundle {
	c.tb.Helper()
	b, err := c.CA.Issue(id, []string{"127.0.0.1", "localhost"})
	if err != nil {
		c.tb.Fatal(err)
	}
	return b
}

// Now is the nodes' clock.
func (c *Cluster) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Advance puts the nodes' clock forward.
func (c *Cluster) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Start runs the node; it does not wait.
func (n *Node) Start() {
	n.c.tb.Helper()
	var err error
	n.Node, err = controlplane.New(n.Config, controlplane.Deps{Identity: n.cert, Now: n.c.Now, Log: Log(n.c.tb)})
	if err != nil {
		n.c.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.ended = cancel, make(chan error, 1)
	node, ended := n.Node, n.ended
	go func() { ended <- node.Run(ctx, func() {}) }()
}

func (n *Node) cancelIfUp() {
	if n.cancel != nil {
		n.cancel()
	}
}

// Stop ends the node, if it runs, and waits.
func (n *Node) Stop() {
	n.c.tb.Helper()
	if n.cancel == nil {
		return
	}
	n.cancel()
	if err := n.Ended(); err != nil && !errors.Is(err, state.ErrUnknownEntry) { // whose test looks itself
		n.c.tb.Errorf("node %s: Run: %v", n.Config.ID, err)
	}
}

// HasEnded reports whether the node has ended by itself. Ended gives the error.
func (n *Node) HasEnded() bool { return n.cancel == nil || len(n.ended) > 0 }

// Ended waits until the node has ended by itself, and gives what it ended with.
func (n *Node) Ended() error {
	n.c.tb.Helper()
	defer func() { n.cancel = nil }()
	defer n.cancel()
	select {
	case err := <-n.ended:
		return err
	case <-time.After(Patience):
		n.c.tb.Fatalf("node %s does not end", n.Config.ID)
		return nil
	}
}

// URL is the node's API.
func (n *Node) URL() string { return "https://" + n.Config.APIAddr }

// Leader waits until the nodes that run agree on a leader among them and answer.
func (c *Cluster) Leader() *Node {
	c.tb.Helper()
	var leader *Node
	c.Await("there is a leader", func() bool {
		leader = c.agreed()
		if leader == nil {
			return false
		}
		_, err := leader.Client(Secret).ListRegions(c.ctx(), connect.NewRequest(&controlv1.ListRegionsRequest{}))
		return err == nil
	})
	return leader
}

// agreed is the node that leads and that all who run take for the leader, or nil.
func (c *Cluster) agreed() *Node {
	var leader *Node
	said := map[string]bool{}
	for _, n := range c.Nodes {
		if n.cancel == nil {
			continue
		}
		s, err := n.Client(Secret).GetStatus(c.ctx(), connect.NewRequest(&controlv1.GetStatusRequest{}))
		if err != nil {
			return nil
		}
		said[s.Msg.GetLeader()] = true
		if s.Msg.GetRole() == "Leader" {
			leader = n
		}
	}
	if leader == nil || len(said) != 1 || !said[leader.Config.ID] {
		return nil
	}
	return leader
}

// Follower is a node that runs and does not lead.
func (c *Cluster) Follower() *Node {
	c.tb.Helper()
	leader := c.Leader()
	for _, n := range c.Nodes {
		if n != leader && n.cancel != nil {
			return n
		}
	}
	c.tb.Fatal("no follower runs")
	return nil
}

// ctx is good while the test's cleanups run, too.
func (c *Cluster) ctx() context.Context { return context.WithoutCancel(c.tb.Context()) }

// Client is a client of this node alone, with a token; "" = without.
//
//nolint:ireturn // what connect generates is an interface
func (n *Node) Client(secret string, more ...connect.Interceptor) controlv1connect.ControlServiceClient {
	web := &http.Client{Transport: n.c.web}
	return controlv1connect.NewControlServiceClient(web, n.URL(), connect.WithInterceptors(append(more, Bearer(secret))...))
}

// Web is a client's side of TLS and HTTP, without a certificate.
func (c *Cluster) Web() *http.Transport { return c.web }

// Await waits until cond holds.
func (c *Cluster) Await(what string, cond func() bool) {
	c.tb.Helper()
	Await(c.tb, what, cond)
}

// Await waits until cond holds, and fails the test if that takes too long.
func Await(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	for look := time.NewTicker(lookWait); ; {
		if cond() {
			look.Stop()
			return
		}
		select {
		case <-look.C:
		case <-limit.C:
			look.Stop()
			tb.Fatalf("waited in vain until %s", what)
		}
	}
}

// FreeTCP is a loopback address that was free a moment ago.
func FreeTCP(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.WithoutCancel(tb.Context()), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nobody used it
	return l.Addr().String()
}

// FreeUDP is a loopback address that was free a moment ago.
func FreeUDP(tb testing.TB) string {
	tb.Helper()
	c, err := new(net.ListenConfig).ListenPacket(context.WithoutCancel(tb.Context()), "udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.Close() }() // nobody used it
	return c.LocalAddr().String()
}

// Log shows what a failed test's parts said.
func Log(tb testing.TB) *slog.Logger {
	tb.Helper()
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}
