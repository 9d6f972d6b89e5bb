package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/gateway"
	"parley/cell/pebbledb"
	"parley/cell/presence"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/cell/unread"
	"parley/internal/pki"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

var place = topology.Place{Workspace: "W1", Generation: 1}

// cell is a whole cell without its edges: real stores, channel servers and
// directory, and a router that loses what a test wants lost.
type cell struct {
	tb      testing.TB
	ca      *pki.Authority
	rows    *directory.Directory
	cached  *directory.Cache
	bus     *lossyBus
	servers *tappedServers
	unread  *unread.Counter
	roster  *roster.Roster
	there   presence.Store
}

func newCell(tb testing.TB) *cell {
	tb.Helper()
	dir := tb.TempDir()
	c := &cell{tb: tb, bus: &lossyBus{Bus: router.NewLocal(router.LocalConfig{})}, there: presence.NewMemory(time.Now)}
	var err error
	if c.ca, err = pki.OpenAuthority(filepath.Join(dir, "ca")); err != nil {
		tb.Fatal(err)
	}
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	if c.rows, err = directory.Open(tb.Context(), filepath.Join(dir, "directory.db"), time.Now, quiet()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.rows.Close(); err != nil {
			tb.Error(err)
		}
	})
	c.cached = directory.NewCache(c.rows, directory.CacheConfig{})
	cluster := channel.NewCluster(channel.ClusterConfig{Cell: "eu-1", Logger: quiet()})
	cfg := channel.Default()
	cfg.ID, cfg.Cell = "eu-1-cs-1", "eu-1"
	cfg.OwnershipEvery, cfg.BeaconEvery = 20*time.Millisecond, 50*time.Millisecond
	s, err := channel.New(cfg, channel.Deps{
		Log: db.Log(), History: db.History(), Events: db.Events(), Bus: c.bus, Directory: directory.ForChannels(c.rows), Peers: cluster, Logger: quiet(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	cluster.Add(s)
	run(tb, "channel server", s.Run)
	c.servers = &tappedServers{Servers: cluster}
	c.unread = unread.New(c.cached, cluster, db.ReadState(), c.bus)
	c.roster = roster.New(roster.Config{}, c.cached, cluster, c.bus, time.Now, quiet())
	c.open(1, directory.StateOpen)
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// run runs a part until the test ends, or stop is called.
func run(tb testing.TB, name string, part func(context.Context, func()) error) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- part(ctx, func() { close(ready) }) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				tb.Errorf("%s: %v", name, err)
			}
		})
	}
	tb.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		tb.Fatalf("%s did not start: %v", name, err)
	case <-time.After(patience):
		tb.Fatalf("%s is not ready", name)
	}
	return stop
}

func (c *cell) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.tb.Cleanup(cancel)
	return ctx
}

func (c *cell) must(err error) {
	c.tb.Helper()
	if err != nil {
		c.tb.Fatal(err)
	}
}

// open stores the workspace's row.
func (c *cell) open(epoch topology.Epoch, state directory.State) {
	c.tb.Helper()
	c.must(c.cached.PutWorkspace(c.ctx(), directory.Workspace{ID: place.Workspace, Epoch: epoch, Generation: place.Generation, State: state, Slug: "w", Name: "W"}))
}

// people adds users U1 … Un.
func (c *cell) people(n int) []topology.UserID {
	c.tb.Helper()
	us := make([]directory.User, n)
	ids := make([]topology.UserID, n)
	for i := range us {
		ids[i] = topology.UserID(fmt.Sprintf("U%d", i+1))
		us[i] = directory.User{ID: ids[i], Name: fmt.Sprintf("name%d", i+1)}
	}
	_, err := c.cached.PutUsers(c.ctx(), place, us)
	c.must(err)
	return ids
}

func (c *cell) channel(id topology.ChannelID, private bool, us ...topology.UserID) topology.ChannelRef {
	c.tb.Helper()
	_, err := c.roster.Create(c.ctx(), place, directory.Channel{ID: id, Name: "n" + string(id), Private: private, CreatedBy: us[0], CreatedTS: 1}, us)
	c.must(err)
	return topology.ChannelRef{Place: place, Channel: id}
}

// say posts without a gateway.
func (c *cell) say(ref topology.ChannelRef, u topology.UserID, text string) change.Change {
	c.tb.Helper()
	done, err := c.servers.Servers.Post(c.ctx(), channel.Post{Channel: ref, Author: u, Text: text})
	c.must(err)
	return done
}

