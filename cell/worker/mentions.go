package worker

import (
	"context"
	"log/slog"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Changes reads a channel's confirmed changes.
type Changes interface {
	Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error)
}

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
	return New(Config{Group: "mentions"}, events, m.handle, log)
}

func (m *mentions) handle(ctx context.Context, events []eventlog.Event) error {
	for len(events) > 0 {
		n := run(events)
		if err := m.index(ctx, events[0].Channel, events[0].Rev-1, n); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// run is how many of the first events are of one channel without a gap: one read
// serves them.
func run(events []eventlog.Event) int {
	n := 1
	for n < len(events) && events[n].Channel == events[0].Channel && events[n].Rev == events[n-1].Rev+1 {
		n++
	}
	return n
}

func (m *mentions) index(ctx context.Context, ch topology.ChannelRef, after topology.Rev, n int) error {
	var found []readstate.Mention
	for n > 0 {
		changes, err := m.changes.Changes(ctx, ch, after, n)
		if problem.Is(err, problem.Conflict) { // older than the log: nobody's badge shows it any more
			m.log.Warn("mentions are too far behind and skipped", "channel", ch.Channel, "rev", after)
			break
		}
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			return problem.New(problem.Unavailable, "the log does not reach rev %d yet", after+1)
		}
		for _, c := range changes[:min(n, len(changes))] {
			found = appendMentions(found, ch, c.Change)
			after = c.Rev
		}
		n -= min(n, len(changes))
	}
	if len(found) == 0 {
		return nil
	}
	return m.marks.AddMentions(ctx, found)
}

func appendMentions(to []readstate.Mention, ch topology.ChannelRef, c change.Change) []readstate.Mention {
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
