// Package readstate keeps how far each user has read, and what mentions it.
// Unread counts are derived from it, never stored: head − max(last read, joined).
package readstate

import (
	"context"

	"parley/internal/topology"
)

// Mark is a user's place in a channel. Of two, the higher (Version, Seq) wins;
// "mark unread" is a new version.
type Mark struct {
	Version uint64
	Seq     topology.Seq
	Message topology.MessageID
}

// Less orders marks by (Version, Seq).
func (m Mark) Less(o Mark) bool {
	return m.Version < o.Version || m.Version == o.Version && m.Seq < o.Seq
}

// User names a user's rows.
type User struct {
	topology.Place
	ID topology.UserID
}

// Mention is a top-level message (Seq), or a reply under it, that mentions a user.
type Mention struct {
	User    User // ID change.MentionAll: everybody in the channel
	Channel topology.ChannelID
	Seq     topology.Seq
	Rev     topology.Rev
	Author  topology.UserID // who wrote it: a mention of everybody is none of its author
}

// Store keeps marks and mentions. The contract is run by readstatetest:
//
//  1. Put stores a mark if it is higher than the one there, atomically, durably,
//     and returns the one that is there afterwards.
//  2. Marks returns all of a user's marks, by channel.
//  3. AddMentions is repeatable: the same mention again changes nothing.
//  4. Mentions counts, for each of a user's channels named, the mentions of the
//     user or of everybody, by others, with seq above the given one; not beyond
//     MentionsMax. A change that mentions both the user and everybody is one.
type Store interface {
	Put(ctx context.Context, u User, ch topology.ChannelID, m Mark) (Mark, error)
	Marks(ctx context.Context, u User) (map[topology.ChannelID]Mark, error)
	AddMentions(ctx context.Context, ms []Mention) error
	Mentions(ctx context.Context, u User, above map[topology.ChannelID]topology.Seq) (map[topology.ChannelID]uint64, error)
}

// MentionsMax is where counting stops: badges show "99+" long before.
const MentionsMax = 1000
