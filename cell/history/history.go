// Package history keeps what is derived from the channels' logs for reading:
// messages by seq, threads, reply counts, and who posted what under which
// client_msg_id. All of it can be made again from the log; nothing here is ever
// written from a change that is not confirmed.
package history

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"parley/cell/change"
	"parley/internal/topology"
)

// Mark says how far a channel's derived rows and events have come.
type Mark struct {
	Applied topology.Rev // derived rows hold all changes up to here
	Emitted topology.Rev // the event log holds all changes up to here
	Seq     topology.Seq // top-level messages up to Applied
	TS      int64        // of the last change up to Applied, µs
}

// Message is a message with what its thread adds to it. Change.Kind is Message
// or Reply.
type Message struct {
	change.Change
	ReplyCount  uint64 // top-level only
	LastReplyTS int64  // µs; 0 = no reply
}

// Batch is confirmed changes of one channel, in order of rev without gaps,
// beginning at or below its Mark.Applied + 1 (those up to Applied are skipped).
type Batch struct {
	Channel topology.ChannelRef
	Changes []change.Change
}

// Deduped is what a client_msg_id led to.
type Deduped struct {
	Kind change.Kind
	ID   topology.MessageID
	TS   int64
	Seq  topology.Seq
	Rev  topology.Rev
	Hash [16]byte // of thread root and text, by HashBody: another hash is another body
}

// Store keeps derived rows. The contract is run by historytest:
//
//  1. Apply is repeatable: the same batch again, or one that overlaps, changes
//     nothing. A batch that would leave a gap is refused with kind Conflict (of
//     the other batches in the call nothing is said: ask Mark). Per batch, rows
//     and Mark change together or not at all.
//  2. Apply need not be durable when it returns: after a crash Mark may name an
//     earlier rev, but then all rows up to it are there, and Apply from there on
//     makes the rest again.
//  3. SetEmitted raises Mark.Emitted; it never lowers it.
//  4. Page gives top-level messages: Before > 0: seq < Before, newest first;
//     After set: seq > After, oldest first; neither: newest first from the end.
//     At most limit, none if that is not positive. Reply counts are as of
//     Mark.Applied.
//  5. Thread gives replies with number > after, oldest first, at most limit.
//  6. Get gives one top-level message by seq, or kind NotFound.
//  7. Deduped finds author's key in the channel if its change is younger than
//     Window at now; older ones are not found, and may be forgotten. Any kind of
//     change may have a key; one without a key leaves nothing here.
type Store interface {
	Apply(ctx context.Context, batches []Batch) error
	Mark(ctx context.Context, ch topology.ChannelRef) (Mark, error)
	SetEmitted(ctx context.Context, ch topology.ChannelRef, rev topology.Rev) error
	Page(ctx context.Context, ch topology.ChannelRef, q PageQuery) ([]Message, error)
	Thread(ctx context.Context, ch topology.ChannelRef, root topology.Seq, after topology.Seq, limit int) ([]Message, error)
	Get(ctx context.Context, ch topology.ChannelRef, seq topology.Seq) (Message, error)
	Deduped(ctx context.Context, ch topology.ChannelRef, author topology.UserID, key string, now time.Time) (Deduped, bool, error)
}

// Window is how long a client_msg_id is remembered: a post repeated later is a
// new post. A day covers a laptop that slept overnight with a post in hand.
const Window = 24 * time.Hour

// HashBody tells one body from another under the same client_msg_id: 128 bits of
// SHA-256 over the thread root and the text. The root's length goes in first, so
// that no root and text run together into another pair.
func HashBody(root topology.MessageID, text string) [16]byte {
	b := make([]byte, 0, binary.MaxVarintLen64+len(root)+len(text))
	b = binary.AppendUvarint(b, uint64(len(root)))
	b = append(append(b, root...), text...)
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// PageQuery selects a page of top-level messages. At most one of Before and
// Forward is used.
type PageQuery struct {
	Before  topology.Seq // exclusive; 0 = from the newest
	Forward bool         // oldest first, from After (exclusive) on
	After   topology.Seq
	Limit   int
}
