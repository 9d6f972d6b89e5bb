package channel_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

// emitted is what a worker would make of the event log: each rev once, in order.
func (c *cell) emitted(ref topology.ChannelRef) []topology.Rev {
	c.t.Helper()
	var revs []topology.Rev
	var pos eventlog.Position
	for {
		es, next, err := c.events.Read(c.ctx(), ref.Shard(), pos, 100)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(es) == 0 {
			return revs
		}
		pos = next
		for _, e := range es {
			if e.Channel == ref && (len(revs) == 0 || e.Rev > revs[len(revs)-1]) {
				revs = append(revs, e.Rev)
			}
		}
	}
}

func wantRevs(t *testing.T, got []topology.Rev, n int) {
	t.Helper()
	want := make([]topology.Rev, n)
	for i := range want {
		want[i] = topology.Rev(i + 1)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the event log has revs %v, want 1 … %d", got, n)
	}
}

func TestDerive_AnOutageDelaysAndLosesNothing(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.LagMax = 1024 })
	ref := c.channel(1, "U1")
	c.derived(ref)
	c.events.down.Store(true)
	for i := range 10 {
		c.post(ref, "U1", fmt.Sprintf("message %d", i), "")
	}
	eventually(t, "history goes on", func() bool {
		m, err := c.history.Mark(c.ctx(), ref)
		return err == nil && m.Applied == 11 && m.Emitted == 1
	})
	a.kill() // the next owner finds out what was not emitted
	c.start("cs-2")
	c.history.down.Store(true)
	for i := range 10 {
		c.post(ref, "U1", fmt.Sprintf("message %d", i), "")
	}
	c.history.down.Store(false)
	c.events.down.Store(false)
	c.derived(ref)
	wantRevs(t, c.emitted(ref), 21)
}

func TestDerive_TooFarBehindPostsAreRefused(t *testing.T) {
	c := newCell(t)
	c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.LagMax = 1024 })
	ref, im := c.channel(1, "U1"), c.importing(2)
	c.history.down.Store(true)
	if _, err := c.cluster.Import(c.ctx(), channel.Import{Channel: im, Messages: old(c, 0, 2000)}); err != nil {
		t.Fatal(err)
	}
	_, err := c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "x"})
	wantKind(t, err, problem.Unavailable)
	done := make(chan error, 1)
	ctx := c.ctx()
	go func() {
		_, err := c.cluster.Import(ctx, channel.Import{Channel: im, From: 2000, Messages: old(c, 2000, 10)})
		done <- err
	}()
	c.history.down.Store(false)
	if err := <-done; err != nil {
		t.Errorf("the import did not wait: %v", err)
	}
	c.derived(im)
	c.post(ref, "U1", "x", "")
}

func TestDerive_TooMuchInMemoryPostsAreRefused(t *testing.T) {
	c := newCell(t)
	c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.CacheBytes = 1 << 20 })
	ref := c.channel(1, "U1")
	c.history.down.Store(true)
	post := channel.Post{Channel: ref, Author: "U1", Text: strings.Repeat("x", 40_000)}
	n := 0
	var err error
	for ; err == nil && n < 100; n++ {
		_, err = c.cluster.Post(c.ctx(), post)
	}
	wantKind(t, err, problem.Unavailable)
	if n < 40 || n > 60 { // twice 40 KB each: text and event
		t.Errorf("refused after %d posts", n)
	}
	c.history.down.Store(false)
	c.derived(ref)
	for range 100 { // what was counted is counted off
		if _, err := c.cluster.Post(c.ctx(), post); err != nil {
			t.Fatal(err)
		}
		c.derived(ref)
	}
}

// applied waits until history has all of a channel.
func (c *cell) applied(ref topology.ChannelRef) {
	c.t.Helper()
	head := c.head(ref)
	eventually(c.t, "history has all", func() bool {
		m, err := c.history.Mark(c.ctx(), ref)
		return err == nil && m.Applied == head.Rev
	})
}

