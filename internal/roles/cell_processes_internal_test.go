package roles

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/directory"
	"parley/internal/link"
	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/regions"
)

const startMax = time.Minute

// cellOfProcesses is a cell whose processes run in this one, on stores that they
// share, with an etcd.
type cellOfProcesses struct {
	t      *testing.T
	dir    string
	ca     *pki.Authority
	etcd   string
	stores *stores
	edge   *link.Requests
	log    *slog.Logger
}

func newCellOfProcesses(t *testing.T) *cellOfProcesses {
	t.Helper()
	c := &cellOfProcesses{t: t, dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	if os.Getenv("PARLEY_TEST_LOG") != "" {
		c.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	c.ca, err = pki.OpenAuthority(filepath.Join(c.dir, "ca"))
	must(t, err)
	certs := c.certs(pki.Identity{Region: "eu", Role: pki.RoleEtcd, Name: "etcd"})
	c.etcd = freeTCP(t)
	e, err := regions.StartEtcd(t.Context(), regions.EtcdConfig{
		Dir: filepath.Join(c.dir, "etcd"), ClientAddr: c.etcd, PeerAddr: freeTCP(t), TLSDir: certs,
	})
	must(t, err)
	t.Cleanup(e.Close)
	c.stores, err = Cell{Process: Process{Dir: c.dir}}.openStores(t.Context(), c.log, newMetricSet())
	must(t, err)
	t.Cleanup(func() { must(t, c.stores.closeAll()) })
	edge, err := c.ca.Issue(pki.Identity{Region: "eu", Role: pki.RoleEdge, Name: "edge"}, nil)
	must(t, err)
	c.edge = link.NewRequests(edge.Client(pki.RoleGateway), network.Network{})
	t.Cleanup(func() { must(t, c.edge.Close()) })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cellOfProcesses) certs(id pki.Identity) string {
	c.t.Helper()
	b, err := c.ca.Issue(id, []string{"localhost", "127.0.0.1"})
	must(c.t, err)
	dir := filepath.Join(c.dir, "certs", id.Name)
	must(c.t, b.Write(dir))
	return dir
}

// config is a process's, with a certificate of its own.
func (c *cellOfProcesses) config(name string, role pki.Role, change func(*Cell)) Cell {
	cfg := DefaultCell()
	cfg.Process = Process{
		Dir: filepath.Join(c.dir, name), CertDir: c.certs(pki.Identity{Region: "eu", Cell: "eu-1", Role: role, Name: name}), DrainMax: 10 * time.Second,
	}
	cfg.ID, cfg.ProcessID, cfg.Region, cfg.Etcd, cfg.Workers = "eu-1", name, "eu", []string{c.etcd}, nil
	cfg.shared = func(context.Context, *slog.Logger) (*stores, error) {
		s := *c.stores
		s.closes = nil // the test's
		return &s, nil
	}
	change(&cfg)
	return cfg
}

// run starts a process and returns its orderly stop.
func (c *cellOfProcesses) run(cfg Cell) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- RunCell(ctx, func() { close(ready) }, cfg, c.log.With("at", cfg.ProcessID)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("%s: %v", cfg.ProcessID, err)
		}
	})
	c.t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		done <- err
		c.t.Fatalf("%s: %v", cfg.ProcessID, err)
	case <-time.After(startMax):
		c.t.Fatalf("%s did not get ready", cfg.ProcessID)
	}
	return stop
}

// ask sends a request to a gateway as an edge does.
func (c *cellOfProcesses) ask(gateway, method, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startMax)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+gateway+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	for k, v := range map[string]string{"Workspace": "W1", "User": "U1", "Role": "member", "Epoch": "1", "Request-Id": "r"} {
		r.Header.Set("Parley-"+k, v)
	}
	res, err := c.edge.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode >= 300 {
		var doc bytes.Buffer
		_, _ = doc.ReadFrom(res.Body)
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, doc.String())
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// TestCell_AsProcesses runs a cell as four: two with channel servers, one with a
// gateway, one with the worker, and stops one channel server's while people post.
func TestCell_AsProcesses(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // the last, when all has stopped
	c := newCellOfProcesses(t)
	place := topology.Place{Workspace: "W1", Generation: 1}
	must(t, c.stores.rows.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen, Slug: "acme", Name: "Acme"}))
	_, err := c.stores.rows.PutUsers(t.Context(), place, []directory.User{{ID: "U1", Name: "ada"}})
	must(t, err)
	servers := func(name string, id topology.ServerID) Cell {
		return c.config(name, pki.RoleCell, func(cfg *Cell) { cfg.Servers, cfg.ServerAddr = []topology.ServerID{id}, freeTCP(t) })
	}
	a, b := servers("a", "cs-a"), servers("b", "cs-b")
	stopA := c.run(a)
	c.run(b)
	api := freeUDP(t)
	c.run(c.config("c", pki.RoleGateway, func(cfg *Cell) {
		cfg.Gateways = []Gateway{{ID: "gw-1", LinkAddr: freeUDP(t), APIAddr: api}}
	}))
	c.run(c.config("d", pki.RoleCell, func(cfg *Cell) { cfg.Workers = []string{workerMentions} }))

	var ch struct{ ID string }
	must(t, c.ask(api, http.MethodPost, "/api/v1/channels", map[string]any{"name": "general"}, &ch))
	seqs := 0
	post := func() {
		t.Helper()
		for range 20 {
			var m struct{ Seq int }
			must(t, c.ask(api, http.MethodPost, "/api/v1/channels/"+ch.ID+"/messages", map[string]any{"text": "hello <@U1>"}, &m))
			if seqs++; m.Seq != seqs {
				t.Fatalf("message %d has seq %d", seqs, m.Seq)
			}
		}
	}
	post()
	stopA()
	post()
	a.ServerAddr = freeTCP(t) // it comes back elsewhere
	c.run(a)
	post()
	var page struct{ Messages []json.RawMessage }
	must(t, c.ask(api, http.MethodGet, "/api/v1/channels/"+ch.ID+"/messages?limit=100", nil, &page))
	if len(page.Messages) != seqs {
		t.Errorf("a page has %d of %d messages", len(page.Messages), seqs)
	}
}

