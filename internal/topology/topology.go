// Package topology is Parley's vocabulary: the ids and counters that every
// other package speaks in. Read it first. It imports the standard library only.
package topology

import "hash/fnv"

// Ids are opaque strings with a type of their own, so that one can't be passed
// for another. Workspace, channel and user ids are a letter (W, C, U) and a
// 26-character ULID; region, cell, edge, gateway and server ids are the names
// that operators give ("eu", "eu-1", "eu-edge-1", "eu-1-gw-1", "eu-1-cs-1").
type (
	// RegionID names a region, such as "eu".
	RegionID string
	// CellID names a cell, unique over all regions.
	CellID string
	// EdgeID names an edge proxy.
	EdgeID string
	// GatewayID names a gateway process of a cell.
	GatewayID string
	// ServerID names a channel server of a cell.
	ServerID string
	// NodeID names a control-plane node, a Raft voter.
	NodeID string
	// WorkspaceID is a tenant.
	WorkspaceID string
	// ChannelID is a channel of one workspace; unique over all workspaces.
	ChannelID string
	// UserID is a member of one workspace; unique over all workspaces.
	UserID string
	// MessageID is a ULID that names its channel and place; see package change.
	MessageID string
	// SessionID is one client socket, unique within its edge's incarnation.
	SessionID uint64
	// Incarnation tells one run of a process from the next: higher is later.
	Incarnation uint64
)

// Counters. None of them ever goes back.
type (
	// Epoch counts a workspace's changes of cell. Raft's: it says which cell.
	Epoch uint64
	// Generation is the move (or the creation) that brought a workspace to a
	// cell; part of every partition key of its rows.
	Generation uint64
	// Token is a shard's owner number, counted in the message store. It says
	// which process, and never leaves its store's cell.
	Token uint64
	// Rev numbers every change of a channel: 1, 2, 3 ….
	Rev uint64
	// Seq numbers the top-level messages of a channel, or the replies of a
	// thread: 1, 2, 3 …
	Seq uint64
	// URev numbers the changes of a user's list of channels.
	URev uint64
)

// Shard is a fixed hash partition of a cell's channels, the unit of ownership
// inside a cell: 0 … Shards-1.
type Shard uint16

// Shards is how many a cell has. 128 lets a cell grow to some tens of channel
// servers with an even spread, and keeps all fence rows in one small partition.
const Shards = 128

// ShardOf is the shard of a channel, the same in every cell.
func ShardOf(ch ChannelID) Shard {
	h := fnv.New32a()
	_, _ = h.Write([]byte(ch)) // a hash's Write never fails
	return Shard(h.Sum32() % Shards)
}

// Route says which cell a workspace lives in. A route only says where to ask:
// the cell itself knows whether the workspace is its own.
type Route struct {
	Workspace WorkspaceID
	Cell      CellID
	Epoch     Epoch
}

// Place is a workspace as its cell stores it: part of every partition key.
type Place struct {
	Workspace  WorkspaceID
	Generation Generation
}

// ChannelRef names a channel's partition in a cell's stores.
type ChannelRef struct {
	Place
	Channel ChannelID
}

// Shard is the shard that the channel belongs to.
func (r ChannelRef) Shard() Shard { return ShardOf(r.Channel) }
