package kafka

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// beats is how many signs of life fit into a session: two may get lost.
	beats = 4
	// rebalanceMax is how long members have to let go of what others shall have: far
	// above what a handler needs to stop.
	rebalanceMax = 30 * time.Second
	// leaveMax bounds a member's leaving; brokers that are away find out by themselves.
	leaveMax = 5 * time.Second
)

// Assign implements eventlog.Assigner. The member fetches nothing: its partitions
// are read like any others. Cooperative: who keeps a partition works on while others
// are handed over.
func (l *eventLog) Assign(ctx context.Context, name string, m eventlog.Member) error {
	g, err := l.group(name)
	if err != nil {
		return err
	}
	opts, err := l.db.cfg.options(l.db.log)
	if err != nil {
		return err
	}
	session := l.db.cfg.SessionMax
	client, err := kgo.NewClient(append(opts,
		kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(l.topic.name), kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(), kgo.SessionTimeout(session), kgo.HeartbeatInterval(session/beats), kgo.RebalanceTimeout(rebalanceMax),
		kgo.OnPartitionsAssigned(func(_ context.Context, c *kgo.Client, ps map[string][]int32) {
			c.PauseFetchTopics(l.topic.name)
			m.Gain(g.gain(ps[l.topic.name]))
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) {
			shards := shardsOf(ps[l.topic.name])
			m.Release(shards)
			g.drop(shards)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) {
			shards := shardsOf(ps[l.topic.name])
			g.drop(shards)
			m.Lose(shards)
		}),
	)...)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "the event log's client can't be made")
	}
	client.PauseFetchTopics(l.topic.name)
	defer client.Close()
	if !g.join(client) {
		return problem.New(problem.Internal, "this process is a member of group %s already", name)
	}
	defer g.left()
	l.attend(ctx, client, name)
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveMax)
	defer cancel()
	if err := client.LeaveGroupContext(leaving); err != nil {
		l.db.log.Warn("left a group of workers without telling; others take over later", "group", name, "err", err)
	}
	return nil
}

// attend takes what the client has to tell, until ctx ends. Nothing is fetched, so
// that is only that it fell out of the group; it comes back by itself.
func (l *eventLog) attend(ctx context.Context, client *kgo.Client, name string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.db.ctx, cancel)()
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachError(func(_ string, _ int32, err error) {
			if ctx.Err() == nil {
				l.db.log.Warn("fell out of a group of workers; joining again", "group", name, "err", err)
			}
		})
	}
}

func shardsOf(ps []int32) []topology.Shard {
	out := make([]topology.Shard, 0, len(ps))
	for _, p := range ps {
		if p >= 0 && p < topology.Shards {
			out = append(out, topology.Shard(p))
		}
	}
	slices.Sort(out)
	return out
}

// join makes a client speak for the group; false if another one does.
func (g *group) join(client *kgo.Client) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.member != nil {
		return false
	}
	g.member, g.owned = client, map[topology.Shard]bool{}
	return true
}

func (g *group) left() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.member, g.owned = nil, nil
}

func (g *group) gain(ps []int32) []topology.Shard {
	shards := shardsOf(ps)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range shards {
		g.owned[p] = true
	}
	return shards
}

func (g *group) drop(ps []topology.Shard) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range ps {
		delete(g.owned, p)
	}
}
