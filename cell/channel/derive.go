package channel

import (
	"context"
	"time"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// deriveRooms, deriveChanges and deriveBytes bound one round of a tailer: of
	// channels, of changes, and roughly of their texts.
	deriveRooms   = 256
	deriveChanges = 2048
	deriveBytes   = 4 << 20
	// Failed rounds are repeated after deriveWaitMin, doubled up to deriveWaitMax.
	deriveWaitMin = 10 * time.Millisecond
	deriveWaitMax = 2 * time.Second
	// A tailer waits for more once it has something to do: a round costs the stores
	// as much for one change as for fifty, and readers have the owner's tail
	// meanwhile. It waits deriveGatherMin at first, so that a shard that is lost
	// soon derives something, doubled by each round up to deriveGatherMax, which
	// delays mentions and search by less than anybody sees.
	deriveGatherMin = 20 * time.Millisecond
	deriveGatherMax = 160 * time.Millisecond
	// cleanAfter is how long a channel is idle before it is taken off the list of
	// those to recover: each is a write that a busy channel would undo.
	cleanAfter = 10 * time.Second
	// cleanMax bounds the channels of a shard that are cleaned in one go.
	cleanMax = 512
)

// deriveSoon queues a channel for the tailer.
func (sh *shard) deriveSoon(r *room) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r.late || sh.closed {
		return
	}
	r.late = true
	sh.late = append(sh.late, r)
	nudge(sh.kickTail)
}

// derive is the tailer: it carries confirmed changes into history, and then hands
// them to the emitter, until the shard is lost. What it can't do now it does later:
// the next owner does the same from the same marks.
func (sh *shard) derive() {
	sh.keepAt(sh.kickTail, deriveGatherMin, "changes not derived; trying again", func() (func() error, bool) {
		rooms, on := sh.lateRooms()
		if rooms == nil {
			return nil, on
		}
		return func() error {
			err := sh.round(sh.ctx, rooms)
			sh.requeue(rooms)
			sh.s.eased.fire()
			return err
		}, on
	})
}

// keepAt does rounds of work until there are none any more. next gives a round, or
// nil while there is nothing to do; a kick says that there may be, and more comes
// within gather, which each round doubles up to deriveGatherMax.
func (sh *shard) keepAt(kick <-chan struct{}, gather time.Duration, failed string, next func() (round func() error, on bool)) {
	wait := deriveWaitMin
	for {
		round, on := next()
		if !on {
			return
		}
		if round == nil {
			<-kick
			if gather > 0 {
				pause(sh.ctx, gather)
			}
			continue
		}
		err := round()
		if err == nil {
			wait, gather = deriveWaitMin, min(2*gather, deriveGatherMax)
			continue
		}
		if sh.ctx.Err() == nil {
			sh.s.metrics.retries.Inc()
			sh.s.log.Warn("derived data is behind", "step", failed, "shard", sh.id, "err", err)
		}
		if !pause(sh.ctx, wait) {
			continue // next ends it
		}
		wait = min(2*wait, deriveWaitMax)
	}
}

// lateRooms takes the channels of the next round; on is false when the tailer's
// work is over.
func (sh *shard) lateRooms() (rooms []*room, on bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.late) == 0 || sh.closed {
		return nil, !sh.closed
	}
	n := min(deriveRooms, len(sh.late))
	rooms = sh.late[:n:n]
	sh.late = sh.late[n:]
	if len(sh.late) == 0 {
		sh.late = nil
	}
	return rooms, true
}

// requeue puts channels that are still behind to the end.
func (sh *shard) requeue(rooms []*room) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, r := range rooms {
		r.mu.Lock()
		applied, head := r.tail.applied, r.tail.head.Rev
		r.mu.Unlock()
		if applied < head {
			sh.late = append(sh.late, r)
			continue
		}
		r.late = false
	}
}

// budget is what is left of a round.
type budget struct{ changes, bytes int }

// behind is what a round does for one channel.
type behind struct {
	room    *room
	changes []change.Change // from a rev up to applied+1 on
}

