package channel

import (
	"context"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

var _ Servers = (*Cluster)(nil)

// Post implements Servers. With a key, an unknown outcome is cleared up by
// posting again: whoever owns the channel then knows whether it is in.
func (c *Cluster) Post(ctx context.Context, p Post) (change.Change, error) {
	return ask(ctx, c, p.Channel, p.Key != "", func(ctx context.Context, s Peer) (change.Change, error) { return s.Post(ctx, p) })
}

// Member implements Servers.
func (c *Cluster) Member(ctx context.Context, m Member) (change.Change, error) {
	return ask(ctx, c, m.Channel, m.Key != "", func(ctx context.Context, s Peer) (change.Change, error) { return s.Member(ctx, m) })
}

// Import implements Servers. After an unknown outcome the caller must look how
// many messages are in: to repeat it here would turn success into a Conflict.
func (c *Cluster) Import(ctx context.Context, im Import) (uint64, error) {
	return ask(ctx, c, im.Channel, false, func(ctx context.Context, s Peer) (uint64, error) { return s.Import(ctx, im) })
}

// Heads implements Servers.
func (c *Cluster) Heads(ctx context.Context, chs []topology.ChannelRef) ([]Head, error) {
	out := make([]Head, len(chs))
	left := make([]int, 0, len(chs)) // indexes still to be asked for
	for i := range chs {
		left = append(left, i)
	}
	for len(left) > 0 {
		byOwner := map[Peer][]int{}
		tokens := map[topology.Shard]topology.Token{}
		for _, i := range left {
			s, t, err := c.await(ctx, chs[i].Shard())
			if err != nil {
				return nil, err
			}
			byOwner[s] = append(byOwner[s], i)
			tokens[chs[i].Shard()] = t
		}
		left = left[:0]
		for s, at := range byOwner {
			missed, err := c.headsOf(ctx, s, tokens[chs[at[0]].Shard()], chs, at, out)
			if err != nil {
				return nil, err
			}
			for _, i := range missed {
				c.left(chs[i].Shard(), tokens[chs[i].Shard()])
			}
			left = append(left, missed...)
		}
	}
	return out, nil
}

// headsOf asks one server, who holds the first of the channels at a token, and
// returns the indexes that it does not own.
func (c *Cluster) headsOf(ctx context.Context, s Peer, t topology.Token, chs []topology.ChannelRef, at []int, out []Head) (missed []int, err error) {
	refs := make([]topology.ChannelRef, len(at))
	for i, j := range at {
		refs[i] = chs[j]
	}
	under, end := c.begin(ctx, refs[0].Shard(), t)
	heads, err := s.Heads(under, refs)
	passed := end() && ctx.Err() == nil
	if problem.Is(err, problem.NotOwner) || (passed && err != nil) {
		return at, nil //nolint:nilerr // another one is to be asked
	}
	if err != nil {
		return nil, err
	}
	for i, j := range at {
		if heads[i].Owned {
			out[j] = heads[i].Head
		} else {
			missed = append(missed, j)
		}
	}
	return missed, nil
}

// Changes implements Servers.
func (c *Cluster) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]Event, error) {
	return ask(ctx, c, ch, true, func(ctx context.Context, s Peer) ([]Event, error) { return s.Changes(ctx, ch, after, limit) })
}

// Page implements Servers.
func (c *Cluster) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	return ask(ctx, c, ch, true, func(ctx context.Context, s Peer) ([]history.Message, error) { return s.Page(ctx, ch, q) })
}

// Thread implements Servers.
func (c *Cluster) Thread(ctx context.Context, ch topology.ChannelRef, root topology.MessageID, after topology.Seq, limit int) ([]history.Message, error) {
	return ask(ctx, c, ch, true, func(ctx context.Context, s Peer) ([]history.Message, error) {
		return s.Thread(ctx, ch, root, after, limit)
	})
}

// Get implements Servers.
func (c *Cluster) Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error) {
	return ask(ctx, c, ch, true, func(ctx context.Context, s Peer) (history.Message, error) { return s.Get(ctx, ch, id) })
}
