package channel

import (
	"context"
	"slices"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// behindMax is how far back Changes goes: who is further behind is better off
	// with a fresh start than with ten thousand events.
	behindMax = 10_000
	// pageMax bounds one answer, whatever the caller asks for.
	pageMax = 2_000
	// changesBytes bounds the texts of one answer of Changes: two thousand of the
	// longest messages would be 300 MB.
	changesBytes = 4 << 20
	// logPage is how many changes are read from the log at a time.
	logPage = 128
)

// OwnedHead is a channel's head, if its shard is the server's.
type OwnedHead struct {
	Head
	Owned bool
}

// Heads returns the confirmed heads of channels, in their order.
func (s *Server) Heads(ctx context.Context, chs []topology.ChannelRef) ([]OwnedHead, error) {
	out := make([]OwnedHead, len(chs))
	proven := map[*shard]bool{}
	for i, ch := range chs {
		sh := s.held[ch.Shard()].Load()
		if sh == nil {
			continue
		}
		sh.rollSoon(ch, true) // who follows it may want to post
		h, err := sh.headOf(ctx, ch, proven)
		switch {
		case err == nil:
			out[i] = OwnedHead{Head: h, Owned: true}
		case !problem.Is(err, problem.NotOwner):
			return nil, err
		}
	}
	return out, nil
}

// headOf is a channel's head; a shard is asked for proof once per call.
func (sh *shard) headOf(ctx context.Context, ref topology.ChannelRef, proven map[*shard]bool) (Head, error) {
	if !proven[sh] {
		if err := sh.prove(ctx); err != nil {
			return Head{}, err
		}
		proven[sh] = true
	}
	if r := sh.openRoom(ref); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.tail.head, nil
	}
	v, err := sh.view(ctx, ref)
	return v.head, err
}

// openRoom is the room of a channel that is open, else nil.
func (sh *shard) openRoom(ref topology.ChannelRef) *room {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r := sh.rooms[ref]; r != nil && r.isOpen() {
		return r
	}
	return nil
}

// Changes returns the changes after a rev, rising, at most limit.
func (s *Server) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]Event, error) {
	sh, v, err := s.visit(ctx, ch)
	if err != nil {
		return nil, err
	}
	switch {
	case after > v.head.Rev:
		return nil, problem.New(problem.Conflict, "rev %d is above the channel's head %d; load the channel afresh", after, v.head.Rev)
	case v.head.Rev-after > behindMax:
		return nil, problem.New(problem.Conflict, "rev %d is more than 10,000 changes behind; load the channel afresh", after)
	}
	limit = min(limit, pageMax)
	if limit <= 0 || after == v.head.Rev {
		return nil, nil
	}
	if after+1 >= v.from {
		es := v.entries[after+1-v.from:]
		return encoded(ch.Channel, bounded(es[:min(limit, len(es))])), nil
	}
	es, err := sh.logged(ctx, ch, after+1, min(after+topology.Rev(limit), v.head.Rev))
	if err != nil {
		return nil, err
	}
	return encoded(ch.Channel, es), nil
}

// logged reads changes from the log, those that changesBytes lets through.
func (sh *shard) logged(ctx context.Context, ch topology.ChannelRef, from, to topology.Rev) ([]entry, error) {
	var es []entry
	for next := from; next <= to; next = from + topology.Rev(len(es)) {
		cs, err := sh.hold.Tail(ctx, ch, next, int(min(to-next+1, logPage)))
		if err != nil {
			return nil, sh.refuse(err)
		}
		if len(cs) == 0 || cs[0].Rev != next {
			if next > from {
				break
			}
			return nil, problem.New(problem.Conflict, "the changes from rev %d on are not kept any more; load the channel afresh", from)
		}
		for _, c := range cs {
			es = append(es, entry{Change: c})
		}
		if some := bounded(es); len(some) < len(es) {
			return some, nil
		}
	}
	return es, nil
}

// bounded is as many entries as changesBytes lets through, but one at least.
func bounded(es []entry) []entry {
	bytes := 0
	for i := range es {
		if bytes += len(es[i].Text) + 32*len(es[i].Subjects); bytes > changesBytes && i > 0 {
			return es[:i]
		}
	}
	return es
}

