package controltest

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"parley/internal/h3"
	"parley/internal/pki"
	"parley/internal/topology"
	"parley/regions"
)

// Etcd is a region's etcd, that a test can stop, wipe and start again.
type Etcd struct {
	tb   testing.TB
	c    *Cluster
	conf regions.EtcdConfig
	etcd *regions.Etcd

	Region string
}

// Etcd starts a region's etcd.
func (c *Cluster) Etcd(region string) *Etcd {
	c.tb.Helper()
	dir := c.tb.TempDir()
	if err := c.Cert(pki.Identity{Region: topology.RegionID(region), Role: pki.RoleEtcd, Name: region}).Write(dir); err != nil {
		c.tb.Fatal(err)
	}
	e := &Etcd{tb: c.tb, c: c, Region: region, conf: regions.EtcdConfig{
		Dir: c.tb.TempDir(), ClientAddr: FreeTCP(c.tb), PeerAddr: FreeTCP(c.tb), TLSDir: dir,
	}}
	c.tb.Cleanup(e.Stop)
	e.Start()
	return e
}

// Start starts it.
func (e *Etcd) Start() {
	e.tb.Helper()
	var err error
	if e.etcd, err = regions.StartEtcd(context.WithoutCancel(e.tb.Context()), e.conf); err != nil {
		e.tb.Fatal(err)
	}
}

// Stop stops it.
func (e *Etcd) Stop() {
	if e.etcd != nil {
		e.etcd.Close()
		e.etcd = nil
	}
}

// Wipe takes it all it knows; it runs again then.
func (e *Etcd) Wipe() {
	e.tb.Helper()
	e.Stop()
	e.conf.Dir = e.tb.TempDir()
	e.Start()
}

// Addr is where clients reach it.
func (e *Etcd) Addr() string { return e.conf.ClientAddr }

// Registry follows the etcd until the test, or a call of stop, ends it.
func (e *Etcd) Registry(id pki.Identity) (r *regions.Registry, stop func()) {
	e.tb.Helper()
	r, err := regions.Open(regions.Config{
		Region: topology.RegionID(e.Region), Endpoints: []string{e.Addr()}, TLS: e.c.Cert(id).Client(pki.RoleEtcd),
		ReadyWait: time.Second, LeaseTTL: 2 * time.Second, Log: Log(e.tb),
	})
	if err != nil {
		e.tb.Fatal(err)
	}
	return r, background(e.tb, func(ctx context.Context, ready func()) error { return r.Run(ctx, ready) })
}

// background runs something until the test, or a call of stop, ends it.
func background(tb testing.TB, run func(ctx context.Context, ready func()) error) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(ctx, sync.OnceFunc(func() { close(up) })) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("in the background: %v", err)
		}
	})
	tb.Cleanup(stop)
	select {
	case <-up:
	case <-time.After(Patience):
		tb.Fatal("waited in vain for something in the background")
	}
	return stop
}

// Cell is a gateway of a cell that writes down what it is told to open.
type Cell struct {
	*regions.Registry // of its region

	mu      sync.Mutex
	opened  map[string]Order // by workspace
	refuses bool
}

// Order is what the control plane tells a cell about a workspace.
type Order struct {
	Epoch      uint64 `json:"epoch"`
	Generation uint64 `json:"generation"`
	Slug       string `json:"slug"`
	Name       string `json:"name"`
	State      string `json:"state"`
}

// Cell starts a gateway and registers it in the region's etcd.
func (e *Etcd) Cell(id string) *Cell {
	e.tb.Helper()
	who := pki.Identity{Region: topology.RegionID(e.Region), Cell: topology.CellID(id), Role: pki.RoleGateway, Name: id + "-g1"}
	cell := &Cell{opened: map[string]Order{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /internal/v1/workspaces/{id}", cell.open)
	addr := FreeUDP(e.tb)
	server := &h3.Server{Addr: addr, TLS: e.c.Cert(who).Server(pki.RoleControl), Handler: mux, Log: Log(e.tb)}
	background(e.tb, server.Run)
	cell.Registry, _ = e.Registry(who)
	ctx, cancel := context.WithCancel(context.Background())
	e.tb.Cleanup(cancel)
	_, err := cell.RegisterGateway(ctx, regions.Gateway{
		ID: topology.GatewayID(id + "-g1"), Cell: topology.CellID(id), LinkAddr: addr, APIAddr: addr, Incarnation: 1,
	})
	if err != nil {
		e.tb.Fatal(err)
	}
	return cell
}

func (c *Cell) open(w http.ResponseWriter, r *http.Request) {
	var o Order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuses {
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	c.opened[r.PathValue("id")] = o
	w.WriteHeader(http.StatusNoContent)
}

// Opened is the last order about a workspace.
func (c *Cell) Opened(workspace string) (Order, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.opened[workspace]
	return o, ok
}

// Refuse makes the cell answer 503, or no longer.
func (c *Cell) Refuse(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuses = on
}

// Bearer puts an operator token into calls; "" = none.
func Bearer(secret string) connect.Interceptor { return bearer(secret) } //nolint:ireturn // as connect takes it

type bearer string

// WrapUnary implements connect.Interceptor.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		b.put(r.Header())
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		b.put(c.RequestHeader())
		return c
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (b bearer) put(h http.Header) {
	if b != "" {
		h.Set("Authorization", "Bearer "+string(b))
	}
}
