// Package history is what a client swarm, the drills and our own processes write
// down while they run, and what the checker reads afterwards: one JSON object a
// line, each line a Record.
//
// A client's records are in the order in which things happened to it. Times are
// of one machine's clock and are compared between clients only where RELIABILITY
// asks for real time (an ack before an invocation).
package history

import (
	"encoding/json"

	"parley/internal/topology"
)

// Kind says which fields of a Record count.
type Kind string

// What a client writes.
const (
	// Client introduces a client: Client, Workspace, User, Role.
	Client Kind = "client"
	// Invoke begins an operation: Op, Do, Channel; of a post ClientMsgID, Root, Text;
	// of a mark_read MessageID.
	Invoke Kind = "invoke"
	// OK ends it well: Op; of a post MessageID, Seq, Rev; of a mark_read MessageID (where
	// the mark stands now) and Seq.
	OK Kind = "ok"
	// Fail ends it: nothing was done, for sure. Op, Status, Why.
	Fail Kind = "fail"
	// Unknown ends it: it may have been done, or may still be. Op, Status, Why.
	Unknown Kind = "unknown"
	// Open is a socket that opened: Socket, Edge, Resumed (it will resume).
	Open Kind = "open"
	// Resume is what it resumed with: Socket, Cursors.
	Resume Kind = "resume"
	// Frame is an event that came: Socket, Raw.
	Frame Kind = "frame"
	// Close is a socket's end: Socket, Why.
	Close Kind = "close"
	// Down is a stretch in which a client had no socket or could not open one: a
	// failed attempt. Why.
	Down Kind = "down"
)

// What is written of the run, and of its end.
const (
	// Fault begins (State "begin") or ends ("end") a fault: Name.
	Fault Kind = "fault"
	// Placed says which cell has a workspace from now on: Workspace, Cell, Epoch.
	Placed Kind = "placed"
	// Final is one message of a channel's history when all was over, in the order in
	// which pages gave it: Workspace, Channel, MessageID, Seq, User, Text, Root,
	// ClientMsgID, Replies.
	Final Kind = "final"
	// FinalHead is a channel when all was over: Workspace, Channel, Rev (its head),
	// Seq (the last message's), Private, Members.
	FinalHead Kind = "final_head"
	// FinalMark is a user's mark when all was over: Workspace, User, Channel, MessageID, Seq.
	FinalMark Kind = "final_mark"
	// Append is a change that a channel server committed and confirmed, from the tap
	// of a test build: Workspace, Cell, Channel, Rev, Token, Server, MessageID, Epoch;
	// State is Recovered if an older owner had written it.
	Append Kind = "append"
	// Healed says that no fault is left; from here on everybody has to progress.
	Healed Kind = "healed"
	// End is the end of the run.
	End Kind = "end"
)

// Operations that a client invokes.
const (
	DoPost     = "post"
	DoMarkRead = "mark_read"
	DoPage     = "page"
	DoConnect  = "connect"
)

// Roles of clients.
const (
	RoleSwarm   = "swarm"   // lives where the faults are
	RoleControl = "control" // lives in another cell, where nothing may be felt
)

// Record is one line of a history. Which fields count depends on Kind.
type Record struct {
	AtUS   int64  `json:"at_us"` // µs since 1970, of the writer's clock
	Kind   Kind   `json:"kind"`
	Client string `json:"client,omitempty"` // who wrote it; unique in a run
	Role   string `json:"role,omitempty"`

	Op     uint64 `json:"op,omitempty"` // unique for its client
	Do     string `json:"do,omitempty"`
	Status int    `json:"status,omitempty"` // HTTP, 0 = no answer
	Why    string `json:"why,omitempty"`

	Socket  uint64                              `json:"socket,omitempty"` // unique for its client
	Edge    string                              `json:"edge,omitempty"`   // URL
	Resumed bool                                `json:"resumed,omitempty"`
	Cursors map[topology.ChannelID]topology.Rev `json:"cursors,omitempty"`
	Raw     json.RawMessage                     `json:"raw,omitempty"`

	Workspace   topology.WorkspaceID `json:"workspace,omitempty"`
	Channel     topology.ChannelID   `json:"channel,omitempty"`
	User        topology.UserID      `json:"user,omitempty"`
	MessageID   topology.MessageID   `json:"message_id,omitempty"`
	ClientMsgID string               `json:"client_msg_id,omitempty"`
	Root        topology.MessageID   `json:"root,omitempty"`
	Text        string               `json:"text,omitempty"`
	Seq         topology.Seq         `json:"seq,omitempty"`
	Rev         topology.Rev         `json:"rev,omitempty"`
	Replies     int                  `json:"replies,omitempty"`
	Private     bool                 `json:"private,omitempty"`
	Members     []topology.UserID    `json:"members,omitempty"`

	Name  string            `json:"name,omitempty"`
	State string            `json:"state,omitempty"`
	Cell  topology.CellID   `json:"cell,omitempty"`
	Epoch topology.Epoch    `json:"epoch,omitempty"`
	Token topology.Token    `json:"token,omitempty"`
	By    topology.ServerID `json:"server,omitempty"`
}

// Recovered is the State of an Append that was found in a takeover.
const Recovered = "recovered"

// States of a fault.
const (
	Begin = "begin"
	Ended = "end"
)
