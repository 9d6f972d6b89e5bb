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

// Assigner is an event log that can share a group's partitions out among several
// processes. One without it is read by one process. The contract, of a Log that has it:
//
//  1. Assign makes the caller a member of the group until ctx ends, and returns when
//     it has left. Each partition is one member's; members that come, leave or die make
//     brokers share out anew, as soon as they notice. One process joins a group once.
//  2. The member's methods are called one at a time. What was gained is the member's
//     until it is released or lost.
//  3. Release is called before others gain the partitions, and they wait for it to
//     return: positions committed until then are those that the next one reads.
//  4. Lose is called when others may have the partitions already.
//  5. A commit of a partition that the member does not have is refused with kind
//     Fenced, and changes nothing.
type Assigner interface {
	Assign(ctx context.Context, group string, m Member) error
}

// Member is told which partitions are its own. A list may be empty.
type Member interface {
	Gain(ps []topology.Shard)
	// Release ends the work on partitions and commits how far it came.
	Release(ps []topology.Shard)
	// Lose ends the work on partitions and commits nothing.
	Lose(ps []topology.Shard)
}
