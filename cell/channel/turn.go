package channel

import (
	"context"
	"sync/atomic"
	"time"

	"parley/cell/change"
	"parley/cell/msglog"
	"parley/cell/router"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// request is something to be committed to one channel.
type request struct {
	room   *room
	weight int // changes, for the bound of a commit
	bytes  int // of text, for the same
	// number makes the request's changes in the draft. It returns what to answer,
	// and whether that holds only once the draft is committed. It leaves the draft
	// alone when it returns an error. Only the shard's worker calls it.
	number func(ctx context.Context, d *draft) (rep reply, hinges bool, err error)

	state atomic.Int32 // one of the below
	done  chan reply   // capacity 1: answered once
	rep   reply        // the worker's, until answered
}

const (
	reqWaits int32 = iota
	reqTaken
	reqGivenUp
)

// reply answers a request.
type reply struct {
	change change.Change
	count  uint64
	err    error
}

func newRequest(r *room, weight, bytes int, number func(context.Context, *draft) (reply, bool, error)) *request {
	return &request{room: r, weight: weight, bytes: bytes, number: number, done: make(chan reply, 1)}
}

func (r *request) fail(err error) {
	if r.state.CompareAndSwap(reqWaits, reqTaken) {
		r.done <- reply{err: err}
	}
}

// submit has a request committed and waits for the answer.
func (sh *shard) submit(ctx context.Context, r *request) (reply, error) {
	if err := sh.enqueue(r); err != nil {
		return reply{}, err
	}
	select {
	case rep := <-r.done:
		return rep, rep.err
	case <-ctx.Done():
	}
	if r.state.CompareAndSwap(reqWaits, reqGivenUp) {
		return reply{}, problem.Wrap(ctx.Err(), problem.Unavailable, "the request waited too long; try again")
	}
	return reply{}, problem.Wrap(ctx.Err(), problem.Unknown, "the request took too long and may have been done; repeat it with the same key")
}

// draft is what one commit will add to one channel. It is lost without a trace
// if the commit fails.
type draft struct {
	room    *room
	now     time.Time
	head    Head         // with the draft
	from    topology.Rev // the first rev in memory when the draft began
	was     topology.Rev // the confirmed head
	entries []entry
	keys    map[keyID]int // index in entries
	threads map[topology.Seq]topology.Seq
	quiet   bool // an import: nobody is told change by change
}

func newDraft(r *room, now time.Time) *draft {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &draft{room: r, now: now, head: r.tail.head, was: r.tail.head.Rev, from: r.tail.from}
}

// add numbers a change and puts it into the draft. ts 0 means now. The root's
// seq and the number in its thread belong to a reply.
func (d *draft) add(c change.Change, ts int64, number uint64, root, reply topology.Seq) change.Change {
	if ts == 0 {
		ts = max(d.now.UnixMicro(), d.head.TS+1)
	}
	d.head.Rev++
	d.head.TS = ts
	c.Rev, c.TS, c.Confirmed = d.head.Rev, ts, d.was
	switch c.Kind { //nolint:exhaustive // the others have no number
	case change.Message:
		d.head.Seq++
		c.Seq = d.head.Seq
		c.ID = change.NewID(ts/1000, number, c.Seq, 0)
	case change.Reply:
		c.Seq = reply
		c.ID = change.NewID(ts/1000, number, 0, c.Rev)
		if d.threads == nil {
			d.threads = map[topology.Seq]topology.Seq{}
		}
		d.threads[root] = reply
	}
	c.HeadSeq = d.head.Seq
	if c.ClientMsgID != "" {
		if d.keys == nil {
			d.keys = map[keyID]int{}
		}
		d.keys[keyID{c.Author, c.ClientMsgID}] = len(d.entries)
	}
	d.entries = append(d.entries, entry{Change: c})
	return c
}

// turn numbers what requests want, commits it, and only then lets it out.
func (sh *shard) turn(batch []*request) {
	now := sh.s.now()
	drafts := map[*room]*draft{}
	var order []*draft
	var waiting []*request
	for _, r := range batch {
		if !r.state.CompareAndSwap(reqWaits, reqTaken) {
			continue
		}
		d := drafts[r.room]
		if d == nil {
			d = newDraft(r.room, now)
			drafts[r.room] = d
			order = append(order, d)
		}
		rep, hinges, err := r.number(sh.ctx, d)
		switch {
		case err != nil:
			r.done <- reply{err: sh.orLeft(err)}
		case hinges:
			r.rep = rep
			waiting = append(waiting, r)
		default:
			r.done <- rep
		}
	}
	if len(waiting) == 0 {
		return
	}
	if err := sh.commit(order); err != nil {
		for _, r := range waiting {
			r.done <- reply{err: err}
		}
		return
	}
	for _, r := range waiting {
		r.done <- r.rep
	}
}

// commit makes drafts durable and confirmed, then shows them: to readers, to
// those who follow, in the next beacon, and to what is derived.
func (sh *shard) commit(drafts []*draft) error {
	batches := make([]msglog.Batch, 0, len(drafts))
	count := 0
	for _, d := range drafts {
		if len(d.entries) == 0 {
			continue
		}
		b := msglog.Batch{Channel: d.room.ref, Changes: make([]change.Change, len(d.entries))}
		for i := range d.entries {
			if !d.quiet {
				d.entries[i].payload = payloadOf(d.room.ref.Channel, &d.entries[i].Change)
			}
			b.Changes[i] = d.entries[i].Change
		}
		count += len(d.entries)
		batches = append(batches, b)
	}
	if failpoint.Mutant(failpoint.PublishEarly) {
		for _, d := range drafts {
			sh.publish(d)
		}
	}
	ctx, cancel := context.WithTimeout(sh.ctx, sh.s.cfg.CommitMax)
	defer cancel()
	began := time.Now()
	if err := sh.hold.Commit(ctx, batches); err != nil {
		return sh.failed(err)
	}
	sh.confirmed(began)
	sh.s.metrics.commit.Observe(time.Since(began).Seconds())
	sh.s.metrics.batch.Observe(float64(count))
	sh.s.metrics.changes.Add(float64(count))
	sh.lag.Add(int64(count))
	if err := failpoint.Hang(failpoint.ChannelShow, string(sh.s.cfg.ID)); err != nil {
		return sh.failed(err)
	}
	if tap := sh.s.deps.Tap; tap != nil {
		for _, b := range batches {
			tap(b.Channel, sh.token, b.Changes, false)
		}
	}
	for _, d := range drafts {
		if len(d.entries) > 0 {
			sh.show(d)
		}
	}
	return nil
}

// show lets confirmed changes out.
func (sh *shard) show(d *draft) {
	r := d.room
	r.mu.Lock()
	for _, e := range d.entries {
		r.tail.add(e)
	}
	head := r.tail.head
	sh.heavy.Add(r.tail.weight(d.was, head.Rev))
	r.mu.Unlock()
	if !d.quiet {
		sh.publish(d)
	}
	sh.mu.Lock()
	sh.changed[r.ref] = head
	sh.mu.Unlock()
	sh.deriveSoon(r)
}

// publish tells those who follow.
func (sh *shard) publish(d *draft) {
	for i := range d.entries {
		if !failpoint.Drop(failpoint.ChannelPublish, string(sh.s.cfg.ID)) {
			sh.s.deps.Bus.Publish(d.room.topic, sh.eventOf(d.room.ref, &d.entries[i]).Encode())
		}
	}
}

func (sh *shard) eventOf(ref topology.ChannelRef, e *entry) router.Event {
	ev := router.Event{Channel: ref, Token: sh.token, From: e.Rev, To: e.Rev, Payload: e.payload}
	switch e.Kind { //nolint:exhaustive // messages change no membership
	case change.Created, change.Joined:
		ev.Joined = e.Subjects
	case change.Left:
		ev.Left = e.Subjects
	}
	return ev
}

// failed says what a failed commit means for those who wait for it. Unless the
// store refused it outright, the changes may come to light at the next owner.
func (sh *shard) failed(err error) error {
	switch problem.KindOf(err) {
	case problem.Invalid, problem.TooLarge, problem.Full, problem.Unsupported:
		return err
	case problem.NotOwner:
		sh.close("lost")
		return notOwner(sh.id)
	case problem.Fenced:
		sh.s.log.Info("a commit was overtaken by a new owner", "shard", sh.id, "token", sh.token)
	default:
		sh.s.log.Warn("a commit's outcome is unknown; the shard is left", "shard", sh.id, "token", sh.token, "err", err)
	}
	sh.close("commit failed")
	return problem.Wrap(err, problem.Unknown, "the message may have been posted; repeat it with the same key")
}
