package gateway

import (
	"context"
	"strings"
	"sync"
	"time"

	"parley/cell/router"
	"parley/internal/failpoint"
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
	for i := range topology.Shards {
		g.ask(g.roll.ofShard(topology.Shard(i))...)
	}
	g.spawn(g.compareURevs)
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
		if f := g.roll.byID(topology.ChannelID(id)); f != nil {
			f.typing(topology.UserID(m.Payload))
		}
	default:
		e, err := router.DecodeEvent(m.Payload)
		if err != nil {
			return err
		}
		if f := g.roll.find(e.Channel); f != nil {
			f.event(e)
		}
	}
	return nil
}

// beacons is what was heard of each shard's owner.
type beacons struct {
	mu     sync.Mutex
	shards [topology.Shards]heard
	any    time.Time // of the last beacon of any shard
}

type heard struct {
	token  topology.Token
	number uint64
	at     time.Time // of the last beacon
	asked  time.Time // of the last question since
}

func (b *beacons) start(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.any = now
	for i := range b.shards {
		b.shards[i].at = now
	}
}

// hear takes beacons: a missed number or a new owner means that events may be
// missing, and a changed channel that its head is at least there.
func (g *Gateway) hear(bs []router.Beacon) {
	if failpoint.Mutant(failpoint.NoBeacon) {
		g.beacons.note(bs, g.deps.Now(), func(router.Beacon) {})
		return
	}
	behind := map[*follower]topology.Rev{}
	doubtful := g.beacons.note(bs, g.deps.Now(), func(b router.Beacon) {
		for _, head := range b.Changed {
			if f := g.roll.find(head.Channel); f != nil && f.at() < head.Rev {
				behind[f] = head.Rev
			}
		}
	})
	for _, s := range doubtful {
		g.ask(g.roll.ofShard(s)...)
	}
	if len(behind) == 0 {
		return
	}
	// Their events may be on the way.
	g.spawn(func(ctx context.Context) {
		if wait(ctx, g.cfg.BeaconGrace) {
			for f, rev := range behind {
				f.repair(rev)
			}
		}
	})
}

// note takes beacons, those of present owners to use, and tells which shards may
// have missed something.
func (b *beacons) note(bs []router.Beacon, now time.Time, use func(router.Beacon)) (doubtful []topology.Shard) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range bs {
		if int(x.Shard) >= len(b.shards) || x.Token < b.shards[x.Shard].token {
			continue
		}
		h := &b.shards[x.Shard]
		if x.Token > h.token || x.Number != h.number+1 {
			doubtful = append(doubtful, x.Shard)
		}
		*h = heard{token: x.Token, number: x.Number, at: now}
		b.any = now
		use(x)
	}
	return doubtful
}

// askSilentShards asks for the heads of shards that have no beacons: of each that is
// silent for SilenceMax, and of all when nothing at all has been heard for
// RouterSilence, for then it is the router that is away. While the silence
// lasts it asks again every PollEvery.
func (g *Gateway) askSilentShards(now time.Time) {
	for _, s := range g.beacons.silent(now, g.cfg) {
		g.ask(g.roll.ofShard(s)...)
	}
}

// silent tells which shards are to be asked now.
func (b *beacons) silent(now time.Time, cfg Config) (out []topology.Shard) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := now.Sub(b.any) > cfg.RouterSilence
	for i := range b.shards {
		h := &b.shards[i]
		quiet := all || now.Sub(h.at) > cfg.SilenceMax
		// Ticks come a little early or late.
		if quiet && now.Sub(h.asked) > cfg.PollEvery-tickEvery/2 {
			h.asked = now
			out = append(out, topology.Shard(i))
		}
	}
	return out
}
