package agree

import (
	"context"

	"parley/cell/search"
	"parley/internal/topology"
)

// compareIndex finds all that the index has of a channel: the messages and replies of
// its log, each once, and those older than that.
func (c *comparison) compareIndex(ctx context.Context, l *logged) error {
	missing := map[topology.MessageID]struct{}{}
	for _, d := range l.top {
		missing[d.id] = struct{}{}
	}
	for _, thread := range l.replies {
		for _, d := range thread {
			missing[d.id] = struct{}{}
		}
	}
	q := search.Query{Place: l.ref.Place, Channels: []topology.ChannelID{l.ref.Channel}, Everything: true, Limit: page}
	for {
		hits, err := c.Index.Find(ctx, q)
		if err != nil {
			return err
		}
		if len(hits) == 0 {
			break
		}
		for _, h := range hits {
			c.report.Documents++
			if _, ok := missing[h.ID]; !ok && l.before == 0 {
				c.report.add(InIndex, l.ref.Channel, "message %s is found, and is not in the log, or twice in the index", h.ID)
			}
			delete(missing, h.ID)
		}
		q.After = &hits[len(hits)-1].Point
	}
	for id := range missing {
		c.report.add(InIndex, l.ref.Channel, "message %s is not found", id)
	}
	return nil
}
