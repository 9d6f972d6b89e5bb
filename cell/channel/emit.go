package channel

import (
	"context"
	"sync"
	"time"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/internal/topology"
)

const (
	// emitChannels and emitEvents bound one round of an emitter: of channels, and of
	// events, which are some 60 bytes each.
	emitChannels = 256
	emitEvents   = 2048
	// emitMax bounds one append. The event log may be away for hours; what is not
	// in it waits in the message log, and costs no memory here but what briefsMax allows.
	emitMax = 20 * time.Second
	// briefsMax bounds the changes of a channel whose events are remembered, two bytes
	// each. Beyond it they are read from the log, as after a takeover: an import or a
	// short outage must not cost a read of all that was just written.
	briefsMax = 16_384
	// What is in the event log is marked once in markBeacons beats, markActive channels
	// side by side. Who takes over in between emits again what is not marked; everybody
	// who reads events knows them by their revs.
	markBeacons = 5
	markActive  = 16
)

// emission is what the event log lacks of a channel: the revs above done, up to
// upTo, which history has. Under the shard's lock.
type emission struct {
	ref        topology.ChannelRef
	done, upTo topology.Rev
	queued     bool
	// briefs are of the changes above done, without gaps, as far as they are known.
	briefs []brief
}

// brief is what an event tells of a change beside its place.
type brief struct {
	kind  change.Kind
	plain bool
}

// remember takes changes that follow what is known.
func (e *emission) remember(cs []change.Change) {
	for i := range cs {
		if next := e.done + topology.Rev(len(e.briefs)) + 1; cs[i].Rev == next && len(e.briefs) < briefsMax {
			e.briefs = append(e.briefs, briefOf(&cs[i]))
		}
	}
}

func briefOf(c *change.Change) brief { return brief{kind: c.Kind, plain: len(c.Mentions) == 0} }

// emitSoon queues events of a channel for the emitter. cs are what is known of their
// changes.
func (sh *shard) emitSoon(ref topology.ChannelRef, above, upTo topology.Rev, cs []change.Change) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed || above >= upTo {
		return
	}
	e := sh.emissions[ref]
	if e == nil {
		e = &emission{ref: ref, done: above, upTo: above}
		sh.emissions[ref] = e
	}
	if above < e.done { // history lost its last writes, its mark among them
		sh.unemitted.Add(int64(e.done - above)) //nolint:gosec // far below 2^63
		e.done, e.briefs = above, nil
	}
	if upTo > e.upTo {
		sh.unemitted.Add(int64(upTo - e.upTo)) //nolint:gosec // far below 2^63
		e.upTo = upTo
	}
	e.remember(cs)
	if !e.queued {
		e.queued = true
		sh.emitQueue = append(sh.emitQueue, e)
		nudge(sh.kickEmit)
	}
}

// spell is some revs of a channel that go into the event log together.
type spell struct {
	*emission

	above, upTo topology.Rev
	known       []brief // of all of its changes, or none
}

// parcel is one round's events. It is repeated until it is done with, so that an
// outage is spent waiting, not reading the same changes again.
type parcel struct {
	spells []spell
	events []eventlog.Event
}

// emit is the emitter: it tells the event log of what history has, until the shard
// is lost. The event log's outage holds up nothing else.
func (sh *shard) emit() {
	var p *parcel
	sh.keepAt(sh.kickEmit, 0, "events not emitted; trying again", func() (func() error, bool) {
		if p != nil {
			return func() error { return sh.send(&p) }, sh.ctx.Err() == nil
		}
		queue, on := sh.nextEmissions()
		if queue == nil {
			return nil, on
		}
		return func() (err error) {
			if p, err = sh.pack(queue); err != nil {
				sh.emitAgain(queue)
				return err
			}
			return sh.send(&p)
		}, on
	})
}

// nextEmissions takes the channels of the next round; on is false when the
// emitter's work is over.
func (sh *shard) nextEmissions() (queue []*emission, on bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.emitQueue) == 0 || sh.closed {
		return nil, !sh.closed
	}
	n := min(emitChannels, len(sh.emitQueue))
	queue = sh.emitQueue[:n:n]
	sh.emitQueue = sh.emitQueue[n:]
	if len(sh.emitQueue) == 0 {
		sh.emitQueue = nil
	}
	return queue, true
}

// emitAgain puts channels back that are not done with.
func (sh *shard) emitAgain(queue []*emission) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := time.Now()
	for _, e := range queue {
		if e.done < e.upTo {
			sh.emitQueue = append(sh.emitQueue, e)
			continue
		}
		e.queued = false
		delete(sh.emissions, e.ref)
		sh.cleaning[e.ref] = cleaning{upTo: e.done, since: now}
	}
}

