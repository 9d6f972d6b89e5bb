// Package chat holds the public chat protocol: JSON bodies of the HTTP API and
// events of the socket, shared by cell, edge and client. docs/protocol.md
// describes it for users; the OpenAPI document is made from these types.
package chat

import (
	"time"

	"parley/internal/topology"
)

// Timestamp is a time in microseconds since 1970, UTC. In JSON it is RFC 3339
// with exactly six decimals, so that texts sort like times.
type Timestamp int64

// TimestampLayout is the JSON form of a Timestamp.
const TimestampLayout = "2006-01-02T15:04:05.000000Z"

// Time is t as a time.Time in UTC.
func (t Timestamp) Time() time.Time { return time.UnixMicro(int64(t)).UTC() }

// String is the JSON form without quotes.
func (t Timestamp) String() string { return t.Time().Format(TimestampLayout) }

// MarshalText writes the JSON form.
func (t Timestamp) MarshalText() ([]byte, error) {
	return t.Time().AppendFormat(nil, TimestampLayout), nil
}

// UnmarshalText reads any RFC 3339 time.
func (t *Timestamp) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return err
	}
	*t = Timestamp(v.UnixMicro())
	return nil
}

// Message is a message as every reader gets it: in history, in a thread, live.
type Message struct {
	MessageID   topology.MessageID  `json:"message_id"`
	ChannelID   topology.ChannelID  `json:"channel_id"`
	Seq         topology.Seq        `json:"seq" doc:"number in the channel; for a reply, in its thread"`
	TS          Timestamp           `json:"ts"`
	UserID      topology.UserID     `json:"user_id"`
	Text        string              `json:"text"`
	ThreadRoot  *topology.MessageID `json:"thread_root" doc:"the message replied to; null for a top-level message"`
	ReplyCount  uint64              `json:"reply_count"`
	LastReplyTS *Timestamp          `json:"last_reply_ts"`
	ClientMsgID string              `json:"client_msg_id"`
}

// PostRequest is the body of POST /api/v1/channels/{id}/messages.
type PostRequest struct {
	Text        string              `json:"text" doc:"1 to 40,000 characters of UTF-8"`
	ThreadRoot  *topology.MessageID `json:"thread_root,omitempty" nullable:"true" doc:"the top-level message to reply to"`
	ClientMsgID string              `json:"client_msg_id,omitempty" doc:"makes the post safe to repeat for 24 h; the same as Idempotency-Key"`
}

// Posted answers a post.
type Posted struct {
	MessageID topology.MessageID `json:"message_id"`
	TS        Timestamp          `json:"ts"`
	Seq       topology.Seq       `json:"seq"`
	Rev       topology.Rev       `json:"rev"`
}

// MessagePage is a page of history or of a thread.
type MessagePage struct {
	Messages []Message `json:"messages"`
	HasMore  bool      `json:"has_more"`
}

// MarkReadRequest is the body of POST /api/v1/channels/{id}/mark_read.
type MarkReadRequest struct {
	LastReadMessageID topology.MessageID `json:"last_read_message_id"`
}

// ReadState is a user's place in a channel.
type ReadState struct {
	ChannelID         topology.ChannelID  `json:"channel_id"`
	UnreadCount       uint64              `json:"unread_count"`
	MentionCount      uint64              `json:"mention_count"`
	LastReadMessageID *topology.MessageID `json:"last_read_message_id" doc:"null when nothing was read yet"`
}

// UnreadResponse answers GET /api/v1/unread.
type UnreadResponse struct {
	Channels []ReadState `json:"channels"`
}

// Channel is a channel as a member sees it.
type Channel struct {
	ID          topology.ChannelID `json:"id"`
	Name        string             `json:"name"`
	Topic       string             `json:"topic"`
	Private     bool               `json:"private"`
	CreatedBy   topology.UserID    `json:"created_by"`
	CreatedTS   Timestamp          `json:"created_ts"`
	IsMember    bool               `json:"is_member"`
	MemberCount int                `json:"member_count"`
}

// CreateChannelRequest is the body of POST /api/v1/channels.
type CreateChannelRequest struct {
	Name    string `json:"name" doc:"1 to 80 characters: lower-case letters, digits, - _ ."`
	Topic   string `json:"topic,omitempty"`
	Private bool   `json:"private,omitempty"`
}

// ChannelPage is a page of channels; Next, if not empty, is the next cursor.
type ChannelPage struct {
	Channels []Channel `json:"channels"`
	Next     string    `json:"next,omitempty"`
}

// User is a member of the workspace.
type User struct {
	ID          topology.UserID      `json:"id"`
	WorkspaceID topology.WorkspaceID `json:"workspace_id"`
	Name        string               `json:"name"`
	DisplayName string               `json:"display_name"`
	Admin       bool                 `json:"admin,omitempty"`
}

// UserPage is a page of users.
type UserPage struct {
	Users []User `json:"users"`
	Next  string `json:"next,omitempty"`
}

// MembersRequest is the body of POST and DELETE …/members.
type MembersRequest struct {
	UserIDs []topology.UserID `json:"user_ids" doc:"1 to 1,000 users"`
}

// MembershipResponse answers a change of membership: it is in the channel's
// log at Rev when the call returns.
type MembershipResponse struct {
	Rev topology.Rev `json:"rev"`
}

// TicketResponse answers POST /api/v1/tickets: a one-time word for /connect.
type TicketResponse struct {
	Ticket    string    `json:"ticket"`
	ExpiresTS Timestamp `json:"expires_ts"`
}

// Edge is a way in.
type Edge struct {
	ID     topology.EdgeID   `json:"id"`
	Region topology.RegionID `json:"region"`
	URL    string            `json:"url"`
}

// EdgesResponse answers GET /api/v1/edges.
type EdgesResponse struct {
	Edges []Edge `json:"edges"`
}

// MemberPage is a page of a channel's members, by user id.
type MemberPage struct {
	UserIDs []topology.UserID `json:"user_ids"`
	Next    string            `json:"next,omitempty"`
}
