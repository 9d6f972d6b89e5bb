package cassandra

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"sync"

	"github.com/gocql/gocql"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	markRead    = `SELECT applied, emitted FROM mark WHERE workspace = ? AND generation = ? AND channel = ?`
	markApplied = `UPDATE mark USING TIMESTAMP ? SET applied = ? WHERE workspace = ? AND generation = ? AND channel = ?`
	markEmitted = `UPDATE mark USING TIMESTAMP ? SET emitted = ? WHERE workspace = ? AND generation = ? AND channel = ?`
)

// marksMax bounds the channels whose marks are remembered: some 10 MiB.
const marksMax = 1 << 16

// historyStore keeps derived rows (history.Store). Each has the rev that it is
// from as its write time, so that rows of one rev are the same whoever derived
// them, a later rev's replaces an earlier's, and all may be written again. That
// is what makes owners that overlap harmless, without any lock.
//
// Invariants:
//  1. A mark is written after all rows up to it are at quorum, so a mark that is
//     read is one whose rows are there (clauses 1, 2). What a call that failed has
//     left above the mark is what the next call writes.
//  2. Nothing is counted: a thread's last reply has its number, and replies are
//     numbered without gaps.
//  3. A channel's message rows become visible in the order of their buckets, and in
//     a bucket at once up to batchBytesMax; pages are read in an order that shows
//     no gap (see page).
type historyStore struct {
	db *DB

	mu    sync.Mutex
	known map[topology.ChannelRef]topology.Rev // marks that were read or written: never above the store's
}

func newHistory(d *DB) *historyStore {
	return &historyStore{db: d, known: make(map[topology.ChannelRef]topology.Rev)}
}

// Apply implements history.Store.
func (h *historyStore) Apply(ctx context.Context, batches []history.Batch) error {
	byChannel := make(map[topology.ChannelRef][]history.Batch, len(batches))
	var order []topology.ChannelRef
	for _, b := range batches {
		if err := checkRef(b.Channel); err != nil {
			return err
		}
		if len(byChannel[b.Channel]) == 0 {
			order = append(order, b.Channel)
		}
		byChannel[b.Channel] = append(byChannel[b.Channel], b)
	}
	if err := h.db.begin(ctx); err != nil {
		return err
	}
	defer h.db.end()
	if len(order) == 0 {
		return nil
	}
	return together(len(order), func(i int) error {
		for _, b := range byChannel[order[i]] {
			if err := h.apply(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// apply writes what is new of one batch.
func (h *historyStore) apply(ctx context.Context, b history.Batch) error {
	if len(b.Changes) == 0 {
		return nil
	}
	applied, err := h.from(ctx, b)
	if err != nil {
		return err
	}
	changes := b.Changes
	for len(changes) > 0 && changes[0].Rev <= applied {
		changes = changes[1:]
	}
	if len(changes) == 0 {
		return nil
	}
	d := derivation{db: h.db, ch: b.Channel}
	for i := range changes {
		if want := applied + 1 + topology.Rev(i); changes[i].Rev != want {
			return problem.New(problem.Conflict, "rev %d follows %d: apply what lies between first", changes[i].Rev, want-1)
		}
		if err := d.add(&changes[i]); err != nil {
			return err
		}
	}
	parts := d.parts()
	if err := together(len(parts), func(i int) error { return h.db.putInOrder(ctx, parts[i]) }); err != nil {
		return err
	}
	return h.setApplied(ctx, b.Channel, changes[len(changes)-1])
}

// from is up to where a batch is applied already. What is remembered may be lower
// than the mark, which costs writing some rows again; a batch that would leave a
// gap behind it is held against the mark itself.
func (h *historyStore) from(ctx context.Context, b history.Batch) (topology.Rev, error) {
	h.mu.Lock()
	applied, ok := h.known[b.Channel]
	h.mu.Unlock()
	if ok && b.Changes[0].Rev <= applied+1 {
		return applied, nil
	}
	m, err := h.mark(ctx, b.Channel)
	if err != nil {
		return 0, err
	}
	h.remember(b.Channel, m.Applied)
	return m.Applied, nil
}

func (h *historyStore) remember(ch topology.ChannelRef, applied topology.Rev) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for old := range h.known { // any one makes room
		if len(h.known) < marksMax {
			break
		}
		delete(h.known, old)
	}
	h.known[ch] = max(h.known[ch], applied)
}

// setApplied raises the mark to the last change of a batch.
func (h *historyStore) setApplied(ctx context.Context, ch topology.ChannelRef, last change.Change) error {
	value := binary.AppendUvarint(nil, uint64(last.Rev))
	value = binary.AppendUvarint(value, uint64(last.HeadSeq))
	value = binary.AppendVarint(value, last.TS)
	args := append([]any{number(last.Rev), value}, partition(ch)...)
	if err := h.db.put(ctx, mutation{{cql: markApplied, args: args}}); err != nil {
		return unknown(err) // rows are written
	}
	h.remember(ch, last.Rev)
	return nil
}

// mark reads a channel's mark; the zero Mark if it has none.
func (h *historyStore) mark(ctx context.Context, ch topology.ChannelRef) (history.Mark, error) {
	var (
		applied []byte
		emitted *int64
		m       history.Mark
	)
	err := h.db.get(ctx, markRead, partition(ch)...).Scan(&applied, &emitted)
	if errors.Is(err, gocql.ErrNotFound) {
		return m, nil
	}
	if err != nil {
		return m, readError(err)
	}
	if emitted != nil {
		m.Emitted = topology.Rev(*emitted) //nolint:gosec // it was a Rev
	}
	if len(applied) == 0 {
		return m, nil
	}
	f := fields{rest: applied}
	m.Applied, m.Seq, m.TS = topology.Rev(f.uvarint()), topology.Seq(f.uvarint()), f.varint()
	return m, f.err("mark")
}

// Mark implements history.Store.
func (h *historyStore) Mark(ctx context.Context, ch topology.ChannelRef) (history.Mark, error) {
	if err := checkRef(ch); err != nil {
		return history.Mark{}, err
	}
	if err := h.db.begin(ctx); err != nil {
		return history.Mark{}, err
	}
	defer h.db.end()
	return h.mark(ctx, ch)
}

// SetEmitted implements history.Store. The mark's write time is the rev itself: a
// lower one never counts.
func (h *historyStore) SetEmitted(ctx context.Context, ch topology.ChannelRef, rev topology.Rev) error {
	if err := checkRef(ch); err != nil {
		return err
	}
	if err := h.db.begin(ctx); err != nil {
		return err
	}
	defer h.db.end()
	if rev == 0 {
		return nil
	}
	args := append([]any{number(rev), number(rev)}, partition(ch)...)
	return h.db.put(ctx, mutation{{cql: markEmitted, args: args}})
}

// dedupeSlots spread a channel's keys: a hundred thousand posts a day are some
// 2 MB each.
const dedupeSlots = 8

func dedupeSlot(author topology.UserID, key string) int {
	f := fnv.New32a()
	_, _ = f.Write([]byte(author)) // a hash's Write never fails
	_, _ = f.Write([]byte(key))
	return int(f.Sum32() % dedupeSlots)
}
