// Package change is what a channel's log is made of: one Change per rev, whatever
// its kind, as one blob. It also makes and reads message ids.
package change

import "parley/internal/topology"

// Kind says what a change did. Append-only: the numbers are in every log.
type Kind uint8

// The kinds. Edits, deletes, reactions and pins get the next numbers.
const (
	Message Kind = 1 // a top-level message; Seq is its number in the channel
	Reply   Kind = 2 // a message in a thread; Seq is its number in the thread
	Created Kind = 3 // the channel was created by Author; Subjects are the first members
	Joined  Kind = 4 // Subjects became members; Author did it
	Left    Kind = 5 // Subjects are members no longer; Author did it
)

// Change is one row of a channel's log.
type Change struct {
	Rev         topology.Rev
	Kind        Kind
	Seq         topology.Seq       // Message, Reply
	TS          int64              // µs since 1970; strictly rising in a channel
	ID          topology.MessageID // Message, Reply
	Author      topology.UserID
	ClientMsgID string             // "" = none
	Root        topology.MessageID // Reply: the top-level message
	Text        string
	Mentions    []topology.UserID // who is mentioned; MentionAll = everyone in the channel
	Subjects    []topology.UserID // Created, Joined, Left

	// Confirmed is the head that was confirmed when this was written: a reader
	// without an owner may show changes up to the highest one it sees.
	Confirmed topology.Rev
	// HeadSeq is the number of top-level messages up to and with this change.
	HeadSeq topology.Seq
}

// MentionAll in Mentions stands for everyone in the channel (@channel, @here).
const MentionAll topology.UserID = "*"
