package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

type postIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	Key     string             `header:"Idempotency-Key" doc:"the same as client_msg_id"`
	Body    chat.PostRequest
}

type historyIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	Before  topology.MessageID `query:"before" doc:"messages older than this one, newest first"`
	After   topology.MessageID `query:"after" doc:"messages newer than this one, oldest first; 0 = from the first"`
	Limit   int                `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

type repliesIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	Message topology.MessageID `path:"message_id"`
	After   topology.MessageID `query:"after" doc:"replies newer than this one"`
	Limit   int                `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

type markReadIn struct {
	Channel topology.ChannelID `path:"channel_id"`
	Body    chat.MarkReadRequest
}

func (a *API) registerMessages(doc huma.API) {
	const base = "/api/v1/channels/{channel_id}"
	route(a, doc, http.MethodPost, base+"/messages", "post-message", "Post a message or a reply", http.StatusCreated, chat.BodyBytesMax, a.post)
	route(a, doc, http.MethodGet, base+"/messages", "list-messages", "Page through a channel's top-level messages", http.StatusOK, 0, a.history)
	route(a, doc, http.MethodGet, base+"/messages/{message_id}", "get-message", "One top-level message", http.StatusOK, 0, a.message)
	route(a, doc, http.MethodGet, base+"/messages/{message_id}/replies", "list-replies", "Page through a thread, oldest first", http.StatusOK, 0, a.replies)
	route(a, doc, http.MethodPost, base+"/mark_read", "mark-read", "Move the read mark forward", http.StatusOK, chat.BodyBytesMax, a.markRead)
	route(a, doc, http.MethodGet, "/api/v1/unread", "list-unread", "Unread and mention counts of all of the caller's channels", http.StatusOK, 0, a.listUnread)
}

func (a *API) post(ctx context.Context, in *postIn) (*body[chat.Posted], error) {
	c := callerOf(ctx)
	if c.User == "" {
		return nil, problem.New(problem.Denied, "the token names no user to post as")
	}
	if in.Body.ClientMsgID != "" && in.Key != "" && in.Body.ClientMsgID != in.Key {
		return nil, problem.Field("client_msg_id", "differs from the Idempotency-Key header; send one of them")
	}
	p := channel.Post{
		Channel: topology.ChannelRef{Place: c.Place, Channel: in.Channel}, Author: c.User, Text: in.Body.Text,
		Key: in.Body.ClientMsgID,
	}
	if p.Key == "" {
		p.Key = in.Key
	}
	if in.Body.ThreadRoot != nil {
		p.Root = *in.Body.ThreadRoot
	}
	done, err := a.channels.Post(ctx, p)
	if err != nil {
		return nil, err
	}
	return answer(chat.Posted{MessageID: done.ID, TS: chat.Timestamp(done.TS), Seq: done.Seq, Rev: done.Rev}), nil
}

func (a *API) history(ctx context.Context, in *historyIn) (*body[chat.MessagePage], error) {
	if in.Before != "" && in.After != "" {
		return nil, problem.Field("after", "can't be used together with before")
	}
	c := callerOf(ctx)
	row, err := a.readable(ctx, c, in.Channel)
	if err != nil {
		return nil, err
	}
	ref := topology.ChannelRef{Place: c.Place, Channel: in.Channel}
	q := history.PageQuery{Limit: in.Limit + 1}
	switch {
	case in.Before != "":
		q.Before, err = a.cursor(ctx, "before", in.Before, row, ref)
	case in.After == "0":
		q.Forward = true
	case in.After != "":
		q.Forward = true
		q.After, err = a.cursor(ctx, "after", in.After, row, ref)
	}
	if err != nil {
		return nil, err
	}
	if q.Before == 1 { // nothing is older than the first; 0 would mean the newest
		return answer(chat.MessagePage{Messages: []chat.Message{}}), nil
	}
	ms, err := a.channels.Page(ctx, ref, q)
	if err != nil {
		return nil, err
	}
	return answer(page(ref.Channel, ms, in.Limit)), nil
}

// cursor is the seq that a top-level message id stands for in the channel.
func (a *API) cursor(ctx context.Context, field string, id topology.MessageID, row directory.Channel, ref topology.ChannelRef) (topology.Seq, error) {
	p, err := change.ParseID(id)
	if err != nil || p.ReplyRev != 0 || p.Number != row.Number {
		return 0, problem.Field(field, "must be the message_id of a top-level message of this channel")
	}
	heads, err := a.channels.Heads(ctx, []topology.ChannelRef{ref})
	if err != nil {
		return 0, err
	}
	if p.Seq > heads[0].Seq {
		return 0, problem.Field(field, "names a message that this channel does not have yet")
	}
	return p.Seq, nil
}

