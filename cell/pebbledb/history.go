package pebbledb

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

// channelLocks is how many channels may be applied side by side.
const channelLocks = 64

// historyStore keeps derived rows. Nothing is synced: the rows of a batch and
// its mark are one write, and the database keeps its writes' order over a crash,
// so that a mark is never ahead of its rows.
//
// Lock order: sweeping, then a stripe; no two of these are ever held.
type historyStore struct {
	db      *DB
	stripes [channelLocks]stripe

	sweepIn  atomic.Int64 // dedupe keys to come before the next sweep
	sweeping sync.Mutex   // held by whoever sweeps
}

var _ history.Store = (*historyStore)(nil)

// History is the database's history.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) History() history.Store { return d.history }

// stripe is some of the channels: all of a shard are in one.
type stripe struct {
	mu sync.Mutex
	// emitted is what SetEmitted was told and is not stored yet: it goes with the
	// channel's next batch. A crash forgets it, and events are appended again,
	// which is why it may wait.
	emitted map[topology.ChannelRef]topology.Rev
	since   time.Time // when the first of them came
}

// Marks that no batch takes along are written together when there are so many,
// or when one has waited so long and another comes.
const (
	emittedMax  = 512
	emittedWait = 2 * time.Second
)

func (h *historyStore) stripe(ch topology.ChannelRef) *stripe { return &h.stripes[stripeOf(ch)] }

func stripeOf(ch topology.ChannelRef) int { return int(ch.Shard() % channelLocks) }

// Apply implements history.Store.
func (h *historyStore) Apply(ctx context.Context, batches []history.Batch) error {
	if err := h.db.begin(ctx); err != nil {
		return err
	}
	defer h.db.end()
	keys := 0
	for len(batches) > 0 {
		n := together(batches)
		k, err := h.apply(batches[:n])
		if err != nil {
			return err
		}
		keys += k
		batches = batches[n:]
	}
	return h.sweepSometimes(keys)
}

// together is how many batches, from the first on, can be one write: they are of
// one stripe, and none of a channel that another is of, which would have to see
// its mark.
func together(batches []history.Batch) int {
	seen := make(map[topology.ChannelRef]struct{}, len(batches))
	for n, b := range batches {
		if _, again := seen[b.Channel]; again || stripeOf(b.Channel) != stripeOf(batches[0].Channel) {
			return n
		}
		seen[b.Channel] = struct{}{}
	}
	return len(batches)
}

// apply writes what is new of some batches, and says how many dedupe keys that had.
func (h *historyStore) apply(batches []history.Batch) (keys int, err error) {
	st := h.stripe(batches[0].Channel)
	st.mu.Lock()
	defer st.mu.Unlock()
	b := h.db.pebble.NewBatch()
	marked := make([]topology.ChannelRef, 0, len(batches))
	for _, of := range batches {
		n, changed, err := h.stage(b, of)
		if err != nil {
			_ = b.Close() // nothing of it was written
			return 0, err
		}
		keys += n
		if changed {
			marked = append(marked, of.Channel)
		}
	}
	if len(marked) == 0 {
		return 0, b.Close()
	}
	if err := h.db.commit(b, false); err != nil {
		return 0, err
	}
	for _, ch := range marked {
		delete(st.emitted, ch)
	}
	return keys, nil
}

// stage puts what is new of one batch, with its mark, into b. The channel's
// stripe is locked.
func (h *historyStore) stage(b *pebble.Batch, of history.Batch) (keys int, changed bool, err error) {
	if err := checkRef(of.Channel); err != nil {
		return 0, false, err
	}
	mark, err := h.mark(of.Channel)
	if err != nil {
		return 0, false, err
	}
	a := applying{
		db: h.db, batch: b, ch: of.Channel, mark: mark,
		facts: map[topology.Seq]threadFacts{}, roots: map[topology.Seq]change.Change{},
	}
	err = a.addAll(of.Changes)
	return a.keys, a.mark.Applied != mark.Applied, err
}

// threadFacts is what a thread adds to its root.
type threadFacts struct {
	count uint64
	last  int64
}

// applying collects the rows of one channel's batch.
type applying struct {
	db    *DB
	batch *pebble.Batch
	ch    topology.ChannelRef
	mark  history.Mark
	facts map[topology.Seq]threadFacts   // of roots that got replies
	roots map[topology.Seq]change.Change // messages to write: of this batch, or with replies in it
	keys  int                            // dedupe keys
}

func (a *applying) addAll(changes []change.Change) error {
	was := a.mark.Applied
	for i := range changes {
		c := &changes[i]
		if c.Rev <= a.mark.Applied {
			continue
		}
		if c.Rev != a.mark.Applied+1 {
			return problem.New(problem.Conflict, "rev %d follows %d: apply what lies between first", c.Rev, a.mark.Applied)
		}
		if err := a.add(c); err != nil {
			return err
		}
	}
	if a.mark.Applied == was {
		return nil // it had them all
	}
	return a.finish()
}

func (a *applying) add(c *change.Change) error {
	a.mark.Applied, a.mark.TS = c.Rev, c.TS
	if c.ClientMsgID != "" {
		if err := a.addDedupe(c); err != nil {
			return err
		}
	}
	switch c.Kind { //nolint:exhaustive // other kinds leave no message row
	case change.Message:
		a.mark.Seq = c.Seq
		a.roots[c.Seq] = *c
	case change.Reply:
		return a.addReply(c)
	}
	return nil
}

