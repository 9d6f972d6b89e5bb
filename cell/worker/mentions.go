package worker

import (
	"context"
	"log/slog"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/msglog"
	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Changes reads a channel's changes after a rev, rising, at most limit. It is
// asked only for those that an event named: they are confirmed. Kind Conflict says
// that they are not kept any more.
type Changes interface {
	Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error)
}

// FromLog reads changes straight from the message store, which has what was
// confirmed whether its shard has an owner or not, and however far a reader is
// behind. The events have no payload.
func FromLog(store msglog.Store) Changes { return logged{store} } //nolint:ireturn // the type says nothing more

type logged struct{ store msglog.Store }

func (l logged) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error) {
	rows, err := l.store.Tail(ctx, ch, after+1, limit)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, problem.New(problem.Conflict, "the log no longer has rev %d", after+1)
	}
	out := make([]channel.Event, 0, len(rows))
	for _, r := range rows {
		c, err := change.Decode(r.Blob)
		if err != nil {
			return nil, err
		}
		out = append(out, channel.Event{Change: c})
	}
	return out, nil
}

// mentionsGather delays a badge by less than anybody sees, and spares most of the
// work: shards get a few posts in it.
const mentionsGather = 100 * time.Millisecond

// mentions indexes who is mentioned where.
type mentions struct {
	changes Changes
	marks   readstate.Store
	log     *slog.Logger
}

// NewMentions makes the consumer group that indexes mentions: those above a user's
// mark count as unread. A mention in a reply counts at its root.
func NewMentions(events eventlog.Log, c Changes, marks readstate.Store, log *slog.Logger) (*Worker, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &mentions{changes: c, marks: marks, log: log}
	return New(Config{Group: "mentions", Gather: mentionsGather}, Deps{Events: events, Handle: m.handle, Log: log})
}

func (m *mentions) handle(ctx context.Context, events []eventlog.Event) error {
	var order []topology.ChannelRef
	revs := make(map[topology.ChannelRef][]topology.Rev)
	for _, e := range events {
		if e.Plain || (e.Kind != change.Message && e.Kind != change.Reply) {
			continue
		}
		if revs[e.Channel] == nil {
			order = append(order, e.Channel)
		}
		revs[e.Channel] = append(revs[e.Channel], e.Rev)
	}
	for _, ch := range order {
		if err := m.index(ctx, ch, revs[ch]); err != nil {
			return err
		}
	}
	return nil
}

// index adds the mentions of a channel's changes from the first rev to the last:
// those between that no event named are looked at, too, and do no harm.
func (m *mentions) index(ctx context.Context, ch topology.ChannelRef, revs []topology.Rev) error {
	after, last := revs[0]-1, revs[len(revs)-1]
	for after < last {
		changes, err := m.changes.Changes(ctx, ch, after, int(min(last-after, batchNormal)))
		if problem.Is(err, problem.Conflict) {
			// Older than the log: the workspace was deleted, or this group stood
			// still for longer than the log is kept.
			m.log.Warn("changes are gone from the log, their mentions left out", "channel", ch.Channel, "rev", after+1)
			return nil
		}
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			return problem.New(problem.Unavailable, "the log does not reach rev %d yet", after+1)
		}
		var found []readstate.Mention
		for i := range changes {
			if c := &changes[i].Change; c.Rev <= last {
				found = appendMentions(found, ch, c)
			}
		}
		if len(found) > 0 {
			if err := m.marks.AddMentions(ctx, found); err != nil {
				return err
			}
		}
		after = changes[len(changes)-1].Rev
	}
	return nil
}

func appendMentions(to []readstate.Mention, ch topology.ChannelRef, c *change.Change) []readstate.Mention {
	seq := c.Seq
	if c.Kind == change.Reply {
		root, err := change.ParseID(c.Root)
		if err != nil {
			return to // a root that no log can hold
		}
		seq = root.Seq
	}
	for _, u := range c.Mentions {
		to = append(to, readstate.Mention{
			User: readstate.User{Place: ch.Place, ID: u}, Channel: ch.Channel, Seq: seq, Rev: c.Rev, Author: c.Author,
		})
	}
	return to
}