// TestDerive_WithoutTheEventLogPostsGoOn: its outage costs neither posts nor memory,
// however long. What it lacks is read from the message log afterwards, also by
// another owner.
func TestDerive_WithoutTheEventLogPostsGoOn(t *testing.T) {
	c := newCell(t)
	small := func(cfg *channel.Config, _ *channel.Deps) {
		cfg.LagMax, cfg.CacheBytes, cfg.ChannelsMax = 1024, 1<<20, 64
	}
	a := c.start("cs-1", small)
	ref, im := c.channel(1, "U1"), c.importing(2)
	c.events.down.Store(true)
	for from := 0; from < 6000; from += 2000 {
		if _, err := c.cluster.Import(c.ctx(), channel.Import{Channel: im, From: uint64(from), Messages: old(c, from, 2000)}); err != nil {
			t.Fatal(err)
		}
		c.applied(im)
	}
	text := strings.Repeat("x", 40_000)
	for range 120 { // four times what may be in memory
		c.post(ref, "U1", text, "")
		c.applied(ref)
	}
	a.kill()
	c.start("cs-2", small)
	for range 30 {
		c.post(ref, "U1", text, "")
		c.applied(ref)
	}
	if m, err := c.history.Mark(c.ctx(), ref); err != nil || m.Emitted > 1 {
		t.Errorf("emitted %d, %v: the event log was not away", m.Emitted, err)
	}
	c.events.down.Store(false)
	c.derived(ref)
	c.derived(im)
	wantRevs(t, c.emitted(ref), 151)
	wantRevs(t, c.emitted(im), int(c.head(im).Rev))
}

// TestDerive_ManyChannelsWithoutTheEventLog: channels whose events wait are closed
// like others, and opened again, and each event comes in order.
func TestDerive_ManyChannelsWithoutTheEventLog(t *testing.T) {
	c := newCell(t)
	c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.ChannelsMax = 64 })
	c.events.down.Store(true)
	refs := c.channels(200)
	for round := range 2 {
		for _, ref := range refs {
			c.post(ref, "U1", fmt.Sprintf("message %d", round), "")
		}
	}
	c.events.down.Store(false)
	for _, ref := range refs {
		c.derived(ref)
		wantRevs(t, c.emitted(ref), 3)
	}
}

func TestDerive_IdleChannelsAreCleanAndClosed(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1", func(cfg *channel.Config, _ *channel.Deps) { cfg.ChannelsMax = 64 })
	refs := c.channels(200)
	for _, ref := range refs {
		c.derived(ref)
	}
	eventually(t, "nothing is dirty", func() bool {
		for s := range topology.Shard(topology.Shards) {
			if chs, err := c.log.Dirty(c.ctx(), s); err != nil || len(chs) > 0 {
				return false
			}
		}
		return true
	})
	root := c.post(refs[0], "U1", "still there", "key")
	if root.Rev != 2 || c.head(refs[1]).Rev != 1 {
		t.Errorf("rev %d, head %+v", root.Rev, c.head(refs[1]))
	}
	if owned(a, refs) != 200 {
		t.Error("heads of closed channels are missing")
	}
}

func TestBeacons_TellWhatLiveEventsMayHaveLost(t *testing.T) {
	c := newCell(t)
	l := c.follow()
	a := c.start("cs-1")
	ref := c.channel(1, "U1")
	c.post(ref, "U1", "x", "")
	shard := ref.Shard()
	of := func() []router.Beacon {
		var bs []router.Beacon
		for _, b := range l.told() {
			if b.Shard == shard {
				bs = append(bs, b)
			}
		}
		return bs
	}
	tells := func(rev topology.Rev, token topology.Token) func() bool {
		return func() bool {
			return slices.ContainsFunc(of(), func(b router.Beacon) bool {
				return b.Token == token && slices.Contains(b.Changed, router.Head{Channel: ref, Rev: rev, Seq: topology.Seq(rev - 1)})
			})
		}
	}
	eventually(t, "the post is told", tells(2, 1))
	c.history.down.Store(true)
	c.post(ref, "U1", "y", "")
	a.kill()
	b := c.start("cs-2")
	eventually(t, "the new owner tells of what it recovered", tells(3, 2))
	c.history.down.Store(false)
	eventually(t, "beacons go on when nothing changes", func() bool { return len(of()) > 20 })
	b.kill()
	seen := map[topology.Token]uint64{}
	for _, b := range of() {
		if b.Number != seen[b.Token]+1 {
			t.Fatalf("beacon %d of token %d follows %d", b.Number, b.Token, seen[b.Token])
		}
		seen[b.Token] = b.Number
	}
}