func TestCell_WhatRunsInAProcess(t *testing.T) {
	shared := func(context.Context, *slog.Logger) (*stores, error) { return &stores{}, nil }
	base := func(change func(*Cell)) Cell {
		c := DefaultCell()
		c.Dir, c.CertDir, c.ID, c.Region, c.Etcd = "d", "c", "eu-1", "eu", []string{"e:1"}
		change(&c)
		return c
	}
	gateway := []Gateway{{ID: "gw-1", LinkAddr: "h:1", APIAddr: "h:2"}}
	one := []topology.ServerID{"cs-1"}
	for name, tc := range map[string]struct {
		cell Cell
		want string // "" = it is good
	}{
		"embedded, whole":               {base(func(c *Cell) { c.Servers, c.Gateways = one, gateway }), ""},
		"embedded, without gateways":    {base(func(c *Cell) { c.Servers = one }), "gateways: must name 1"},
		"embedded, without servers":     {base(func(c *Cell) { c.Gateways = gateway }), "servers: must name 1"},
		"embedded, with others":         {base(func(c *Cell) { c.Servers, c.Gateways, c.ServerAddr = one, gateway, "h:3" }), "server_addr: is for other processes"},
		"embedded, with peers":          {base(func(c *Cell) { c.Servers, c.Gateways, c.Peers = one, gateway, []string{"h:3"} }), "peers: are other processes"},
		"shared, only a worker":         {base(func(c *Cell) { c.shared = shared }), ""},
		"shared, nothing":               {base(func(c *Cell) { c.shared, c.Workers = shared, []string{} }), "nothing to run"},
		"shared, servers alone":         {base(func(c *Cell) { c.shared, c.Servers = shared, one }), "server_addr: must say where"},
		"shared, servers with address":  {base(func(c *Cell) { c.shared, c.Servers, c.ServerAddr = shared, one, "h:3" }), ""},
		"shared, address of nobody":     {base(func(c *Cell) { c.shared, c.Gateways, c.ServerAddr = shared, gateway, "h:3" }), "servers names none"},
		"an address that is none":       {base(func(c *Cell) { c.shared, c.Servers, c.ServerAddr = shared, one, "h" }), "must be host:port"},
		"a worker that nobody knows of": {base(func(c *Cell) { c.Servers, c.Gateways, c.Workers = one, gateway, []string{"mention"} }), `workers: "mention" is none`},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.cell.Validate()
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestCell_ACertificateOfAnotherRoleOrCell(t *testing.T) {
	c := Cell{ID: "eu-1", Region: "eu", Gateways: []Gateway{{}}, shared: func(context.Context, *slog.Logger) (*stores, error) { return &stores{}, nil }}
	for _, id := range []pki.Identity{
		{Region: "eu", Cell: "eu-1", Role: pki.RoleCell}, {Region: "eu", Cell: "eu-2", Role: pki.RoleGateway}, {Region: "us", Cell: "eu-1", Role: pki.RoleGateway},
	} {
		if err := c.checkIdentity(id); err == nil {
			t.Errorf("%+v is let through", id)
		}
	}
	if err := c.checkIdentity(pki.Identity{Region: "eu", Cell: "eu-1", Role: pki.RoleGateway}); err != nil {
		t.Error(err)
	}
}

func freeTCP(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, l.Close()) }()
	return l.Addr().String()
}

func freeUDP(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, l.Close()) }()
	return l.LocalAddr().String()
}