func (c *cell) join(ref topology.ChannelRef, by topology.UserID, us ...topology.UserID) topology.Rev {
	c.tb.Helper()
	rev, err := c.roster.Add(c.ctx(), place, ref.Channel, us, by)
	c.must(err)
	return rev
}

func (c *cell) leave(ref topology.ChannelRef, u topology.UserID) topology.Rev {
	c.tb.Helper()
	rev, err := c.roster.Remove(c.ctx(), place, ref.Channel, u, u)
	c.must(err)
	return rev
}

func (c *cell) urev(u topology.UserID) topology.URev {
	c.tb.Helper()
	urevs, err := c.rows.URevs(c.ctx(), place, []topology.UserID{u})
	c.must(err)
	return urevs[u]
}

func (c *cell) head(ref topology.ChannelRef) topology.Rev {
	c.tb.Helper()
	heads, err := c.servers.Heads(c.ctx(), []topology.ChannelRef{ref})
	c.must(err)
	return heads[0].Rev
}

// running is a gateway of the cell.
type running struct {
	*gateway.Gateway
	stop func()
}

func (c *cell) gateway(id topology.GatewayID, alter ...func(*gateway.Config, *gateway.Deps)) *running {
	c.tb.Helper()
	b, err := c.ca.Issue(pki.Identity{Region: "eu", Cell: "eu-1", Role: pki.RoleGateway, Name: string(id)}, []string{"127.0.0.1"})
	c.must(err)
	cfg := gateway.Config{
		ID: id, Cell: "eu-1", Region: "eu", Incarnation: 1, Listen: "127.0.0.1:0", URevEvery: 50 * time.Millisecond,
		OfflineGrace: 50 * time.Millisecond, BeaconGrace: 20 * time.Millisecond, DrainAfter: 2 * time.Second,
	}
	deps := gateway.Deps{
		TLS: b.Server(pki.RoleEdge), Directory: c.cached, Servers: c.servers, Bus: c.bus, Unread: c.unread, Presence: c.there, Log: quiet(),
	}
	for _, f := range alter {
		f(&cfg, &deps)
	}
	g, err := gateway.New(cfg, deps)
	c.must(err)
	return &running{Gateway: g, stop: run(c.tb, string(id), g.Run)}
}

// lossyBus loses what a test wants lost.
type lossyBus struct {
	router.Bus

	mu   sync.Mutex
	drop func(topic string, payload []byte) bool
	ends []*lossyEnd
}

func (b *lossyBus) losing(drop func(topic string, payload []byte) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop = drop
}

func (b *lossyBus) Publish(topic string, payload []byte) {
	b.mu.Lock()
	lost := b.drop != nil && b.drop(topic, payload)
	b.mu.Unlock()
	if !lost {
		b.Bus.Publish(topic, payload)
	}
}

// lossyEnd keeps Lost apart from Deliver, as the contract says.
type lossyEnd struct {
	mu sync.Mutex
	r  router.Receiver
}

func (e *lossyEnd) Deliver(ms []router.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.r.Deliver(ms)
}

func (e *lossyEnd) Lost() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.r.Lost()
}

func (b *lossyBus) Attach(r router.Receiver) router.Attachment {
	e := &lossyEnd{r: r}
	b.mu.Lock()
	b.ends = append(b.ends, e)
	b.mu.Unlock()
	return b.Bus.Attach(e)
}

// tellLost calls Lost on every attachment.
func (b *lossyBus) tellLost() {
	b.mu.Lock()
	ends := append([]*lossyEnd(nil), b.ends...)
	b.mu.Unlock()
	for _, e := range ends {
		e.Lost()
	}
}

// tappedServers counts and alters what gateways ask.
type tappedServers struct {
	channel.Servers

	mu      sync.Mutex
	reads   int
	changes func(after topology.Rev) error            // before Changes
	post    func(ctx context.Context, p channel.Post) // before Post
}

func (s *tappedServers) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error) {
	s.mu.Lock()
	s.reads++
	before := s.changes
	s.mu.Unlock()
	if before != nil {
		if err := before(after); err != nil {
			return nil, err
		}
	}
	return s.Servers.Changes(ctx, ch, after, limit)
}

func (s *tappedServers) Post(ctx context.Context, p channel.Post) (change.Change, error) {
	s.mu.Lock()
	before := s.post
	s.mu.Unlock()
	if before != nil {
		before(ctx, p)
	}
	return s.Servers.Post(ctx, p)
}

func (s *tappedServers) tap(set func(*tappedServers)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(s)
}

func (s *tappedServers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}