// pack reads the next events of some channels.
func (sh *shard) pack(queue []*emission) (*parcel, error) {
	p := &parcel{}
	for i, e := range queue {
		left := emitEvents - len(p.events)
		if left <= 0 {
			sh.emitAgain(queue[i:]) // their turn comes
			break
		}
		sh.mu.Lock()
		s := spell{emission: e, above: e.done, upTo: min(e.upTo, e.done+topology.Rev(left))}
		if n := min(len(e.briefs), int(s.upTo-s.above)); n > 0 { //nolint:gosec // at most emitEvents
			s.known, s.upTo = e.briefs[:n:n], s.above+topology.Rev(n)
		}
		r := sh.rooms[e.ref]
		sh.mu.Unlock()
		events, err := sh.eventsOf(&s, r)
		if err != nil {
			return nil, err
		}
		p.spells = append(p.spells, s)
		p.events = append(p.events, events...)
	}
	return p, nil
}

// eventsOf makes the events of a spell: of what is known, from memory, or from the
// log, and then maybe fewer at a time.
func (sh *shard) eventsOf(s *spell, r *room) ([]eventlog.Event, error) {
	if len(s.known) > 0 {
		events := make([]eventlog.Event, len(s.known))
		for i, b := range s.known {
			events[i] = b.event(s.ref, s.above+topology.Rev(i)+1)
		}
		return events, nil
	}
	if r != nil && r.isOpen() {
		if events := r.eventsOf(s); events != nil {
			return events, nil
		}
	}
	cs, err := sh.hold.Tail(sh.ctx, s.ref, s.above+1, int(min(s.upTo-s.above, logPage)))
	if err != nil {
		return nil, err
	}
	if len(cs) == 0 || cs[0].Rev != s.above+1 {
		// They are older than the log's retention, so no worker waits for them.
		sh.s.log.Warn("events are older than the log and were left out", "shard", sh.id, "channel", s.ref.Channel, "rev", s.above+1)
		return nil, nil
	}
	events := make([]eventlog.Event, 0, len(cs))
	for i := range cs {
		if cs[i].Rev <= s.upTo {
			events = append(events, eventOf(s.ref, &cs[i]))
			s.upTo = max(s.above+1, cs[i].Rev)
		}
	}
	return events, nil
}

// eventsOf makes events of what is in memory; nil if some of them are not.
func (r *room) eventsOf(s *spell) []eventlog.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.above+1 < r.tail.from || s.upTo > r.tail.head.Rev {
		return nil
	}
	events := make([]eventlog.Event, 0, s.upTo-s.above)
	for rev := s.above + 1; rev <= s.upTo; rev++ {
		events = append(events, eventOf(s.ref, &r.tail.at(rev).Change))
	}
	return events
}

func eventOf(ref topology.ChannelRef, c *change.Change) eventlog.Event {
	return briefOf(c).event(ref, c.Rev)
}

func (b brief) event(ref topology.ChannelRef, rev topology.Rev) eventlog.Event {
	return eventlog.Event{Channel: ref, Rev: rev, Kind: b.kind, Plain: b.plain}
}

// send appends a parcel; then it is no more.
func (sh *shard) send(p **parcel) error {
	ctx, cancel := context.WithTimeout(sh.ctx, emitMax)
	defer cancel()
	if err := sh.s.deps.Events.Append(ctx, sh.id, (*p).events); err != nil {
		return err
	}
	queue := make([]*emission, 0, len((*p).spells))
	sh.mu.Lock()
	for _, s := range (*p).spells {
		sh.unmarked[s.ref] = s.upTo
		if s.done == s.above { // else history fell back meanwhile
			s.done = s.upTo
			s.briefs = s.briefs[min(len(s.briefs), int(s.upTo-s.above)):] //nolint:gosec // at most emitEvents
			sh.unemitted.Add(-int64(s.upTo - s.above))                    //nolint:gosec // far below 2^63
		}
		queue = append(queue, s.emission)
	}
	sh.mu.Unlock()
	sh.emitAgain(queue)
	*p = nil
	return nil
}

// markEmitted marks what has come into the event log since it last did.
func (s *Server) markEmitted(ctx context.Context) {
	slots := make(chan struct{}, markActive)
	var all sync.WaitGroup
	defer all.Wait()
	for i := range s.held {
		sh := s.held[i].Load()
		if sh == nil {
			continue
		}
		for ref, rev := range sh.takeUnmarked() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			all.Go(func() {
				defer func() { <-slots }()
				if err := s.deps.History.SetEmitted(ctx, ref, rev); err != nil {
					sh.markAfterwards(ref, rev)
				}
			})
		}
	}
}

func (sh *shard) takeUnmarked() map[topology.ChannelRef]topology.Rev {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	taken := sh.unmarked
	sh.unmarked = map[topology.ChannelRef]topology.Rev{}
	return taken
}

// markAfterwards is for a mark that could not be made; one that has come since counts.
func (sh *shard) markAfterwards(ref topology.ChannelRef, rev topology.Rev) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if _, later := sh.unmarked[ref]; !later {
		sh.unmarked[ref] = rev
	}
}
