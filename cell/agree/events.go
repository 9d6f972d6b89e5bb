package agree

import (
	"context"

	"parley/cell/eventlog"
	"parley/internal/topology"
)

// reach is how far a channel's events go.
type reach struct{ last topology.Rev }

func (r *reach) at() topology.Rev {
	if r == nil {
		return 0
	}
	return r.last
}

// readEvents reads the whole event log: per channel revs rise by one. A feeder that
// crashed appends again, so what was there may come again.
func (c *comparison) readEvents(ctx context.Context) error {
	for p := range topology.Shard(topology.Shards) {
		for at := eventlog.Position(0); ; {
			es, last, err := c.Events.Read(ctx, p, at, page)
			if err != nil {
				return err
			}
			if len(es) == 0 {
				break
			}
			c.expired[p] = c.expired[p] || at == 0 && last > eventlog.Position(len(es))
			at = last
			for _, e := range es {
				c.event(p, e)
			}
		}
	}
	return nil
}

// mayBeGone says whether retention may have taken a channel's events, all of them:
// some of the partition are gone, and it is as long ago that the channel changed.
func (c *comparison) mayBeGone(ref topology.ChannelRef, l *logged) bool {
	return c.events[ref] == nil && c.expired[ref.Shard()] && l.last < c.began.Add(-eventlog.Retention).UnixMicro()
}

func (c *comparison) event(p topology.Shard, e eventlog.Event) {
	c.report.Events++
	if e.Channel.Shard() != p {
		c.report.add(InEvents, e.Channel.Channel, "an event of the channel is in partition %d, not %d", p, e.Channel.Shard())
	}
	r := c.events[e.Channel]
	switch {
	case r == nil: // the log keeps a week: the first may have any rev
		c.events[e.Channel] = &reach{e.Rev}
	case e.Rev == r.last+1:
		r.last = e.Rev
	case e.Rev > r.last:
		c.report.add(InEvents, e.Channel.Channel, "the event of rev %d follows that of rev %d", e.Rev, r.last)
		r.last = e.Rev
	}
}
