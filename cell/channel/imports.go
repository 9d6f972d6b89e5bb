package channel

import (
	"context"
	"fmt"
	"maps"
	"time"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// importAhead is how far an imported message may lie ahead of our clock: more,
// and the channel's next posts would have times that are plainly wrong.
const importAhead = 5 * time.Minute

// ImportedAt is how many messages are in an importing channel whose head is at
// rev: the first rev is the channel's creation, every other one a message.
func ImportedAt(rev topology.Rev) uint64 {
	if rev == 0 {
		return 0
	}
	return uint64(rev) - 1
}

// Import commits a batch into a channel that is being imported, if the shard is
// this server's, and returns how many messages are in. It waits while history
// is behind: an importer has time.
func (s *Server) Import(ctx context.Context, im Import) (uint64, error) {
	n, err := s.importBatch(ctx, im)
	s.count(err)
	return n, err
}

func (s *Server) importBatch(ctx context.Context, im Import) (uint64, error) {
	if err := s.checkImport(im); err != nil {
		return 0, err
	}
	sh, err := s.owned(im.Channel)
	if err != nil {
		return 0, err
	}
	if err := s.checks.open(ctx, im.Channel.Place); err != nil {
		return 0, err
	}
	info, err := s.checks.info(ctx, im.Channel, false)
	if err == nil && !info.Importing {
		info, err = s.checks.info(ctx, im.Channel, true)
	}
	if err != nil {
		return 0, err
	}
	if !info.Importing {
		return 0, problem.New(problem.Conflict, "the channel is not being imported")
	}
	if err := s.untilKeepingUp(ctx); err != nil {
		return 0, err
	}
	r, err := sh.enter(ctx, im.Channel)
	if err != nil {
		return 0, err
	}
	defer sh.leave(r)
	w := &importing{Import: im, info: info}
	if err := w.findRoots(ctx, r); err != nil {
		return 0, err
	}
	bytes := 0
	for i := range im.Messages {
		bytes += len(im.Messages[i].Text)
	}
	rep, err := sh.submit(ctx, newRequest(r, len(im.Messages), bytes, w.number))
	return rep.count, err
}

// checkImport checks what can be checked without the channel.
func (s *Server) checkImport(im Import) error {
	if n := len(im.Messages); n < 1 || n > chat.ImportBatchMax {
		return problem.Field("messages", "must hold 1 to %d", chat.ImportBatchMax)
	}
	latest := s.now().Add(importAhead).UnixMicro()
	for i := range im.Messages {
		m := &im.Messages[i]
		field := func(name string) string { return fmt.Sprintf("messages[%d].%s", i, name) }
		if m.Author == "" || len(m.Author) > 64 {
			return problem.Field(field("user_id"), "must name a user")
		}
		if m.TS <= 0 || (i > 0 && m.TS <= im.Messages[i-1].TS) {
			return problem.Field(field("ts"), "must be later than that of the message before")
		}
		if m.TS > latest {
			return problem.Field(field("ts"), "is more than 5 minutes ahead")
		}
		if err := checkText(field("text"), m.Text); err != nil {
			return err
		}
	}
	return nil
}

// untilKeepingUp waits while too much is not derived.
func (s *Server) untilKeepingUp(ctx context.Context) error {
	for {
		eased := s.eased.next()
		err := s.keepingUp()
		if err == nil {
			return nil
		}
		select {
		case <-eased:
		case <-ctx.Done():
			return err
		}
	}
}

// importing is a batch on its way.
type importing struct {
	Import
	info  Info
	roots map[topology.Seq]root // those that the batch replies to and that were there before
}

// findRoots looks up the roots that are in the channel already; the others must
// be in the batch.
func (w *importing) findRoots(ctx context.Context, r *room) error {
	r.mu.Lock()
	v, applied := r.tail.view(), r.tail.applied
	r.mu.Unlock()
	w.roots = map[topology.Seq]root{}
	for i := range w.Messages {
		seq := w.Messages[i].Root
		if _, ok := w.roots[seq]; ok || seq == 0 || seq > v.head.Seq {
			continue
		}
		asked := applied
		m, ok := v.message(seq)
		if ok {
			asked = m.Rev - 1
		} else {
			var err error
			if m, err = r.sh.s.deps.History.Get(ctx, r.ref, seq); err != nil {
				return err
			}
		}
		w.roots[seq] = root{asked: asked, id: m.ID, seq: seq, count: topology.Seq(m.ReplyCount)}
	}
	return nil
}

// number makes the batch's changes; all or none.
func (w *importing) number(ctx context.Context, d *draft) (reply, bool, error) {
	if d.head.Rev == 0 {
		return reply{}, false, problem.New(problem.Conflict, "the channel's creation is not in its log yet; try again")
	}
	if in := ImportedAt(d.head.Rev); w.From != in {
		return reply{}, false, &problem.Error{
			Kind: problem.Conflict, Field: "from", Msg: fmt.Sprintf("from: %d messages are in, not %d; go on from there", in, w.From),
		}
	}
	// The creation has our time, the first message its own: only messages are in
	// order of time.
	if d.head.Rev > 1 && w.Messages[0].TS <= d.head.TS {
		return reply{}, false, problem.Field("messages[0].ts", "must be later than that of the last message imported")
	}
	trial := *d
	trial.threads, trial.entries = maps.Clone(d.threads), nil
	ids := map[topology.Seq]topology.MessageID{}
	for i := range d.entries {
		if e := &d.entries[i]; e.Kind == change.Message {
			ids[e.Seq] = e.ID
		}
	}
	for i := range w.Messages {
		if err := w.one(ctx, &trial, ids, i); err != nil {
			return reply{}, false, err
		}
	}
	d.head, d.threads, d.quiet = trial.head, trial.threads, true
	d.entries = append(d.entries, trial.entries...)
	return reply{count: ImportedAt(d.head.Rev)}, true, nil
}

// one adds message i to the trial.
func (w *importing) one(ctx context.Context, d *draft, ids map[topology.Seq]topology.MessageID, i int) error {
	m := &w.Messages[i]
	c := change.Change{Kind: change.Message, Author: m.Author, Text: m.Text}
	var n topology.Seq
	if m.Root != 0 {
		c.Kind = change.Reply
		t, ok := w.roots[m.Root]
		if id, here := ids[m.Root]; here {
			t, ok = root{asked: d.was, id: id, seq: m.Root}, true
		}
		if !ok {
			return problem.Field(fmt.Sprintf("messages[%d].root_seq", i), "names no message before it")
		}
		var err error
		if n, err = d.replies(ctx, t, w.info.Number); err != nil {
			return err
		}
		c.Root = t.id
		n++
	}
	done := d.add(c, m.TS, w.info.Number, m.Root, n)
	if done.Kind == change.Message {
		ids[done.Seq] = done.ID
	}
	return nil
}
