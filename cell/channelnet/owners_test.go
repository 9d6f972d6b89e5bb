package channelnet_test

import (
	"context"
	"testing"
	"time"

	"parley/internal/topology"
	"parley/regions"
)

// three is a cell of three processes: a and b have channel servers, from outside
// of which load posts.
func three(t *testing.T) (c *cell, a, b, from *process, refs []topology.ChannelRef) {
	t.Helper()
	c = newCell(t)
	a, from = c.start("a", "cs-a"), c.start("c")
	refs = from.channels(24)
	b = c.start("b", "cs-b")
	shared(t, refs, a, b)
	return c, a, b, from, refs
}

func shared(t *testing.T, refs []topology.ChannelRef, a, b *process) {
	t.Helper()
	eventually(t, "both processes have channels", func() bool {
		x, y := a.owned(refs), b.owned(refs)
		return x > 0 && y > 0 && x+y == len(refs)
	})
}

// reach asks the owner of each channel.
func (p *process) reach(refs []topology.ChannelRef) {
	p.c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	for _, ref := range refs {
		_, err := p.cluster.Changes(ctx, ref, 0, 1)
		must(p.c.tb, err)
	}
}

// within fails if a post took longer than RELIABILITY allows at most.
func (l *load) within(what string, limit time.Duration) {
	l.p.c.tb.Helper()
	worst := l.worst()
	l.p.c.tb.Logf("%s: the longest post took %s", what, worst.Round(time.Millisecond))
	if limit *= patience; worst > limit {
		l.p.c.tb.Errorf("%s: a post took %s, more than %s", what, worst, limit)
	}
}

func TestOwners_HandOverBetweenProcesses(t *testing.T) {
	c, a, b, from, refs := three(t)
	l := from.load(refs, 16)
	l.more(200)
	l.worst()
	a.stop()
	l.more(200)
	l.within("SIGTERM", time.Second)
	if n := b.owned(refs); n != len(refs) {
		t.Errorf("the other process has %d of %d channels", n, len(refs))
	}
	a = c.start("a2", "cs-a")
	shared(t, refs, a, b)
	l.more(200)
	l.within("a process joins", time.Second)
	l.end()
}

func TestOwners_ProcessKilledUnderLoad(t *testing.T) {
	c, _, b, from, refs := three(t)
	l := from.load(refs, 16)
	for i := range 3 {
		l.more(200)
		l.worst()
		b.crash()
		l.more(200)
		l.within("kill -9", 4*time.Second)
		b = c.start("b"+string(rune('1'+i)), "cs-b")
		eventually(t, "the new process has channels", func() bool { return b.owned(refs) > 0 })
	}
	l.more(200)
	l.end()
}

// A process stands still, another takes its shards, and it goes on: the store
// finds it out, and those who ask it are told by the other.
func TestOwners_PausedProcessIsPassedOver(t *testing.T) {
	_, a, b, from, refs := three(t)
	l := from.load(refs, 16)
	l.more(200)
	l.worst()
	a.pause(true)
	eventually(t, "the other process has all", func() bool { return b.owned(refs) == len(refs) })
	l.more(200)
	l.within("SIGSTOP", 4*time.Second)
	a.pause(false)
	shared(t, refs, a, b)
	l.more(200)
	l.within("SIGCONT", 4*time.Second)
	l.end()
}

// Connections are cut again and again: nobody loses a shard by that, since who
// answers the next attempt lives. Each time all are in reach of each other again: an
// attempt that is cut, too, is not answered.
func TestOwners_CutConnectionsCostNoShard(t *testing.T) {
	_, a, b, from, refs := three(t)
	l := from.load(refs, 16)
	x, y := a.owned(refs), b.owned(refs)
	for range 5 {
		for _, cut := range []*process{a, b} {
			l.more(50)
			cut.relay.reset()
			for _, p := range []*process{a, b, from} {
				p.reach(refs)
			}
		}
	}
	l.within("resets", 2*time.Second)
	if a.owned(refs) != x || b.owned(refs) != y {
		t.Errorf("%d and %d channels became %d and %d", x, y, a.owned(refs), b.owned(refs))
	}
	l.end()
}

// The registry forgets a process that answers: it is still asked.
func TestPeers_SilenceInTheRegistryIsNotDeath(t *testing.T) {
	c, _, _, from, refs := three(t)
	l := from.load(refs, 4)
	l.more(50)
	c.register(func(m map[topology.ServerID]regions.Server) { clear(m) })
	l.more(200)
	l.within("without a registry", 2*time.Second)
	l.end()
}