// round derives some changes of some channels.
func (sh *shard) round(ctx context.Context, rooms []*room) error {
	todo, err := sh.gather(ctx, rooms)
	if err != nil || len(todo) == 0 {
		return err
	}
	batches := make([]history.Batch, 0, len(todo))
	for _, b := range todo {
		batches = append(batches, history.Batch{Channel: b.room.ref, Changes: b.changes})
	}
	if err := sh.s.deps.History.Apply(ctx, batches); err != nil {
		if problem.Is(err, problem.Conflict) {
			sh.markAgain(ctx, todo)
		}
		return err
	}
	for _, b := range todo {
		sh.applied(b)
	}
	return nil
}

// gather is what the round's budget allows of the channels' changes.
func (sh *shard) gather(ctx context.Context, rooms []*room) ([]behind, error) {
	todo := make([]behind, 0, len(rooms))
	left := budget{changes: deriveChanges, bytes: deriveBytes}
	for _, r := range rooms {
		if left.changes <= 0 || left.bytes <= 0 {
			break // the others' turn comes
		}
		cs, err := sh.underived(ctx, r, &left)
		if err != nil {
			return nil, err
		}
		if len(cs) > 0 {
			todo = append(todo, behind{r, cs})
		}
	}
	return todo, nil
}

// applied notes what history has now, and has events made of it.
func (sh *shard) applied(b behind) {
	last := b.changes[len(b.changes)-1].Rev
	b.room.mu.Lock()
	t := b.room.tail
	was := t.applied
	if last > was {
		sh.lag.Add(-int64(last - was)) //nolint:gosec // far below 2^63
		sh.heavy.Add(-t.weight(was, last))
		t.applied = last
	}
	t.trim()
	b.room.mu.Unlock()
	sh.emitSoon(b.room.ref, was, last, b.changes)
}

// underived is the next changes of a channel that history lacks: from memory, or
// from the log, if history fell back.
func (sh *shard) underived(ctx context.Context, r *room, left *budget) ([]change.Change, error) {
	r.mu.Lock()
	t := r.tail
	from, head := t.applied+1, t.head.Rev
	var cs []change.Change
	if from >= t.from {
		for rev := from; rev <= head && left.changes > 0 && left.bytes > 0; rev++ {
			e := t.at(rev)
			left.changes--
			left.bytes -= e.bytes()
			cs = append(cs, e.Change)
		}
		r.mu.Unlock()
		return cs, nil
	}
	until := t.from - 1
	r.mu.Unlock()
	cs, err := sh.hold.Tail(ctx, r.ref, from, int(min(until-from+1, logPage)))
	left.changes -= len(cs)
	if err != nil {
		return nil, err
	}
	if len(cs) == 0 || cs[0].Rev != from { // history is never that far behind
		return nil, problem.New(problem.Internal, "the log of channel %s lacks rev %d, which is not derived", r.ref.Channel, from)
	}
	return cs, nil
}

// markAgain reads where history is: it may be behind what this server believes
// if it lost its last writes.
func (sh *shard) markAgain(ctx context.Context, todo []behind) {
	for _, b := range todo {
		m, err := sh.s.deps.History.Mark(ctx, b.room.ref)
		if err != nil {
			return
		}
		b.room.mu.Lock()
		t := b.room.tail
		was := t.applied
		if m.Applied < was {
			sh.lag.Add(int64(was - m.Applied)) //nolint:gosec // far below 2^63
			sh.heavy.Add(t.weight(m.Applied, was))
			t.applied = m.Applied
		}
		b.room.mu.Unlock()
		// What is in history again is emitted again; so is what the mark lacks below.
		sh.emitSoon(b.room.ref, min(m.Emitted, m.Applied), m.Applied, nil)
	}
}

// clean takes channels that are idle and derived off the list to recover.
func (sh *shard) clean(ctx context.Context) {
	type job struct {
		ref topology.ChannelRef
		cleaning
	}
	var jobs []job
	now := time.Now()
	sh.mu.Lock()
	for ref, c := range sh.cleaning {
		if now.Sub(c.since) >= cleanAfter && len(jobs) < cleanMax {
			jobs = append(jobs, job{ref, c})
		}
	}
	sh.mu.Unlock()
	for _, j := range jobs {
		if err := sh.hold.Clean(ctx, j.ref, j.upTo); err != nil {
			return // the next tick goes on
		}
		sh.mu.Lock()
		if sh.cleaning[j.ref] == j.cleaning {
			delete(sh.cleaning, j.ref)
		}
		sh.mu.Unlock()
	}
}
