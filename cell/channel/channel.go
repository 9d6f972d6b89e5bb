// Package channel is the channel server: the one writer of the channels in its
// shards. It numbers what comes in, commits it through msglog.Log, and only then
// acks, publishes and derives.
package channel

import (
	"context"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/topology"
)

// Post is a message to be posted. Membership was checked by nobody yet: the
// channel server asks the directory (cache at most 2 s).
type Post struct {
	Channel topology.ChannelRef
	Author  topology.UserID
	Root    topology.MessageID // "" = top-level
	Text    string
	Key     string // client_msg_id; "" only from within the cell
}

// Member is a change of membership, already in the directory.
type Member struct {
	Channel  topology.ChannelRef
	Kind     change.Kind // Created, Joined or Left
	Author   topology.UserID
	Subjects []topology.UserID
	Key      string // the outbox entry's id: makes it safe to repeat
}

// Imported is one message of an import. Root names the root's seq; 0 = top-level.
type Imported struct {
	Author topology.UserID
	TS     int64 // µs
	Text   string
	Root   topology.Seq
}

// Import is a batch for a channel that is being imported. From is the number of
// messages imported before it: another number is refused with kind Conflict, so a
// batch sent twice lands once.
type Import struct {
	Channel  topology.ChannelRef
	From     uint64
	Messages []Imported
}

// Head is where a channel is: its confirmed head.
type Head struct {
	Rev topology.Rev
	Seq topology.Seq
	TS  int64
}

// Servers is how the rest of a cell reaches the owner of a channel, whichever
// channel server that is: it finds the owner, waits (within ctx) while there is
// none, and repeats what is safe to repeat. Errors have the kinds Invalid, Denied,
// NotFound, Conflict, Full, Unavailable (not done) and Unknown.
type Servers interface {
	// Post commits a message. The same key by the same author in the same
	// channel gives the first message back; with another body it is a Conflict.
	Post(ctx context.Context, p Post) (change.Change, error)
	// Member commits a change of membership; the same key is done once.
	Member(ctx context.Context, m Member) (change.Change, error)
	// Import commits a batch and returns how many messages are in after it.
	Import(ctx context.Context, im Import) (uint64, error)
	// Heads returns the confirmed heads of channels, in their order.
	Heads(ctx context.Context, chs []topology.ChannelRef) ([]Head, error)
	// Changes returns confirmed changes after a rev, rising, at most limit, with
	// the event that clients get for each, encoded. Long ones come in fewer: only
	// an answer without any says that after is the head. A rev that the log no
	// longer reaches, or that is above the head, is a Conflict: the reader must reset.
	Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]Event, error)
	// Page, Thread and Get read history up to the confirmed head.
	Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error)
	Thread(ctx context.Context, ch topology.ChannelRef, root topology.MessageID, after topology.Seq, limit int) ([]history.Message, error)
	Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error)
}

// Event is a confirmed change with its encoded client event.
type Event struct {
	change.Change
	Payload []byte
}
