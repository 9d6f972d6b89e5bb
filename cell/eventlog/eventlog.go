// Package eventlog is the cell's durable stream of what happened: ids and revs of
// confirmed changes, in order per channel, for workers (mentions now; search,
// notifications, retention later). It is fed after the commit, so that its
// outage delays workers but never chat.
package eventlog

import (
	"context"
	"time"

	"parley/cell/change"
	"parley/internal/topology"
)

// Event names a confirmed change. It carries no text: a worker reads that from
// the channel's log.
type Event struct {
	Channel topology.ChannelRef
	Rev     topology.Rev
	Kind    change.Kind
	// Plain says that the change mentions nobody: who only looks for that need not
	// read it.
	Plain bool
}

// Retention is how long events are kept: a worker that was away for a week has
// to build afresh from the stores, which is faster by then than catching up.
const Retention = 7 * 24 * time.Hour

// Position is an event's place in its partition: 1, 2, 3 and so on.
type Position uint64

// Log is the event log. Partitions are shards. The contract is run by
// eventlogtest:
//
//  1. Append adds events to a partition in order; all or nothing. The same
//     events may be appended again after a crash: consumers drop what they have
//     had, by rev. A crash may lose the last events that no group has committed
//     a position above, in order, with every mark made of them afterwards in
//     the same store (history.Mark.Emitted); so their feeder appends them again.
//  2. Read returns events after a position, oldest first, at most limit, with
//     the position of the last; none is not an error. Events older than the
//     retention may be gone; then reading goes on at the oldest.
//  3. Commit stores a group's position in a partition durably, after its
//     effects; Committed returns it, 0 for a group never seen.
//  4. Wait returns when there may be events in the partition after the position, or ctx
//     ends.
//  5. End returns the position of the newest event, 0 if there never was one.
type Log interface {
	Append(ctx context.Context, partition topology.Shard, events []Event) error
	Read(ctx context.Context, partition topology.Shard, after Position, limit int) ([]Event, Position, error)
	Commit(ctx context.Context, group string, partition topology.Shard, p Position) error
	Committed(ctx context.Context, group string, partition topology.Shard) (Position, error)
	Wait(ctx context.Context, partition topology.Shard, after Position) error
	End(ctx context.Context, partition topology.Shard) (Position, error)
}
