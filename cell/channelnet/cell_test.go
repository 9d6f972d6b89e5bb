package channelnet_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/channelnet"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/router"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/regions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitMax = 30 * time.Second
	cellID  = topology.CellID("eu-1")
)

var place = topology.Place{Workspace: "W1", Generation: 1}

// cell is what a cell's processes share: the stores, the registry, an authority.
type cell struct {
	tb    testing.TB
	db    *pebbledb.DB
	bus   router.Bus
	dir   *people
	table *regions.Table
	ca    *pki.Authority
	log   *slog.Logger

	mu      sync.Mutex
	entries map[topology.ServerID]regions.Server
}

func newCell(tb testing.TB) *cell {
	tb.Helper()
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(tb.TempDir(), "store")})
	must(tb, err)
	tb.Cleanup(func() { must(tb, db.Close()) })
	ca, err := pki.OpenAuthority(filepath.Join(tb.TempDir(), "ca"))
	must(tb, err)
	c := &cell{
		tb: tb, db: db, bus: router.NewLocal(router.LocalConfig{}), dir: newPeople(), table: regions.NewTable("eu"), ca: ca,
		log: slog.New(slog.DiscardHandler), entries: map[topology.ServerID]regions.Server{},
	}
	if os.Getenv("PARLEY_TEST_LOG") != "" {
		c.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return c
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// register changes the registry's entries.
func (c *cell) register(change func(map[topology.ServerID]regions.Server)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.entries)
	var all []regions.Server
	for _, s := range c.entries {
		all = append(all, s)
	}
	c.table.Fill(regions.Contents{Servers: all})
}

func (c *cell) live() (out []topology.ServerID) {
	for _, s := range c.table.Servers(cellID) {
		out = append(out, s.ID)
	}
	return out
}

func (c *cell) identity(role pki.Role, cell topology.CellID, name string) *pki.Bundle {
	c.tb.Helper()
	b, err := c.ca.Issue(pki.Identity{Region: "eu", Cell: cell, Role: role, Name: name}, []string{"127.0.0.1"})
	must(c.tb, err)
	return b
}

// process is what runs in one process of the cell: a cluster of its own, and
// channel servers that others reach through a relay.
type process struct {
	c       *cell
	name    string
	cluster *channel.Cluster
	relay   *relay // nil without channel servers
	store   *stoppable
	servers []*channel.Server
	crash   func() // as kill -9: nothing is told, nothing goes on
	stop    func() // as SIGTERM
}

// start runs a process with channel servers of these names.
func (c *cell) start(name string, ids ...topology.ServerID) *process {
	c.tb.Helper()
	p := &process{c: c, name: name, cluster: channel.NewCluster(channel.ClusterConfig{Cell: cellID, Logger: c.log}), store: &stoppable{Store: c.db.Log()}}
	log := c.log.With("at", name)
	self := ""
	var parts []part
	identity := c.identity(pki.RoleGateway, cellID, name)
	if len(ids) > 0 {
		listen := freeAddr(c.tb)
		p.relay = newRelay(c.tb, listen)
		self = p.relay.addr
		s, err := channelnet.NewServer(channelnet.ServerConfig{
			Cell: cellID, Process: name, Listen: listen, Identity: identity, Known: c.dir.Open, Log: log,
		}, p.cluster)
		must(c.tb, err)
		parts = append(parts, part{run: s.Run})
	}
	peers, err := channelnet.NewPeers(channelnet.PeersConfig{Cell: cellID, Process: name, Self: self, Identity: identity, Log: log}, p.cluster, c.table)
	must(c.tb, err)
	parts = append(parts, part{run: peers.Run})
	for _, id := range ids {
		s := p.newServer(id, log)
		parts = append(parts, part{run: s.Run, drain: s.Drain}, part{run: func(ctx context.Context, ready func()) error {
			c.register(func(m map[topology.ServerID]regions.Server) { m[id] = regions.Server{ID: id, Cell: cellID, Addr: self} })
			ready()
			<-ctx.Done()
			return nil
		}, drain: func(context.Context) error {
			c.register(func(m map[topology.ServerID]regions.Server) { delete(m, id) })
			return nil
		}})
	}
	p.run(parts)
	return p
}

