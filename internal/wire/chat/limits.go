package chat

import "time"

// Limits of the chat API. docs/protocol.md lists them for users.
const (
	// TextRunesMax is the longest message, in characters (as Slack has it).
	TextRunesMax = 40_000
	// BodyBytesMax bounds a request body: 40,000 characters of 4 bytes, escaped
	// in JSON as \uXXXX\uXXXX (12 bytes each), fit below it.
	BodyBytesMax = 512 << 10
	// ImportBodyBytesMax bounds one batch of an import.
	ImportBodyBytesMax = 8 << 20
	// SocketFrameBytesMax bounds a decoded client frame on a socket.
	SocketFrameBytesMax = BodyBytesMax
	// ClientMsgIDBytesMax bounds client_msg_id and Idempotency-Key.
	ClientMsgIDBytesMax = 128
	// NameRunesMax bounds names of channels and users, topics excepted.
	NameRunesMax = 80
	// TopicRunesMax bounds a channel's topic, as Slack does.
	TopicRunesMax = 250
	// PageDefault and PageMax bound a page of history, members or channels.
	PageDefault = 50
	// PageMax is the largest page.
	PageMax = 200
	// SearchPageMax is the largest page of a search.
	SearchPageMax = 100
	// HighlightsMax bounds the highlights of one message.
	HighlightsMax = 100
	// CursorsMax bounds the channels in one resume frame.
	CursorsMax = 10_000
	// BulkMax bounds the items of one bulk request (users, members).
	BulkMax = 1_000
	// ImportBatchMax bounds the messages of one import request.
	ImportBatchMax = 2_000
	// ResumeWait is how long the edge waits for a resume frame that was announced.
	ResumeWait = 5 * time.Second
	// TypingTTL is how long a typing event counts; there is no typing_stop.
	TypingTTL = 5 * time.Second
	// DedupeWindow is how long a client_msg_id is remembered.
	DedupeWindow = 24 * time.Hour
	// LogRetention is how long a channel's change log serves cursors.
	LogRetention = 30 * 24 * time.Hour
)
