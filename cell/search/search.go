// Package search is the index of messages. An index only proposes: it gives the
// ids of messages that matched when they were indexed. Whoever answers a person
// reads each message afresh, checks that the person may see it, and matches it
// again with Query.Match; so an index that is behind shows nothing wrong.
package search

import (
	"context"
	"time"

	"parley/cell/change"
	"parley/cell/search/text"
	"parley/internal/topology"
)

// Doc is a message as it is indexed.
type Doc struct {
	Channel topology.ChannelRef
	ID      topology.MessageID
	// Version is the rev of the change that made the message what it is here: of
	// two docs with one id the one with the higher version counts.
	Version topology.Rev
	TS      int64              // µs; never changes for an id, nor does Root
	Seq     topology.Seq       // in its channel; a reply's in its thread
	Root    topology.MessageID // of a reply
	Author  topology.UserID
	Private bool   // whether the channel is, as far as is known
	Text    string // what it says; "" with Gone
	Gone    bool   // it was deleted: it is found no more, and no older version brings it back
}

// DocOf is the document of a message or a reply.
func DocOf(ch topology.ChannelRef, c *change.Change, private bool) Doc {
	return Doc{
		Channel: ch, ID: c.ID, Version: c.Rev, TS: c.TS, Seq: c.Seq, Root: c.Root, Author: c.Author, Private: private, Text: c.Text,
	}
}

// Order is how hits are sorted.
type Order int

// The orders. Hits that are equal in relevance are sorted as with Newest.
const (
	Newest   Order = iota // by time, then id, both falling
	Relevant              // best first
)

// Query says what to find.
type Query struct {
	Place topology.Place
	All   []Phrase // each must be in the message
	None  []Phrase // none may be
	// Authors and Channels bound where to look: one of each; empty = no bound.
	Authors  []topology.UserID
	Channels []topology.ChannelID
	// Mine are the channels that the asker is in. What is neither there nor in a
	// public channel is not found, unless Everything is set.
	Mine       []topology.ChannelID
	Everything bool
	From, To   int64 // µs: From <= TS < To; To 0 = no bound
	Order      Order
	After      *Point // with Newest: only what comes after it
	Limit      int
}

// ChannelsMax bounds Channels and Mine, as engines bound lists of terms.
const ChannelsMax = 65_536

// Point is a place in an order of hits.
type Point struct {
	Score float64 // with Relevant
	TS    int64
	ID    topology.MessageID
}

// Hit is a message that an index proposes.
type Hit struct {
	Point
	Channel topology.ChannelID
	Seq     topology.Seq
	Root    topology.MessageID
}

// Index keeps documents of all workspaces of a cell. The contract is run by
// searchtest:
//
//  1. Put stores documents; of one id only that with the highest version counts,
//     in whatever order they come; the same version again takes the place of the
//     former. After nil they are durable, and found within VisibleMax.
//  2. Put of a document that the index will never take gives a *Refused error
//     that names it; the others of the call are stored. Any other error says
//     nothing: all of the call may be put again.
//  3. Find gives what matches, all of it and nothing else, of the place only, in
//     the order asked for, at most limit. A document matches if all conditions of
//     the query hold; a Phrase is in a text as Phrase.In says.
//  4. Paging with After set to the last hit's Point gives each hit once, also if
//     something newer is put meanwhile. By relevance, a larger limit gives the same
//     hits first if nothing is put meanwhile.
//  5. Sweep takes out documents of the place that were put before a moment, at
//     most limit, and says how many; fewer than limit = no more are left. Sweeping
//     all of a place leaves nothing of it, deletions included.
//  6. Places don't touch: nothing that is done in one shows in another.
//  7. A context that has ended, and an engine that can't be reached, give kind
//     Unavailable.
type Index interface {
	Put(ctx context.Context, docs []Doc) error
	Find(ctx context.Context, q Query) ([]Hit, error)
	Sweep(ctx context.Context, p topology.Place, before time.Time, limit int) (int, error)
}

// VisibleMax is how long a document that was put may be missing from what is found.
const VisibleMax = 1500 * time.Millisecond

// Refused says which documents an index will never take.
type Refused struct {
	IDs []topology.MessageID
	Why string // of the first
}

// Error implements error.
func (r *Refused) Error() string { return "the index takes a document never: " + r.Why }

// Less reports whether a comes before b in an order.
func (o Order) Less(a, b Point) bool {
	switch {
	case o == Relevant && a.Score != b.Score:
		return a.Score > b.Score
	case a.TS != b.TS:
		return a.TS > b.TS
	default:
		return a.ID > b.ID
	}
}

// Match reports whether a text satisfies the query's phrases, and where in it.
// The other conditions are not about the text.
func (q *Query) Match(t text.Text) (where []Span, ok bool) {
	for _, p := range q.None {
		if len(p.In(t)) > 0 {
			return nil, false
		}
	}
	for _, p := range q.All {
		found := p.In(t)
		if len(found) == 0 {
			return nil, false
		}
		where = append(where, found...)
	}
	return merged(where), true
}

// Reaches reports whether messages of a year may be found.
func (q *Query) Reaches(year int) bool {
	begin := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	end := time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	older := q.Order != Newest || q.After == nil || begin <= q.After.TS
	return q.From < end && (q.To == 0 || begin < q.To) && older
}
