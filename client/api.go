package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/oklog/ulid/v2"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Post posts a message; one without a client_msg_id gets one, so that it is
// safely repeated until its outcome is known.
func (c *Client) Post(ctx context.Context, ch topology.ChannelID, p chat.PostRequest) (chat.Posted, error) {
	if p.ClientMsgID == "" {
		p.ClientMsgID = ulid.Make().String()
	}
	var out chat.Posted
	err := c.do(ctx, call{method: http.MethodPost, path: channelPath(ch, "/messages"), body: p, repeatable: true}, &out)
	return out, err
}

// Before pages back: messages older than one (the newest if it is empty), newest
// first.
func (c *Client) Before(ctx context.Context, ch topology.ChannelID, before topology.MessageID, limit int) (chat.MessagePage, error) {
	return c.page(ctx, channelPath(ch, "/messages"), "before", string(before), limit)
}

// After pages forth: messages newer than one ("0" = from the first), oldest first.
func (c *Client) After(ctx context.Context, ch topology.ChannelID, after topology.MessageID, limit int) (chat.MessagePage, error) {
	return c.page(ctx, channelPath(ch, "/messages"), "after", string(after), limit)
}

// Message is one top-level message.
func (c *Client) Message(ctx context.Context, ch topology.ChannelID, m topology.MessageID) (chat.Message, error) {
	var out chat.Message
	err := c.get(ctx, channelPath(ch, "/messages/"+url.PathEscape(string(m))), nil, &out)
	return out, err
}

// Replies pages a thread, oldest first.
func (c *Client) Replies(ctx context.Context, ch topology.ChannelID, root, after topology.MessageID, limit int) (chat.MessagePage, error) {
	return c.page(ctx, channelPath(ch, "/messages/"+url.PathEscape(string(root))+"/replies"), "after", string(after), limit)
}

func (c *Client) page(ctx context.Context, path, cursor, at string, limit int) (chat.MessagePage, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if at != "" {
		q.Set(cursor, at)
	}
	var out chat.MessagePage
	err := c.get(ctx, path, q, &out)
	return out, err
}

// MarkRead moves the user's mark in a channel to a top-level message.
func (c *Client) MarkRead(ctx context.Context, ch topology.ChannelID, m topology.MessageID) (chat.ReadState, error) {
	var out chat.ReadState
	err := c.do(ctx, call{
		method: http.MethodPost, path: channelPath(ch, "/mark_read"), body: chat.MarkReadRequest{LastReadMessageID: m}, repeatable: true,
	}, &out)
	return out, err
}

// Unread is the read state of all of the user's channels.
func (c *Client) Unread(ctx context.Context) (chat.UnreadResponse, error) {
	var out chat.UnreadResponse
	err := c.get(ctx, "/api/v1/unread", nil, &out)
	return out, err
}

// Me is who the token is for.
func (c *Client) Me(ctx context.Context) (chat.User, error) {
	var out chat.User
	err := c.get(ctx, "/api/v1/users/me", nil, &out)
	return out, err
}

// Users pages the workspace's people.
func (c *Client) Users(ctx context.Context, after string, limit int) (chat.UserPage, error) {
	var out chat.UserPage
	err := c.get(ctx, "/api/v1/users", cursorQuery(after, limit), &out)
	return out, err
}

// Channels pages the channels that the user may see.
func (c *Client) Channels(ctx context.Context, after string, limit int) (chat.ChannelPage, error) {
	var out chat.ChannelPage
	err := c.get(ctx, "/api/v1/channels", cursorQuery(after, limit), &out)
	return out, err
}

// Channel is one channel.
func (c *Client) Channel(ctx context.Context, ch topology.ChannelID) (chat.Channel, error) {
	var out chat.Channel
	err := c.get(ctx, channelPath(ch, ""), nil, &out)
	return out, err
}

