//go:build engines

package directory_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/pebbledb"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

// counted counts the lists that a channel server asked for.
type counted struct {
	channel.Directory

	lists atomic.Int64
}

func (c *counted) Members(ctx context.Context, ref topology.ChannelRef, most int) ([]topology.UserID, bool, error) {
	defer c.lists.Add(1)
	return c.Directory.Members(ctx, ref, most)
}

// A process of channel servers only, and its Postgres gone: who was never seen there
// posts, and who was taken out a moment before does not.
func TestPostgres_ChannelServerGoesOnWithoutIt(t *testing.T) {
	s, elsewhere := peopled(t)
	d := s.open(t)
	dir := &counted{Directory: directory.ForChannels(directory.NewCache(d, directory.CacheConfig{}).Fresh())}
	bus := router.NewLocal(router.LocalConfig{})
	cluster := serving(t, dir, bus)
	r := roster.New(roster.Config{}, elsewhere, cluster, bus, time.Now, slog.New(slog.DiscardHandler))
	refs := make([]topology.ChannelRef, 2)
	for i, id := range []topology.ChannelID{"C2", "C3"} {
		refs[i] = topology.ChannelRef{Place: place, Channel: id}
		if _, err := r.Create(t.Context(), place, directory.Channel{ID: id, Name: "n" + string(id), CreatedBy: "U1"}, []topology.UserID{"U1", "U2"}); err != nil {
			t.Fatal(err)
		}
	}
	post := func(u topology.UserID) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := cluster.Post(ctx, channel.Post{Channel: refs[0], Author: u, Text: "hello"})
		return err
	}
	// As when the sockets of members open: rolls come one by one, in this order.
	for i := range refs {
		if _, err := cluster.Heads(t.Context(), refs[i:i+1]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the roll is there", func() bool { return dir.lists.Load() > int64(i) })
	}
	s.proxy.Stop()
	eventually(t, "the outage is known", d.Away)
	for _, u := range []topology.UserID{"U2", "U1"} {
		within(t, time.Second, "a post", func() {
			if err := post(u); err != nil {
				t.Errorf("%s posts without Postgres: %v", u, err)
			}
		})
	}
	if err := post("U3"); !isAway(err) {
		t.Errorf("a stranger posts without Postgres: %v", err)
	}
	// Another process still has it, and takes somebody out: the log tells.
	if _, err := r.Remove(t.Context(), place, "C2", "U2", "U1"); err != nil {
		t.Fatal(err)
	}
	if err := post("U2"); !problem.Is(err, problem.Denied) {
		t.Errorf("who was taken out posts: %v", err)
	}
}

// serving runs a channel server on embedded stores until the test's end.
func serving(t *testing.T, dir channel.Directory, bus router.Bus) *channel.Cluster {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	db, err := pebbledb.Open(pebbledb.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cluster := channel.NewCluster(channel.ClusterConfig{Cell: "eu-1", Logger: quiet})
	cfg := channel.Default()
	cfg.ID, cfg.Cell = "cs-1", "eu-1"
	server, err := channel.New(cfg, channel.Deps{
		Log: db.Log(), History: db.History(), Events: db.Events(), Bus: bus, Directory: dir, Peers: cluster, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	<-ready
	return cluster
}
