package channel_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitMax is how long a test waits for what must come.
const waitMax = 20 * time.Second

// cell is one cell's stores and channel servers.
type cell struct {
	t       testing.TB
	dir     *people
	clock   *clock
	log     msglog.Store
	history *heldHistory
	events  *heldEvents
	bus     router.Bus
	cluster *channel.Cluster
}

func newCell(tb testing.TB) *cell {
	tb.Helper()
	clock := newClock()
	db, err := pebbledb.Open(pebbledb.Config{Dir: tb.TempDir(), Now: clock.now}) // what is old is old by one clock
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &cell{
		t: tb, dir: newPeople(), clock: clock,
		log: db.Log(), history: &heldHistory{Store: db.History()}, events: &heldEvents{Log: db.Events()}, bus: router.NewLocal(router.LocalConfig{}),
		cluster: channel.NewCluster(channel.ClusterConfig{Cell: "eu-1", Logger: quiet()}),
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// running is one channel server of a cell.
type running struct {
	*channel.Server
	kill func() // ends Run and waits for it
}

// start runs a server; change may alter what it works on.
func (c *cell) start(id topology.ServerID, alter ...func(*channel.Config, *channel.Deps)) *running {
	c.t.Helper()
	cfg := channel.Default()
	cfg.ID, cfg.Cell = id, "eu-1"
	cfg.OwnershipEvery, cfg.BeaconEvery = 20*time.Millisecond, 20*time.Millisecond
	deps := channel.Deps{
		Log: c.log, History: c.history, Events: c.events, Bus: c.bus, Directory: c.dir, Peers: c.cluster,
		Now: c.clock.now, Logger: quiet(),
	}
	for _, f := range alter {
		f(&cfg, &deps)
	}
	s, err := channel.New(cfg, deps)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	var once sync.Once
	kill := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				c.t.Errorf("server %s: %v", id, err)
			}
		})
	}
	c.t.Cleanup(kill)
	select {
	case <-ready:
	case <-time.After(waitMax):
		c.t.Fatalf("server %s did not get ready", id)
	}
	return &running{Server: s, kill: kill}
}

// eventually waits for a condition.
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

func (c *cell) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	c.t.Cleanup(cancel)
	return ctx
}

var place = topology.Place{Workspace: "W1", Generation: 1}

// channel makes a channel with members and its creation in the log.
func (c *cell) channel(n int, us ...topology.UserID) topology.ChannelRef {
	c.t.Helper()
	ref := topology.ChannelRef{Place: place, Channel: topology.ChannelID(fmt.Sprintf("C%d", n))}
	c.dir.put(ref, channel.Info{Number: uint64(n)}, us...)
	c.create(ref, us...)
	return ref
}

func (c *cell) create(ref topology.ChannelRef, us ...topology.UserID) {
	c.t.Helper()
	_, err := c.cluster.Member(c.ctx(), channel.Member{Channel: ref, Kind: change.Created, Author: "U1", Subjects: us, Key: "create"})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cell) post(ref topology.ChannelRef, u topology.UserID, text, key string) change.Change {
	c.t.Helper()
	m, err := c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: u, Text: text, Key: key})
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *cell) reply(ref topology.ChannelRef, root topology.MessageID, text string) change.Change {
	c.t.Helper()
	m, err := c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: text, Root: root})
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// log is everything in a channel, as catch-up gives it, checked for invariant 2:
// dense revs and seqs, rising times and ids.
func (c *cell) logOf(ref topology.ChannelRef) []channel.Event {
	c.t.Helper()
	var all []channel.Event
	for {
		es, err := c.cluster.Changes(c.ctx(), ref, topology.Rev(len(all)), 500)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(es) == 0 {
			break
		}
		all = append(all, es...)
	}
	var seq topology.Seq
	var ts int64
	var id topology.MessageID
	for i, e := range all {
		if e.Rev != topology.Rev(i+1) {
			c.t.Fatalf("%s: rev %d at place %d", ref.Channel, e.Rev, i+1)
		}
		if e.TS <= ts {
			c.t.Fatalf("%s: rev %d is not later than the one before", ref.Channel, e.Rev)
		}
		ts = e.TS
		if e.Kind == change.Message {
			if e.Seq != seq+1 || e.ID <= id {
				c.t.Fatalf("%s: rev %d has seq %d and id %s after seq %d and id %s", ref.Channel, e.Rev, e.Seq, e.ID, seq, id)
			}
			seq, id = e.Seq, e.ID
		}
		if e.Confirmed >= e.Rev {
			c.t.Fatalf("%s: rev %d says that %d was confirmed before it", ref.Channel, e.Rev, e.Confirmed)
		}
		if e.HeadSeq != seq {
			c.t.Fatalf("%s: rev %d says %d messages, not %d", ref.Channel, e.Rev, e.HeadSeq, seq)
		}
	}
	return all
}

func (c *cell) head(ref topology.ChannelRef) channel.Head {
	c.t.Helper()
	hs, err := c.cluster.Heads(c.ctx(), []topology.ChannelRef{ref})
	if err != nil {
		c.t.Fatal(err)
	}
	return hs[0]
}

func (c *cell) follow(chs ...topology.ChannelRef) *listener {
	l := &listener{events: map[topology.ChannelID][]router.Event{}}
	a := c.bus.Attach(l)
	a.Follow(router.BeaconTopic)
	for _, ch := range chs {
		a.Follow(router.ChannelTopic(ch.Channel))
	}
	c.t.Cleanup(a.Close)
	return l
}

// derived waits until everything in a channel is derived and in the event log.
func (c *cell) derived(ref topology.ChannelRef) {
	c.t.Helper()
	head := c.head(ref)
	eventually(c.t, "everything is derived", func() bool {
		m, err := c.history.Mark(c.ctx(), ref)
		return err == nil && m.Applied == head.Rev && m.Emitted == head.Rev
	})
}

func wantKind(t *testing.T, err error, k problem.Kind) {
	t.Helper()
	if !problem.Is(err, k) {
		t.Fatalf("got %v, want kind %s", err, k)
	}
}

var (
	_ history.Store = (*heldHistory)(nil)
	_ eventlog.Log  = (*heldEvents)(nil)
)