func (a *applying) addReply(c *change.Change) error {
	root, err := change.ParseID(c.Root)
	if err != nil || root.Seq == 0 {
		return problem.New(problem.Internal, "rev %d replies to %q, which is no top-level message", c.Rev, c.Root)
	}
	f, ok := a.facts[root.Seq]
	if _, here := a.roots[root.Seq]; !ok && !here {
		m, err := a.db.message(a.ch, root.Seq)
		if problem.Is(err, problem.NotFound) {
			return problem.Wrap(err, problem.Internal, "rev %d replies to message %d, which is not there", c.Rev, root.Seq)
		}
		if err != nil {
			return err
		}
		f = threadFacts{m.ReplyCount, m.LastReplyTS}
		a.roots[root.Seq] = m.Change
	}
	f.count++
	f.last = c.TS
	a.facts[root.Seq] = f
	return a.batch.Set(replyKey(a.ch, root.Seq, c.Seq), c.Append(nil), nil)
}

func (a *applying) addDedupe(c *change.Change) error {
	a.keys++
	key := dedupeKey(a.ch, c.Author, c.ClientMsgID)
	hash := history.HashBody(c.Root, c.Text)
	v := binary.AppendVarint(nil, c.TS)
	v = append(v, byte(c.Kind))
	v = binary.AppendUvarint(v, uint64(c.Seq))
	v = binary.AppendUvarint(v, uint64(c.Rev))
	v = append(v, hash[:]...)
	v = append(v, c.ID...)
	if err := a.batch.Set(key, v, nil); err != nil {
		return err
	}
	return a.batch.Set(dedupeTimeKey(c.TS, key), nil, nil)
}

// finish writes the roots, with what their threads added, and the mark.
func (a *applying) finish() error {
	for seq, c := range a.roots {
		f := a.facts[seq]
		v := binary.AppendUvarint(nil, f.count)
		v = binary.AppendVarint(v, f.last)
		if err := a.batch.Set(messageKey(a.ch, seq), c.Append(v), nil); err != nil {
			return err
		}
	}
	return a.batch.Set(refKey(prefixMark, a.ch), encodeMark(a.mark), nil)
}

func messageKey(ch topology.ChannelRef, seq topology.Seq) []byte {
	return appendUint64(refKey(prefixMessage, ch), seq)
}

func threadKey(ch topology.ChannelRef, root topology.Seq) []byte {
	return appendUint64(refKey(prefixThread, ch), root)
}

func replyKey(ch topology.ChannelRef, root, number topology.Seq) []byte {
	return appendUint64(threadKey(ch, root), number)
}

func dedupeKey(ch topology.ChannelRef, author topology.UserID, key string) []byte {
	return append(appendName(refKey(prefixDedupe, ch), author), key...)
}

// dedupeTimeKey lies in the order of time; times are after 1970.
func dedupeTimeKey(ts int64, dedupe []byte) []byte {
	return append(appendUint64([]byte{prefixDedupeTS}, uint64(max(ts, 0))), dedupe...)
}

func encodeMark(m history.Mark) []byte {
	b := binary.AppendUvarint(nil, uint64(m.Applied))
	b = binary.AppendUvarint(b, uint64(m.Emitted))
	b = binary.AppendUvarint(b, uint64(m.Seq))
	return binary.AppendVarint(b, m.TS)
}

// mark is a channel's mark; the zero Mark if it has none. Its stripe is locked.
func (h *historyStore) mark(ch topology.ChannelRef) (history.Mark, error) {
	var m history.Mark
	v, err := h.db.get(refKey(prefixMark, ch))
	if err != nil {
		return m, err
	}
	if v != nil {
		f := fields{rest: v}
		m = history.Mark{Applied: topology.Rev(f.uvarint()), Emitted: topology.Rev(f.uvarint()), Seq: topology.Seq(f.uvarint()), TS: f.varint()}
		err = f.err("mark")
	}
	m.Emitted = max(m.Emitted, h.stripe(ch).emitted[ch])
	return m, err
}

// Mark implements history.Store.
func (h *historyStore) Mark(ctx context.Context, ch topology.ChannelRef) (history.Mark, error) {
	if err := h.db.begin(ctx); err != nil {
		return history.Mark{}, err
	}
	defer h.db.end()
	if err := checkRef(ch); err != nil {
		return history.Mark{}, err
	}
	st := h.stripe(ch)
	st.mu.Lock()
	defer st.mu.Unlock()
	return h.mark(ch)
}

// SetEmitted implements history.Store.
func (h *historyStore) SetEmitted(ctx context.Context, ch topology.ChannelRef, rev topology.Rev) error {
	if err := h.db.begin(ctx); err != nil {
		return err
	}
	defer h.db.end()
	if err := checkRef(ch); err != nil {
		return err
	}
	st := h.stripe(ch)
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.emitted) == 0 {
		st.emitted, st.since = map[topology.ChannelRef]topology.Rev{}, time.Now()
	}
	st.emitted[ch] = max(st.emitted[ch], rev)
	if len(st.emitted) < emittedMax && time.Since(st.since) < emittedWait {
		return nil
	}
	return h.storeEmitted(st)
}

// storeEmitted writes the marks that wait in a stripe, which is locked.
func (h *historyStore) storeEmitted(st *stripe) error {
	b := h.db.pebble.NewBatch()
	for ch := range st.emitted {
		m, err := h.mark(ch)
		if err == nil {
			err = b.Set(refKey(prefixMark, ch), encodeMark(m), nil)
		}
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	if err := h.db.commit(b, false); err != nil {
		return err
	}
	st.emitted = nil
	return nil
}

// close writes the marks that wait.
func (h *historyStore) close() error {
	var errs []error
	for i := range h.stripes {
		if st := &h.stripes[i]; len(st.emitted) > 0 {
			errs = append(errs, h.storeEmitted(st))
		}
	}
	return errors.Join(errs...)
}