func (a *API) message(ctx context.Context, in *struct {
	Channel topology.ChannelID `path:"channel_id"`
	Message topology.MessageID `path:"message_id"`
},
) (*body[chat.Message], error) {
	c := callerOf(ctx)
	if _, err := a.readable(ctx, c, in.Channel); err != nil {
		return nil, err
	}
	m, err := a.channels.Get(ctx, topology.ChannelRef{Place: c.Place, Channel: in.Channel}, in.Message)
	if err != nil {
		return nil, err
	}
	return answer(shown(in.Channel, m)), nil
}

func (a *API) replies(ctx context.Context, in *repliesIn) (*body[chat.MessagePage], error) {
	c := callerOf(ctx)
	row, err := a.readable(ctx, c, in.Channel)
	if err != nil {
		return nil, err
	}
	ref := topology.ChannelRef{Place: c.Place, Channel: in.Channel}
	root, err := a.channels.Get(ctx, ref, in.Message)
	if err != nil {
		return nil, err
	}
	var after topology.Seq
	if in.After != "" {
		if after, err = a.replyCursor(ctx, ref, row, root, in.After); err != nil {
			return nil, err
		}
	}
	ms, err := a.channels.Thread(ctx, ref, in.Message, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return answer(page(ref.Channel, ms, in.Limit)), nil
}

// replyCursor is the number in its thread of the reply that a cursor names: its
// id holds the rev, and the change at that rev the number.
func (a *API) replyCursor(ctx context.Context, ref topology.ChannelRef, row directory.Channel, root history.Message, id topology.MessageID) (topology.Seq, error) {
	bad := problem.Field("after", "must be the message_id of a reply in this thread")
	p, err := change.ParseID(id)
	if err != nil || p.ReplyRev == 0 || p.Number != row.Number {
		return 0, bad
	}
	lo, hi := topology.Seq(0), topology.Seq(root.ReplyCount)
	for lo < hi { // replies rise in rev as in number: search for it
		mid := lo + (hi-lo)/2
		at, err := a.channels.Thread(ctx, ref, root.ID, mid, 1)
		if err != nil {
			return 0, err
		}
		switch {
		case len(at) == 0 || at[0].Rev > p.ReplyRev:
			hi = mid
		case at[0].ID == id:
			return at[0].Seq, nil
		default:
			lo = mid + 1
		}
	}
	return 0, bad
}

func (a *API) markRead(ctx context.Context, in *markReadIn) (*body[chat.ReadState], error) {
	c := callerOf(ctx)
	if _, err := a.readable(ctx, c, in.Channel); err != nil {
		return nil, err
	}
	s, err := a.unread.MarkRead(ctx, c.Place, c.User, in.Channel, in.Body.LastReadMessageID)
	if err != nil {
		return nil, err
	}
	return answer(s), nil
}

func (a *API) listUnread(ctx context.Context, _ *struct{}) (*body[chat.UnreadResponse], error) {
	c := callerOf(ctx)
	states, err := a.unread.All(ctx, c.Place, c.User)
	if err != nil {
		return nil, err
	}
	return answer(chat.UnreadResponse{Channels: states}), nil
}

// page cuts the one message that was asked for beyond the limit.
func page(ch topology.ChannelID, ms []history.Message, limit int) chat.MessagePage {
	p := chat.MessagePage{HasMore: len(ms) > limit}
	ms = ms[:min(len(ms), limit)]
	p.Messages = make([]chat.Message, len(ms))
	for i, m := range ms {
		p.Messages[i] = shown(ch, m)
	}
	return p
}

// shown is a message as readers get it.
func shown(ch topology.ChannelID, m history.Message) chat.Message {
	out := chat.Message{
		MessageID: m.ID, ChannelID: ch, Seq: m.Seq, TS: chat.Timestamp(m.TS), UserID: m.Author, Text: m.Text,
		ReplyCount: m.ReplyCount, ClientMsgID: m.ClientMsgID,
	}
	if m.Root != "" {
		out.ThreadRoot = &m.Root
	}
	if m.LastReplyTS != 0 {
		ts := chat.Timestamp(m.LastReplyTS)
		out.LastReplyTS = &ts
	}
	return out
}
