package gateway

import (
	"context"
	"strings"
	"sync"
	"time"

	"parley/cell/router"
	"parley/internal/topology"
)

// receiver is the gateway's place on the bus.
type receiver struct{ g *Gateway }

// Deliver implements router.Receiver.
func (r receiver) Deliver(ms []router.Message) {
	for _, m := range ms {
		if err := r.g.message(m); err != nil {
			r.g.log.Warn("a router message was dropped", "topic", m.Topic, "err", err)
		}
	}
	r.g.flush()
}

// Lost implements router.Receiver: any message may be missing (G3).
func (r receiver) Lost() {
	g := r.g
	g.metrics.lost.Inc()
	g.spawn(func(ctx context.Context) {
		g.askHeads(ctx, func(topology.Shard) bool { return true })
		g.compareURevs(ctx)
	})
}

const channelPrefix, userPrefix, typingSuffix, presencePrefix = "channel:", "user:", ":typing", "presence:"

func (g *Gateway) message(m router.Message) error {
	switch {
	case m.Topic == router.BeaconTopic:
		bs, err := router.DecodeBeacons(m.Payload)
		if err != nil {
			return err
		}
		g.hear(bs)
	case strings.HasPrefix(m.Topic, presencePrefix):
		return g.hearPresence(m.Payload)
	case strings.HasPrefix(m.Topic, userPrefix):
		n, err := router.DecodeNotice(m.Payload)
		if err != nil {
			return err
		}
		for _, u := range g.usersCalled(topology.UserID(m.Topic[len(userPrefix):])) {
			g.notice(u, n)
		}
	case strings.HasSuffix(m.Topic, typingSuffix):
		id := strings.TrimSuffix(m.Topic[len(channelPrefix):], typingSuffix)
		if f := g.follower(topology.ChannelID(id)); f != nil {
			f.typing(topology.UserID(m.Payload))
		}
	default:
		e, err := router.DecodeEvent(m.Payload)
		if err != nil {
			return err
		}
		if f := g.follower(e.Channel.Channel); f != nil && f.ref == e.Channel {
			f.event(e)
		}
	}
	return nil
}

// beacons is what was heard of each shard's owner.
type beacons struct {
	mu     sync.Mutex
	shards [topology.Shards]heard
}

type heard struct {
	token  topology.Token
	number uint64
	at     time.Time // of the last beacon, or of the last question
}

func (b *beacons) start(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.shards {
		b.shards[i].at = now
	}
}

// hear takes beacons: a missed number or a new owner means that events may be
// missing, and a changed channel that its head is at least there.
func (g *Gateway) hear(bs []router.Beacon) {
	now := g.deps.Now()
	doubtful := map[topology.Shard]bool{}
	g.beacons.mu.Lock()
	for _, b := range bs {
		if int(b.Shard) >= len(g.beacons.shards) {
			continue
		}
		h := &g.beacons.shards[b.Shard]
		if b.Token < h.token {
			continue
		}
		if b.Token > h.token || b.Number != h.number+1 {
			doubtful[b.Shard] = true
		}
		*h = heard{token: b.Token, number: b.Number, at: now}
	}
	g.beacons.mu.Unlock()
	for _, b := range bs {
		for _, head := range b.Changed {
			if f := g.follower(head.Channel.Channel); f != nil && f.ref == head.Channel {
				f.repair(head.Rev)
			}
		}
	}
	if len(doubtful) > 0 {
		g.spawn(func(ctx context.Context) { g.askHeads(ctx, func(s topology.Shard) bool { return doubtful[s] }) })
	}
}

// askSilentShards asks for the heads of shards that have no beacons.
func (g *Gateway) askSilentShards(now time.Time) {
	silent := map[topology.Shard]bool{}
	g.beacons.mu.Lock()
	for i := range g.beacons.shards {
		if h := &g.beacons.shards[i]; now.Sub(h.at) > g.cfg.SilenceMax {
			h.at = now
			silent[topology.Shard(i)] = true //nolint:gosec // below Shards
		}
	}
	g.beacons.mu.Unlock()
	if len(silent) > 0 {
		g.spawn(func(ctx context.Context) { g.askHeads(ctx, func(s topology.Shard) bool { return silent[s] }) })
	}
}

// askHeads compares the followers of some shards with the channels' heads, until
// all have answered.
func (g *Gateway) askHeads(ctx context.Context, which func(topology.Shard) bool) {
	var fs []*follower
	g.mu.Lock()
	for _, f := range g.followers {
		if which(f.ref.Shard()) {
			fs = append(fs, f)
		}
	}
	g.mu.Unlock()
	for len(fs) > 0 {
		part := fs[:min(len(fs), headsMax)]
		heads, err := g.heads(ctx, part)
		if err != nil {
			if !g.pause(ctx, "the heads of channels can't be compared; trying again", err) {
				return
			}
			continue
		}
		for i, f := range part {
			f.repair(heads[i].Rev)
		}
		fs = fs[len(part):]
	}
}
