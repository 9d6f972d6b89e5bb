package channelnet

import (
	"context"
	"sync/atomic"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/topology"
)

var _ channel.Peer = (*peer)(nil)

// peer is a channel server of another process.
type peer struct {
	id   topology.ServerID
	p    *process
	woke atomic.Int64 // ns since 1970: the last reminder
}

// ID implements channel.Peer.
func (s *peer) ID() topology.ServerID { return s.id }

// ask sends a call on the stream for what is small, or for what is large.
func (s *peer) ask(ctx context.Context, call *cellv1.Call, large, changes bool) (*cellv1.Answer, error) {
	c := s.p.current()
	if c == nil {
		return nil, errAway(errDown)
	}
	call.Server = []byte(s.id)
	l := c.small
	if large {
		l = c.large
	}
	s.p.of.metrics.calls.Inc()
	return l.ask(ctx, call, changes)
}

// Ping implements channel.Peer. A connection that broke is tried again first: a
// process is not dead because a connection was cut.
func (s *peer) Ping(ctx context.Context) (channel.Status, error) {
	if _, err := s.p.reach(ctx); err != nil {
		return channel.Status{}, err
	}
	a, err := s.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Ping{Ping: &cellv1.Ping{}}}, false, false)
	return channel.Status{Draining: a.GetDraining()}, err
}

// Wake implements channel.Peer.
func (s *peer) Wake() {
	now := time.Now().UnixNano()
	if last := s.woke.Load(); now-last < int64(wakeGap) || !s.woke.CompareAndSwap(last, now) {
		return
	}
	if c := s.p.current(); c != nil {
		c.small.remind(string(s.id))
	} else {
		s.p.dial()
	}
}

// Free implements channel.Peer.
func (s *peer) Free(ctx context.Context, shards map[topology.Shard]topology.Token) {
	ctx, cancel := context.WithTimeout(ctx, freeMax)
	defer cancel()
	ids, ts := tokens(shards)
	if _, err := s.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Free{Free: &cellv1.Free{Shards: ids, Tokens: ts}}}, false, true); err != nil {
		s.p.of.log.Debug("a hand-over was not told; the grace period ends it", "server", s.id, "err", err)
	}
}

// Post implements channel.Peer.
func (s *peer) Post(ctx context.Context, p channel.Post) (change.Change, error) {
	return changed(s.ask(ctx, askPost(p), false, true))
}

// Member implements channel.Peer.
func (s *peer) Member(ctx context.Context, m channel.Member) (change.Change, error) {
	return changed(s.ask(ctx, askMember(m), false, true))
}

func changed(a *cellv1.Answer, err error) (change.Change, error) {
	if err != nil {
		return change.Change{}, err
	}
	c, err := change.Decode(a.GetChange())
	if err != nil { // it is done, whatever it is
		return change.Change{}, errLeft(true, err)
	}
	return c, nil
}

// Import implements channel.Peer.
func (s *peer) Import(ctx context.Context, im channel.Import) (uint64, error) {
	a, err := s.ask(ctx, askImport(im), true, true)
	return a.GetCount(), err
}

// Heads implements channel.Peer.
func (s *peer) Heads(ctx context.Context, chs []topology.ChannelRef) ([]channel.OwnedHead, error) {
	a, err := s.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Heads{Heads: &cellv1.Heads{Channels: channelsOf(chs)}}}, false, false)
	if err != nil {
		return nil, err
	}
	return headsOf(a, len(chs))
}

// Changes implements channel.Peer.
func (s *peer) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error) {
	a, err := s.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Changes{Changes: &cellv1.Changes{
		Channel: channelOf(ch), After: uint64(after), Limit: limitOf(limit),
	}}}, true, false)
	if err != nil {
		return nil, err
	}
	return eventsOf(a)
}

// Page implements channel.Peer.
func (s *peer) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	a, err := s.ask(ctx, askPage(ch, q), true, false)
	if err != nil {
		return nil, err
	}
	return messagesOf(a)
}

// Thread implements channel.Peer.
func (s *peer) Thread(ctx context.Context, ch topology.ChannelRef, root topology.MessageID, after topology.Seq, limit int) ([]history.Message, error) {
	a, err := s.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Thread{Thread: &cellv1.Thread{
		Channel: channelOf(ch), Root: []byte(root), After: uint64(after), Limit: limitOf(limit),
	}}}, true, false)
	if err != nil {
		return nil, err
	}
	return messagesOf(a)
}

// Get implements channel.Peer.
func (s *peer) Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error) {
	a, err := s.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Get{Get: &cellv1.Get{Channel: channelOf(ch), Message: []byte(id)}}}, true, false)
	if err != nil {
		return history.Message{}, err
	}
	return messageOf(a)
}