// CreateChannel makes a channel and joins it.
func (c *Client) CreateChannel(ctx context.Context, r chat.CreateChannelRequest) (chat.Channel, error) {
	var out chat.Channel
	err := c.do(ctx, call{method: http.MethodPost, path: "/api/v1/channels", body: r}, &out)
	return out, err
}

// Join joins a public channel.
func (c *Client) Join(ctx context.Context, ch topology.ChannelID) (topology.Rev, error) {
	return c.membership(ctx, http.MethodPost, channelPath(ch, "/join"), nil)
}

// Leave leaves a channel.
func (c *Client) Leave(ctx context.Context, ch topology.ChannelID) (topology.Rev, error) {
	return c.membership(ctx, http.MethodPost, channelPath(ch, "/leave"), nil)
}

// AddMembers adds people to a channel, at most 1,000 in one call.
func (c *Client) AddMembers(ctx context.Context, ch topology.ChannelID, us []topology.UserID) (topology.Rev, error) {
	return c.membership(ctx, http.MethodPost, channelPath(ch, "/members"), chat.MembersRequest{UserIDs: us})
}

// RemoveMember takes somebody out of a channel.
func (c *Client) RemoveMember(ctx context.Context, ch topology.ChannelID, u topology.UserID) (topology.Rev, error) {
	return c.membership(ctx, http.MethodDelete, channelPath(ch, "/members/"+url.PathEscape(string(u))), nil)
}

func (c *Client) membership(ctx context.Context, method, path string, body any) (topology.Rev, error) {
	var out chat.MembershipResponse
	err := c.do(ctx, call{method: method, path: path, body: body, repeatable: true}, &out)
	return out.Rev, err
}

// Members pages a channel's members.
func (c *Client) Members(ctx context.Context, ch topology.ChannelID, after string, limit int) (chat.MemberPage, error) {
	var out chat.MemberPage
	err := c.get(ctx, channelPath(ch, "/members"), cursorQuery(after, limit), &out)
	return out, err
}

// Edges lists the ways in.
func (c *Client) Edges(ctx context.Context) ([]chat.Edge, error) {
	var out chat.EdgesResponse
	err := c.get(ctx, "/api/v1/edges", nil, &out)
	return out.Edges, err
}

// Ticket is a one-time word for a socket at this edge.
func (c *Client) Ticket(ctx context.Context) (chat.TicketResponse, error) {
	var out chat.TicketResponse
	err := c.do(ctx, call{method: http.MethodPost, path: "/api/v1/tickets", repeatable: true}, &out)
	return out, err
}

func (c *Client) get(ctx context.Context, path string, q url.Values, out any) error {
	return c.do(ctx, call{method: http.MethodGet, path: path, query: q, repeatable: true}, out)
}

func cursorQuery(after string, limit int) url.Values {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	return q
}

func channelPath(ch topology.ChannelID, rest string) string {
	return "/api/v1/channels/" + url.PathEscape(string(ch)) + rest
}

// SearchQuery says what to find. Its text is as in a search box: words, "phrases",
// -word, from:name, in:channel, before:2026-03-01, after:2026-03.
type SearchQuery struct {
	Text    string
	Channel topology.ChannelID // "" = everywhere
	Before  string             // a message_id or a time; "" = now
	// Relevant sorts the best first; else the newest come first.
	Relevant bool
	Limit    int    // 0 = the server's
	Cursor   string // NextCursor of the page before
}

// Search finds messages in the channels that the user may read.
func (c *Client) Search(ctx context.Context, s SearchQuery) (chat.SearchPage, error) {
	q := url.Values{"q": {s.Text}}
	for name, v := range map[string]string{"channel_id": string(s.Channel), "before": s.Before, "cursor": s.Cursor} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if s.Relevant {
		q.Set("sort", "relevant")
	}
	if s.Limit > 0 {
		q.Set("limit", strconv.Itoa(s.Limit))
	}
	var out chat.SearchPage
	err := c.get(ctx, "/api/v1/search", q, &out)
	return out, err
}
