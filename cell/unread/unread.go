// Package unread tells users what they have not read. Counts are derived (head −
// max(last read, joined)), so that a message costs no write per member; only
// reading writes.
package unread

import (
	"context"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/history"
	"parley/cell/readstate"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Members is what this package asks of the directory.
type Members interface {
	ChannelsOf(ctx context.Context, p topology.Place, u topology.UserID) ([]directory.Membership, error)
	Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (directory.Membership, bool, error)
}

// Channels is what this package asks of the channel servers.
type Channels interface {
	Heads(ctx context.Context, chs []topology.ChannelRef) ([]channel.Head, error)
	Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error)
}

// Counter derives read states.
type Counter struct {
	members  Members
	channels Channels
	marks    readstate.Store
	bus      router.Bus
}

// New makes a Counter.
func New(m Members, c Channels, s readstate.Store, b router.Bus) *Counter {
	return &Counter{members: m, channels: c, marks: s, bus: b}
}

// MarkRead moves the user's mark in a channel to a top-level message and returns
// the read state afterwards. A mark further on stays: read state only moves
// forward. All of the user's sessions are told.
func (c *Counter) MarkRead(ctx context.Context, p topology.Place, u topology.UserID, ch topology.ChannelID, m topology.MessageID) (chat.ReadState, error) {
	ms, ok, err := c.members.Member(ctx, p, ch, u)
	if err != nil {
		return chat.ReadState{}, err
	}
	if !ok {
		return chat.ReadState{}, problem.New(problem.Denied, "you are not a member of this channel")
	}
	if m == "" {
		return chat.ReadState{}, problem.Field("last_read_message_id", "must name a message")
	}
	id, err := change.ParseID(m)
	if err != nil || id.ReplyRev != 0 {
		return chat.ReadState{}, problem.Field("last_read_message_id", "must be the id of a top-level message")
	}
	if _, err := c.channels.Get(ctx, topology.ChannelRef{Place: p, Channel: ch}, m); err != nil {
		if problem.Is(err, problem.NotFound) {
			return chat.ReadState{}, problem.Field("last_read_message_id", "this channel has no such message")
		}
		return chat.ReadState{}, err
	}
	user := readstate.User{Place: p, ID: u}
	if _, err := c.marks.Put(ctx, user, ch, readstate.Mark{Seq: id.Seq, Message: m}); err != nil {
		return chat.ReadState{}, err
	}
	c.bus.Publish(router.UserTopic(u), router.Notice{Kind: router.NoticeReadState, Channel: ch}.Encode())
	states, err := c.derive(ctx, p, u, []directory.Membership{ms})
	if err != nil {
		return chat.ReadState{}, err
	}
	return states[0], nil
}

// State is the user's read state in a channel.
func (c *Counter) State(ctx context.Context, p topology.Place, u topology.UserID, ch topology.ChannelID) (chat.ReadState, error) {
	ms, ok, err := c.members.Member(ctx, p, ch, u)
	if err != nil {
		return chat.ReadState{}, err
	}
	if !ok {
		return chat.ReadState{}, problem.New(problem.Denied, "you are not a member of this channel")
	}
	states, err := c.derive(ctx, p, u, []directory.Membership{ms})
	if err != nil {
		return chat.ReadState{}, err
	}
	return states[0], nil
}

// All is the user's read state in all of its channels.
func (c *Counter) All(ctx context.Context, p topology.Place, u topology.UserID) ([]chat.ReadState, error) {
	ms, err := c.members.ChannelsOf(ctx, p, u)
	if err != nil {
		return nil, err
	}
	return c.derive(ctx, p, u, ms)
}

func (c *Counter) derive(ctx context.Context, p topology.Place, u topology.UserID, ms []directory.Membership) ([]chat.ReadState, error) {
	user := readstate.User{Place: p, ID: u}
	refs := make([]topology.ChannelRef, len(ms))
	for i, m := range ms {
		refs[i] = topology.ChannelRef{Place: p, Channel: m.Channel}
	}
	heads, err := c.channels.Heads(ctx, refs)
	if err != nil {
		return nil, err
	}
	marks, err := c.marks.Marks(ctx, user)
	if err != nil {
		return nil, err
	}
	above := make(map[topology.ChannelID]topology.Seq, len(ms))
	for _, m := range ms {
		above[m.Channel] = max(marks[m.Channel].Seq, m.JoinedSeq)
	}
	mentions, err := c.marks.Mentions(ctx, user, above)
	if err != nil {
		return nil, err
	}
	out := make([]chat.ReadState, len(ms))
	for i, m := range ms {
		out[i] = chat.ReadState{ChannelID: m.Channel, MentionCount: mentions[m.Channel]}
		if read := above[m.Channel]; heads[i].Seq > read {
			out[i].UnreadCount = uint64(heads[i].Seq - read)
		}
		if last := marks[m.Channel].Message; last != "" {
			out[i].LastReadMessageID = &last
		}
	}
	return out, nil
}
