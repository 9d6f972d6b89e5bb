package chat

import (
	"encoding/json"

	"parley/internal/topology"
)

// UserCursor is the key of a user's own revision in cursors and resumed events.
const UserCursor topology.ChannelID = "@user"

// Server event types.
const (
	TypeHello     = "hello"
	TypeMessage   = "message"
	TypeChannel   = "channel"
	TypeReadState = "read_state"
	TypeTyping    = "typing"
	TypePresence  = "presence"
	TypeResumed   = "resumed"
	TypeReset     = "reset"
	TypeAck       = "ack"
	TypeError     = "error"
	TypeGoaway    = "goaway"
	TypePong      = "pong"
)

// Client frame types.
const (
	TypeResume      = "resume"
	TypePost        = "post"
	TypeTypingStart = "typing_start"
	TypeMarkRead    = "mark_read"
	TypePing        = "ping"
)

// What a channel event says happened. The joined … topic ones are changes in
// the channel and carry its rev; gained and lost are changes of the user's list
// of channels and carry urev instead.
const (
	ChannelCreated = "created"
	MemberJoined   = "member_joined"
	MemberLeft     = "member_left"
	ChannelGained  = "gained"
	ChannelLost    = "lost"
)

// Hello is the first event on every socket.
type Hello struct {
	Type        string               `json:"type"`
	SessionID   string               `json:"session_id"`
	WorkspaceID topology.WorkspaceID `json:"workspace_id"`
	UserID      topology.UserID      `json:"user_id"`
	URev        topology.URev        `json:"urev"`
	Channels    []HelloChannel       `json:"channels"`
	HeartbeatS  int                  `json:"heartbeat_s" doc:"send a ping at least this often"`
}

// HelloChannel is one of the user's channels in a Hello.
type HelloChannel struct {
	ID  topology.ChannelID `json:"id"`
	Rev topology.Rev       `json:"rev" doc:"the channel's head when the session began"`
}

// MessageEvent is a new message. Rev proves that nothing was missed.
type MessageEvent struct {
	Type      string             `json:"type"`
	ChannelID topology.ChannelID `json:"channel_id"`
	Rev       topology.Rev       `json:"rev"`
	Message   Message            `json:"message"`
}

// ChannelEvent is a change of a channel other than a message (Rev is set), or
// of the user's list of channels (URev is set, and Channel with gained).
type ChannelEvent struct {
	Type      string             `json:"type"`
	Event     string             `json:"event"`
	ChannelID topology.ChannelID `json:"channel_id"`
	Rev       topology.Rev       `json:"rev,omitempty"`
	URev      topology.URev      `json:"urev,omitempty"`
	UserIDs   []topology.UserID  `json:"user_ids,omitempty" doc:"who joined or left"`
	By        topology.UserID    `json:"by,omitempty" doc:"who did it"`
	Channel   *Channel           `json:"channel,omitempty"`
	TS        *Timestamp         `json:"ts,omitempty"`
}

// ReadStateEvent tells all of a user's sessions where it has read to.
type ReadStateEvent struct {
	Type string `json:"type"`
	ReadState
}

// TypingEvent counts for TypingTTL.
type TypingEvent struct {
	Type      string             `json:"type"`
	ChannelID topology.ChannelID `json:"channel_id"`
	UserID    topology.UserID    `json:"user_id"`
}

// PresenceEvent is a user's status: online, away, offline or unknown. Without a
// user it is about everybody: unknown while nothing can be known, and offline when
// that has ended, before those who are there are told.
type PresenceEvent struct {
	Type   string          `json:"type"`
	UserID topology.UserID `json:"user_id,omitempty"`
	Status string          `json:"status"`
}

// ResumedEvent ends the catch-up of one channel (or of UserCursor): what
// follows is live, from Rev + 1 on.
type ResumedEvent struct {
	Type      string             `json:"type"`
	ChannelID topology.ChannelID `json:"channel_id"`
	Rev       topology.Rev       `json:"rev"`
}

// ResetEvent says that a cursor can't be served (too old, or from the future):
// load the channel afresh; live events follow from Rev + 1 on.
type ResetEvent struct {
	Type      string             `json:"type"`
	ChannelID topology.ChannelID `json:"channel_id"`
	Rev       topology.Rev       `json:"rev"`
	Reason    string             `json:"reason"`
}

// AckEvent answers a client frame that carried an id.
type AckEvent struct {
	Type      string             `json:"type"`
	ID        string             `json:"id"`
	ChannelID topology.ChannelID `json:"channel_id,omitempty"`
	*Posted
}

// ErrorEvent refuses a client frame (ID is that frame's), or one channel's cursor of
// a resume (ChannelID), or ends the session.
type ErrorEvent struct {
	Type      string             `json:"type"`
	ID        string             `json:"id,omitempty"`
	ChannelID topology.ChannelID `json:"channel_id,omitempty"`
	Kind      string             `json:"kind"`
	Detail    string             `json:"detail"`
	Field     string             `json:"field,omitempty"`
	Outcome   string             `json:"outcome,omitempty"`
	RetryMS   int64              `json:"retry_ms,omitempty"`
}

// GoawayEvent asks the client to connect elsewhere, then close this socket.
type GoawayEvent struct {
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	AfterMS int64  `json:"after_ms"`
}

// PongEvent answers a ping.
type PongEvent struct {
	Type string `json:"type"`
	ID   string `json:"id,omitempty"`
}

// ClientFrame is any frame that a client sends; Type says which fields count.
type ClientFrame struct {
	Type              string                              `json:"type"`
	ID                string                              `json:"id,omitempty"` // echoed in ack, error, pong
	ChannelID         topology.ChannelID                  `json:"channel_id,omitempty"`
	Text              string                              `json:"text,omitempty"`
	ThreadRoot        *topology.MessageID                 `json:"thread_root,omitempty"`
	ClientMsgID       string                              `json:"client_msg_id,omitempty"`
	LastReadMessageID topology.MessageID                  `json:"last_read_message_id,omitempty"`
	Cursors           map[topology.ChannelID]topology.Rev `json:"cursors,omitempty"`
	Active            *bool                               `json:"active,omitempty"` // with ping: false = the user is idle
}

// Envelope is what every server event starts with; it tells which to decode.
type Envelope struct {
	Type      string             `json:"type"`
	ChannelID topology.ChannelID `json:"channel_id"`
	Rev       topology.Rev       `json:"rev"`
	URev      topology.URev      `json:"urev"`
	ID        string             `json:"id"`
}

// Encode is the JSON of an event. Every event type here can be encoded.
func Encode(event any) []byte {
	b, err := json.Marshal(event)
	if err != nil { // only a type that JSON can't hold fails: a defect of ours
		return []byte(`{"type":"error","kind":"internal","detail":"event could not be encoded"}`)
	}
	return b
}