func (p *process) newServer(id topology.ServerID, log *slog.Logger) *channel.Server {
	cfg := channel.Default()
	cfg.ID, cfg.Cell = id, cellID
	s, err := channel.New(cfg, channel.Deps{
		Log: p.store, History: p.c.db.History(), Events: p.c.db.Events(), Bus: p.c.bus, Directory: p.c.dir, Peers: p.cluster,
		Live: p.c.live, Logger: log,
	})
	must(p.c.tb, err)
	p.cluster.Add(s)
	p.servers = append(p.servers, s)
	return s
}

// part is one thing that runs in a process.
type part struct {
	run   func(context.Context, func()) error
	drain func(context.Context) error
	end   func()
}

func (p *process) run(parts []part) {
	p.c.tb.Helper()
	for i := range parts {
		ctx, cancel := context.WithCancel(context.Background())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- parts[i].run(ctx, func() { close(ready) }) }()
		parts[i].end = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				p.c.tb.Errorf("%s: %v", p.name, err)
			}
		})
		select {
		case <-ready:
		case <-time.After(waitMax):
			p.c.tb.Fatalf("%s did not get ready", p.name)
		}
	}
	end := sync.OnceFunc(func() {
		for _, one := range slices.Backward(parts) {
			one.end()
		}
		if p.relay != nil {
			p.relay.cut()
		}
	})
	p.crash = func() {
		if p.relay != nil {
			p.relay.cut()
		}
		p.store.stop(true)
		var all sync.WaitGroup
		for i := range parts { // all at once
			all.Go(parts[i].end)
		}
		p.store.fail()
		all.Wait()
		end()
	}
	p.stop = func() {
		for _, one := range slices.Backward(parts) {
			if one.drain != nil {
				ctx, cancel := context.WithTimeout(context.Background(), waitMax)
				if err := one.drain(ctx); err != nil {
					p.c.tb.Errorf("%s: drain: %v", p.name, err)
				}
				cancel()
			}
			one.end()
		}
		end()
	}
	p.c.tb.Cleanup(func() {
		p.store.stop(false)
		end()
	})
}

// pause is SIGSTOP: nothing comes in, nothing goes out, nothing is stored.
func (p *process) pause(on bool) {
	p.relay.pause(on)
	p.store.stop(on)
}

func (p *process) channels(n int) []topology.ChannelRef {
	p.c.tb.Helper()
	refs := make([]topology.ChannelRef, n)
	for i := range refs {
		refs[i] = topology.ChannelRef{Place: place, Channel: topology.ChannelID(fmt.Sprintf("C%d", i+1))}
		p.c.dir.put(refs[i], uint64(i+1), "U1")
		ctx, cancel := context.WithTimeout(context.Background(), waitMax)
		_, err := p.cluster.Member(ctx, channel.Member{Channel: refs[i], Kind: change.Created, Author: "U1", Subjects: []topology.UserID{"U1"}, Key: "create"})
		cancel()
		must(p.c.tb, err)
	}
	return refs
}

// owned is how many of the channels the process's own servers have.
func (p *process) owned(refs []topology.ChannelRef) (n int) {
	held, _ := p.cluster.Holdings()
	for _, ref := range refs {
		for _, h := range held {
			if _, ok := h[ref.Shard()]; ok {
				n++
			}
		}
	}
	return n
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(waitMax)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("not within %v: %s", waitMax, what)
		case <-tick.C:
		}
	}
}

func wantKind(tb testing.TB, err error, k problem.Kind) {
	tb.Helper()
	if !problem.Is(err, k) {
		tb.Fatalf("got %v, want kind %s", err, k)
	}
}

var _ msglog.Store = (*stoppable)(nil)
