package channel_test

import (
	"context"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/internal/problem"
	"parley/internal/topology"
)

// elsewhere is a channel server of another process: it answers posts with its id.
type elsewhere struct {
	channel.Peer // what nobody asks for here
	id           topology.ServerID
	hangs        bool
}

func (e *elsewhere) ID() topology.ServerID { return e.id }

func (e *elsewhere) Wake() {}

func (e *elsewhere) Ping(context.Context) (channel.Status, error) { return channel.Status{}, nil }

func (e *elsewhere) Post(ctx context.Context, _ channel.Post) (change.Change, error) {
	if e.hangs {
		<-ctx.Done()
		return change.Change{}, problem.Wrap(ctx.Err(), problem.Unknown, "cut")
	}
	return change.Change{Author: topology.UserID(e.id)}, nil
}

type held = map[topology.Shard]topology.Token

// asked is who answers a post to a channel; "" = nobody, for a while.
func asked(t *testing.T, c *channel.Cluster, ref topology.ChannelRef) topology.UserID {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	m, err := c.Post(ctx, channel.Post{Channel: ref, Key: "k"})
	if err != nil {
		wantKind(t, err, problem.Unavailable)
	}
	return m.Author
}

func TestCluster_FollowsWhatPeersHold(t *testing.T) {
	c := channel.NewCluster(channel.ClusterConfig{Cell: "eu-1"})
	ref := topology.ChannelRef{Place: place, Channel: "C1"}
	s := ref.Shard()
	a, b, again := &elsewhere{id: "a"}, &elsewhere{id: "b"}, &elsewhere{id: "a"}
	if !c.Join(a) || !c.Join(b) {
		t.Fatal("a peer may not join")
	}
	for _, step := range []struct {
		what string
		do   func()
		want topology.UserID
	}{
		{"nobody holds it", func() {}, ""},
		{"one does", func() { c.Holds(a, held{s: 5}) }, "a"},
		{"an older word of another", func() { c.Holds(b, held{s: 4}) }, "a"},
		{"out of reach", func() { c.Holds(a, nil) }, ""},
		{"in reach again", func() { c.Holds(a, held{s: 5}) }, "a"},
		{"taken over", func() { c.Holds(b, held{s: 6}) }, "b"},
		{"the old one does not know yet", func() { c.Holds(a, held{s: 5}) }, "b"},
		{"handed over", func() { c.Holds(b, nil); c.Holds(a, held{s: 7}) }, "a"},
		{"another of its name", func() { c.Join(again) }, ""},
		{"the first one's last word", func() { c.Holds(a, held{s: 8}); c.Quit(a) }, ""},
		{"the new one holds it", func() { c.Holds(again, held{s: 7}) }, "a"},
		{"it quits", func() { c.Quit(again) }, ""},
	} {
		step.do()
		if got := asked(t, c, ref); got != step.want {
			t.Errorf("%s: %q was asked, not %q", step.what, got, step.want)
		}
	}
}

// A call under way at a process that stands still goes to who took the shard.
func TestCluster_PassesOverAPeerThatHangs(t *testing.T) {
	c := newCell(t)
	ref := topology.ChannelRef{Place: place, Channel: "C1"}
	a, b := &elsewhere{id: "a", hangs: true}, &elsewhere{id: "b"}
	c.cluster.Join(a)
	c.cluster.Join(b)
	c.cluster.Holds(a, held{ref.Shard(): 1})
	done := make(chan change.Change, 1)
	ctx := c.ctx()
	go func() {
		m, err := c.cluster.Post(ctx, channel.Post{Channel: ref, Key: "k"})
		if err != nil {
			t.Error(err)
		}
		done <- m
	}()
	c.cluster.Holds(b, held{ref.Shard(): 2})
	if m := <-done; m.Author != "b" {
		t.Errorf("%q answered", m.Author)
	}
}

func TestCluster_HoldingsAreThisProcesss(t *testing.T) {
	c := newCell(t)
	a := &elsewhere{id: "a"}
	c.cluster.Join(a)
	c.cluster.Holds(a, nil)
	s := c.start("cs-1", func(_ *channel.Config, d *channel.Deps) {
		d.Live = func() []topology.ServerID { return []topology.ServerID{"cs-1"} }
	})
	if c.cluster.Join(&elsewhere{id: "cs-1"}) {
		t.Error("another process's server took this one's name")
	}
	eventually(t, "it holds all shards", func() bool {
		h, _ := c.cluster.Holdings()
		return len(h) == 1 && len(h["cs-1"]) == topology.Shards
	})
	_, changed := c.cluster.Holdings()
	s.kill()
	<-changed
	eventually(t, "it holds none", func() bool {
		h, _ := c.cluster.Holdings()
		return len(h) == 1 && len(h["cs-1"]) == 0
	})
	if c.cluster.Own("cs-1") != s.Server || c.cluster.Own("a") != nil {
		t.Error("Own confuses the processes")
	}
}
