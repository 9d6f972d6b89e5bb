package pebbledb

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

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
// Lock order: sweeping, then a channel's lock; no two of these are ever held.
type historyStore struct {
	db    *DB
	locks [channelLocks]sync.Mutex

	sweepIn  atomic.Int64 // dedupe keys to come before the next sweep
	sweeping sync.Mutex   // held by whoever sweeps
}

var _ history.Store = (*historyStore)(nil)

// History is the database's history.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) History() history.Store { return d.history }

func (h *historyStore) lock(ch topology.ChannelRef) *sync.Mutex { return &h.locks[stripe(ch)] }

func stripe(ch topology.ChannelRef) int { return int(ch.Shard() % channelLocks) }

// Apply implements history.Store.
func (h *historyStore) Apply(ctx context.Context, batches []history.Batch) error {
	if err := h.db.begin(ctx); err != nil {
		return err
	}
	defer h.db.end()
	keys := 0
	for _, b := range batches {
		n, err := h.apply(b)
		if err != nil {
			return err
		}
		keys += n
	}
	return h.sweepSometimes(keys)
}

// apply writes what is new of one batch, and says how many dedupe keys that had.
func (h *historyStore) apply(b history.Batch) (keys int, err error) {
	if err := checkRef(b.Channel); err != nil {
		return 0, err
	}
	mu := h.lock(b.Channel)
	mu.Lock()
	defer mu.Unlock()
	mark, err := h.mark(b.Channel)
	if err != nil {
		return 0, err
	}
	a := applying{
		db: h.db, batch: h.db.pebble.NewBatch(), ch: b.Channel, mark: mark,
		facts: map[topology.Seq]threadFacts{}, roots: map[topology.Seq]change.Change{},
	}
	if err := a.addAll(b.Changes); err != nil {
		_ = a.batch.Close() // nothing of it was written
		return 0, err
	}
	if a.mark.Applied == mark.Applied {
		return 0, a.batch.Close()
	}
	return a.keys, h.db.commit(a.batch, false)
}

// threadFacts is what a thread adds to its root.
type threadFacts struct {
	count uint64
	last  int64
}

// applying collects one batch's rows.
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

// mark reads a channel's mark; the zero Mark if it has none.
func (h *historyStore) mark(ch topology.ChannelRef) (history.Mark, error) {
	var m history.Mark
	v, err := h.db.get(refKey(prefixMark, ch))
	if err != nil || v == nil {
		return m, err
	}
	f := fields{rest: v}
	m = history.Mark{Applied: topology.Rev(f.uvarint()), Emitted: topology.Rev(f.uvarint()), Seq: topology.Seq(f.uvarint()), TS: f.varint()}
	return m, f.err("mark")
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
	mu := h.lock(ch)
	mu.Lock()
	defer mu.Unlock()
	m, err := h.mark(ch)
	if err != nil || m.Emitted >= rev {
		return err
	}
	m.Emitted = rev
	b := h.db.pebble.NewBatch()
	if err := b.Set(refKey(prefixMark, ch), encodeMark(m), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	return h.db.commit(b, false)
}
