package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/eventlog"
	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// searchGather and bulkGather are two short waits, of a partition for more events
	// and of what was read for more of other partitions: a message has to be found
	// within 2 s, and the index may take most of them to show it.
	searchGather = 100 * time.Millisecond
	bulkGather   = 50 * time.Millisecond
	// searchActive partitions read side by side, searchPage changes each at a time,
	// and put together what they have read, bulkMax documents at once: some 10 MB,
	// and 300 MB if all of them were the longest there are.
	searchActive = 32
	searchPage   = 64
	bulkMax      = 1_000
	// bulksMax calls of the index are under way at once.
	bulksMax = 2
	// searchRetryMax is how long after an outage of the index its feed may stand still.
	searchRetryMax = 3 * time.Second
	// poisonTries is how often a change that can't be read is tried, with the
	// worker's pauses between, before it is left out.
	poisonTries = 4
	// poisonMax bounds the changes that are remembered as such.
	poisonMax = 1_000
)

// Rooms tells the indexer of channels.
type Rooms interface {
	Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (directory.Channel, error)
}

// searching indexes messages for search.
type searching struct {
	changes Changes
	rooms   Rooms
	bulk    bulks
	log     *slog.Logger

	mu     sync.Mutex
	poison map[place]int // how often it was tried
}

// place names a change.
type place struct {
	topology.ChannelRef
	rev topology.Rev
}

// NewSearch makes the consumer group that indexes messages for search.
func NewSearch(events eventlog.Log, c Changes, rooms Rooms, index search.Index, log *slog.Logger) (*Worker, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &searching{
		changes: c, rooms: rooms, log: log, poison: map[place]int{},
		bulk: bulks{index: index, log: log, slots: make(chan struct{}, bulksMax)},
	}
	return New(Config{Group: "search", Gather: searchGather, Active: searchActive, RetryMax: searchRetryMax}, Deps{Events: events, Handle: s.handle, Log: log})
}

func (s *searching) handle(ctx context.Context, events []eventlog.Event) error {
	type revs struct{ first, last topology.Rev }
	var order []topology.ChannelRef
	of := make(map[topology.ChannelRef]revs)
	for _, e := range events {
		if e.Kind != change.Message && e.Kind != change.Reply {
			continue
		}
		r, ok := of[e.Channel]
		if !ok {
			order = append(order, e.Channel)
			r.first = e.Rev
		}
		r.last = e.Rev
		of[e.Channel] = r
	}
	for _, ch := range order {
		if err := s.index(ctx, ch, of[ch].first, of[ch].last); err != nil {
			return err
		}
	}
	return nil
}

// index puts a channel's changes from a rev to another into the index.
func (s *searching) index(ctx context.Context, ch topology.ChannelRef, first, last topology.Rev) error {
	private, err := s.private(ctx, ch)
	if err != nil {
		return err
	}
	for after := first - 1; after < last; {
		changes, skip, err := s.read(ctx, ch, after, int(min(last-after, searchPage)))
		if err != nil {
			return err
		}
		if skip > 0 {
			after = skip
			continue
		}
		var docs []search.Doc
		for i := range changes {
			if c := &changes[i].Change; c.Rev <= last && (c.Kind == change.Message || c.Kind == change.Reply) {
				docs = append(docs, search.DocOf(ch, c, private))
			}
		}
		if len(docs) > 0 {
			if err := s.bulk.put(ctx, docs); err != nil {
				return err
			}
		}
		after = changes[len(changes)-1].Rev
	}
	return nil
}

// private is whether a channel is; one that is not there any more is treated as
// if: only its members, whom there are none of, would find it.
func (s *searching) private(ctx context.Context, ch topology.ChannelRef) (bool, error) {
	row, err := s.rooms.Channel(ctx, ch.Place, ch.Channel)
	if problem.Is(err, problem.NotFound) {
		return true, nil
	}
	return row.Private, err
}

// read reads changes after a rev. skip, if not 0, is a rev up to which nothing can
// be indexed: what the log no longer has, or a change that no try could read.
func (s *searching) read(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) (_ []channel.Event, skip topology.Rev, err error) {
	changes, err := s.changes.Changes(ctx, ch, after, limit)
	if err != nil && limit > 1 && unreadable(err) { // find out which one it is
		changes, err = s.changes.Changes(ctx, ch, after, 1)
	}
	switch {
	case problem.Is(err, problem.Conflict):
		s.log.Warn("changes are gone from the log, their messages not indexed", "channel", ch.Channel, "rev", after+1)
		return nil, after + topology.Rev(limit), nil //nolint:gosec // it is positive
	case err != nil && unreadable(err) && s.giveUp(place{ch, after + 1}):
		s.log.Warn("a change can't be read, its message not indexed", "channel", ch.Channel, "rev", after+1, "err", err)
		return nil, after + 1, nil
	case err == nil && len(changes) == 0:
		err = problem.New(problem.Unavailable, "the log does not reach rev %d yet", after+1)
	}
	return changes, 0, err
}

// unreadable reports whether an error is about what is read, not about reading.
func unreadable(err error) bool {
	k := problem.KindOf(err)
	return k == problem.Internal || k == problem.Unsupported
}

// giveUp counts a try, and reports whether it was the last.
func (s *searching) giveUp(at place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.poison) >= poisonMax {
		clear(s.poison)
	}
	s.poison[at]++
	return s.poison[at] >= poisonTries
}

// bulks puts together what partitions have read, so that the index gets few large
// calls. Who comes first waits for the others and makes the call.
type bulks struct {
	index search.Index
	log   *slog.Logger
	slots chan struct{} // held during a call of the index

	mu   sync.Mutex
	open *bulk // nil = the next to come begins one
}

// bulk is one call of the index in the making.
type bulk struct {
	docs []search.Doc  // under bulks.mu while it is open
	full chan struct{} // closed when nothing more fits
	done chan struct{} // closed when err is set
	err  error
}

// put returns when the documents are in the index.
func (b *bulks) put(ctx context.Context, docs []search.Doc) error {
	b.mu.Lock()
	mine := b.open
	leads := mine == nil
	if leads {
		mine = &bulk{full: make(chan struct{}), done: make(chan struct{})}
		b.open = mine
	}
	mine.docs = append(mine.docs, docs...)
	if len(mine.docs) >= bulkMax {
		b.open = nil
		close(mine.full)
	}
	b.mu.Unlock()
	if leads {
		b.call(ctx, mine)
	}
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call waits for more, then puts all there is.
func (b *bulks) call(ctx context.Context, mine *bulk) {
	defer close(mine.done)
	t := time.NewTimer(bulkGather)
	defer t.Stop()
	select {
	case <-mine.full:
	case <-t.C:
	case <-ctx.Done():
	}
	select {
	case b.slots <- struct{}{}: // meanwhile more may come
		defer func() { <-b.slots }()
	case <-ctx.Done():
	}
	b.mu.Lock()
	if b.open == mine {
		b.open = nil
	}
	b.mu.Unlock()
	if mine.err = ctx.Err(); mine.err != nil {
		return
	}
	err := b.index.Put(ctx, mine.docs)
	if refused, ok := errors.AsType[*search.Refused](err); ok {
		b.log.Warn("the index refuses messages: they will not be found", "message", refused.IDs[0], "count", len(refused.IDs), "err", refused)
		err = nil
	}
	mine.err = err
}