// encoded gives entries their client events, those that have none yet too.
func encoded(ch topology.ChannelID, es []entry) []Event {
	out := make([]Event, len(es))
	for i := range es {
		out[i] = Event{Change: es[i].Change, Payload: es[i].payload}
		if out[i].Payload == nil {
			out[i].Payload = payloadOf(ch, &out[i].Change)
		}
	}
	return out
}

// Page returns top-level messages, those that are not derived yet among them.
func (s *Server) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	_, v, err := s.visit(ctx, ch)
	if err != nil {
		return nil, err
	}
	if q.Limit = min(q.Limit, pageMax); q.Limit <= 0 {
		return nil, nil
	}
	if q.Forward {
		return v.forward(ctx, s.deps.History, ch, q)
	}
	return v.backward(ctx, s.deps.History, ch, q)
}

// backward is a page of seq < Before, newest first: from memory as far as that
// reaches, the rest from the store.
func (v *view) backward(ctx context.Context, h history.Store, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	before := v.head.Seq + 1
	if q.Before > 0 {
		before = min(before, q.Before)
	}
	var out []history.Message
	ms := v.messages()
	for i := len(ms) - 1; i >= 0 && len(out) < q.Limit; i-- {
		if ms[i].Seq < before {
			out = append(out, ms[i])
		}
	}
	before = min(before, v.firstSeq())
	if len(out) == q.Limit || before <= 1 {
		return out, nil
	}
	older, err := h.Page(ctx, ch, history.PageQuery{Before: before, Limit: q.Limit - len(out)})
	if err != nil {
		return nil, err
	}
	for _, m := range older {
		out = append(out, v.withThread(m))
	}
	return out, nil
}

// forward is a page of seq > After, oldest first: from the store as far as
// memory does not reach, the rest from there.
func (v *view) forward(ctx context.Context, h history.Store, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	first := v.firstSeq()
	var out []history.Message
	if q.After+1 < first {
		older, err := h.Page(ctx, ch, history.PageQuery{Forward: true, After: q.After, Limit: q.Limit})
		if err != nil {
			return nil, err
		}
		for _, m := range older {
			if m.Seq < first { // the store may have come further meanwhile
				out = append(out, v.withThread(m))
			}
		}
	}
	for _, m := range v.messages() {
		if m.Seq > q.After && len(out) < q.Limit {
			out = append(out, m)
		}
	}
	return out, nil
}

// Get returns a top-level message.
func (s *Server) Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error) {
	_, v, err := s.visit(ctx, ch)
	if err != nil {
		return history.Message{}, err
	}
	return v.get(ctx, s.deps.History, ch, id)
}

func (v *view) get(ctx context.Context, h history.Store, ch topology.ChannelRef, id topology.MessageID) (history.Message, error) {
	none := problem.New(problem.NotFound, "the channel has no such message")
	p, err := change.ParseID(id)
	if err != nil || p.ReplyRev != 0 || p.Seq > v.head.Seq {
		return history.Message{}, none
	}
	m, ok := v.message(p.Seq)
	if !ok {
		if m, err = h.Get(ctx, ch, p.Seq); err != nil {
			return history.Message{}, err
		}
		m = v.withThread(m)
	}
	if m.ID != id {
		return history.Message{}, none
	}
	return m, nil
}

// Thread returns the replies to a top-level message, oldest first.
func (s *Server) Thread(ctx context.Context, ch topology.ChannelRef, id topology.MessageID, after topology.Seq, limit int) ([]history.Message, error) {
	_, v, err := s.visit(ctx, ch)
	if err != nil {
		return nil, err
	}
	m, err := v.get(ctx, s.deps.History, ch, id)
	if err != nil {
		return nil, err
	}
	if limit = min(limit, pageMax); limit <= 0 {
		return nil, nil
	}
	newer := v.replies(id)
	first := topology.Seq(m.ReplyCount) + 1
	if len(newer) > 0 {
		first = newer[0].Seq
	}
	var out []history.Message
	if after+1 < first {
		out, err = s.deps.History.Thread(ctx, ch, m.Seq, after, limit)
		if err != nil {
			return nil, err
		}
		out = slices.DeleteFunc(out, func(r history.Message) bool { return r.Seq >= first })
	}
	for _, r := range newer {
		if r.Seq > after && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, nil
}
