package pebbledb

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// logStore is the message store (msglog.Store) of a cell of one process.
//
// Invariants:
//  1. A shard's token is compared and the write that it allows is applied under
//     the shard's lock, and so is Raise. So a write that passed the comparison
//     and was then delayed lies before the Raise, never after it, and a new
//     owner's Tail has it. The wait for the sync is outside of the lock, so that
//     writes to one shard share syncs, too: what is applied later is synced no
//     earlier, so a Raise on disk has all writes that it let pass there as well.
//  2. Rows carry times of the token they are written under (checkTimes). With 1,
//     a row that comes late finds its token passed and is refused: "born dead"
//     without any record of seals.
//  3. fences is what the database says: loaded at Open, changed with it. No other
//     process can have the database open.
//
// Lock order: shards in rising order, then DB.lineMu or listing.
type logStore struct {
	db     *DB
	shards [topology.Shards]shardState

	listing sync.Mutex // to change list; taken after shards
	list    atomic.Pointer[[]msglog.Fence]
}

type shardState struct {
	mu    sync.Mutex
	fence atomic.Pointer[msglog.Fence] // changed under mu; nil: never raised
	known map[topology.ChannelRef]known
}

// known is what need not be read again: a post would take a third longer.
type known struct {
	head  topology.Rev // no row of the channel is above it
	dirty bool         // it is on the list of Dirty
}

// knownMax bounds the channels of a shard that are remembered: 64k of a cell, in
// some 10 MiB.
const knownMax = 512

// at is the present fence; Token 0 if it was never raised.
func (l *logStore) at(s topology.Shard) msglog.Fence {
	if f := l.shards[s].fence.Load(); f != nil {
		return *f
	}
	return msglog.Fence{Shard: s}
}

// Log is the message store on this database.
func (d *DB) Log() msglog.Store { return d.logStore } //nolint:ireturn // the driver is used through its contract

func openLog(d *DB) (*logStore, error) {
	l := &logStore{db: d}
	it, err := d.pebble.NewIter(span([]byte{prefixFence}))
	if err != nil {
		return nil, d.read(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		f, good := decodeFence(it.Key(), it.Value())
		if !good {
			return nil, errors.Join(problem.New(problem.Internal, "a fence row is damaged"), it.Close())
		}
		l.shards[f.Shard].fence.Store(&f)
	}
	l.relist()
	return l, d.read(it.Close())
}

// Raise moves fences (clause 1): each claim at its turn, all in one batch.
func (l *logStore) Raise(ctx context.Context, owner topology.ServerID, claims []msglog.Claim) ([]msglog.Fence, error) {
	shards := make([]topology.Shard, 0, len(claims))
	for _, c := range claims {
		if c.Shard >= topology.Shards {
			return nil, problem.New(problem.Invalid, "there is no shard %d", c.Shard)
		}
		shards = append(shards, c.Shard)
	}
	if owner == "" || len(owner) > nameMax {
		return nil, problem.New(problem.Invalid, "an owner's id has 1 to %d bytes, not %d", nameMax, len(owner))
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	b := l.db.pebble.NewBatch()
	now, err := l.raise(b, owner, claims, shards)
	if err != nil {
		return nil, err
	}
	return now, l.db.synced(b)
}

func (l *logStore) raise(b *pebble.Batch, owner topology.ServerID, claims []msglog.Claim, shards []topology.Shard) ([]msglog.Fence, error) {
	slices.Sort(shards)
	shards = slices.Compact(shards)
	for _, s := range shards {
		l.shards[s].mu.Lock()
		defer l.shards[s].mu.Unlock()
	}
	now := make([]msglog.Fence, len(claims))
	next := make(map[topology.Shard]msglog.Fence, len(shards))
	for i, c := range claims {
		f, ok := next[c.Shard]
		if !ok {
			f = l.at(c.Shard)
		}
		if f.Token == c.From {
			f.Token, f.Owner = c.From+1, owner
			if err := b.Set(fenceKey(c.Shard), encodeFence(f), nil); err != nil {
				return nil, problem.Wrap(err, problem.Internal, "can't stage a fence")
			}
		}
		next[c.Shard], now[i] = f, f
	}
	if err := l.db.apply(b); err != nil {
		return nil, err
	}
	for s, f := range next {
		l.shards[s].fence.Store(&f)
	}
	l.relist()
	return now, nil
}

// Fences reads fence rows (clause 2): all of them, since they are in memory.
func (l *logStore) Fences(ctx context.Context, _ ...topology.Shard) ([]msglog.Fence, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	return *l.list.Load(), nil
}

// relist makes the list of Fences anew after a change: every commit reads it.
func (l *logStore) relist() {
	l.listing.Lock()
	defer l.listing.Unlock()
	fences := make([]msglog.Fence, 0, topology.Shards)
	for i := range l.shards {
		if f := l.shards[i].fence.Load(); f != nil {
			fences = append(fences, *f)
		}
	}
	list := slices.Clip(fences)
	l.list.Store(&list)
}

// Append stores rows (clause 3). A token that is not the present one is refused
// with kind Fenced, all of it with kind Full when the disk is nearly so.
func (l *logStore) Append(ctx context.Context, s topology.Shard, t topology.Token, writes []msglog.Write) error {
	chs := make([]topology.ChannelRef, len(writes))
	size := 0
	for i, w := range writes {
		chs[i] = w.Channel
		if err := checkTimes(t, w.Rows); err != nil {
			return err
		}
		for _, r := range w.Rows {
			size += len(r.Blob)
		}
	}
	if err := l.db.room.take(size); err != nil {
		return err
	}
	return l.change(ctx, s, t, chs, func(b *pebble.Batch) error {
		for _, w := range writes {
			if err := l.put(b, s, w.Channel, w.Rows); err != nil {
				return err
			}
		}
		return nil
	})
}

// Repair carries out seals (clause 5), all of a call in one batch.
func (l *logStore) Repair(ctx context.Context, s topology.Shard, t topology.Token, seals []msglog.Seal) error {
	chs := make([]topology.ChannelRef, len(seals))
	for i, seal := range seals {
		chs[i] = seal.Channel
		if err := checkTimes(t, seal.Rows); err != nil {
			return err
		}
		if seal.Time != msglog.Time(t, 0) {
			return problem.New(problem.Invalid, "a seal's time must be the base of its token")
		}
		if n := len(seal.Rows); n > 0 && seal.Rows[n-1].Rev > seal.Above {
			return problem.New(problem.Invalid, "a seal deletes its own rows")
		}
	}
	return l.change(ctx, s, t, chs, func(b *pebble.Batch) error {
		for _, seal := range seals {
			if err := l.seal(b, seal); err != nil {
				return err
			}
			if err := l.put(b, s, seal.Channel, seal.Rows); err != nil {
				return err
			}
		}
		return nil
	})
}

// change makes a synced write to channels of a shard if the token is the present
// one: invariant 1.
func (l *logStore) change(ctx context.Context, s topology.Shard, t topology.Token, chs []topology.ChannelRef, stage func(*pebble.Batch) error) error {
	if err := checkChannels(s, chs); err != nil {
		return err
	}
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	b := l.db.pebble.NewBatch()
	if err := l.applyUnder(s, t, b, stage); err != nil {
		return err
	}
	return l.db.synced(b)
}

// present refuses a token that is not the shard's present one.
func (l *logStore) present(s topology.Shard, t topology.Token) error {
	if f := l.at(s); f.Token != t {
		return problem.New(problem.Fenced, "shard %d is at token %d, not %d", s, f.Token, t)
	}
	return nil
}

func (l *logStore) applyUnder(s topology.Shard, t topology.Token, b *pebble.Batch, stage func(*pebble.Batch) error) error {
	st := &l.shards[s]
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := l.present(s, t); err != nil {
		return err
	}
	if err := stage(b); err != nil {
		clear(st.known) // put notes what it stages
		return err
	}
	return l.db.apply(b)
}

// put stages rows, without those that are there with the same or a higher time.
// The caller holds the shard's lock.
func (l *logStore) put(b *pebble.Batch, s topology.Shard, ch topology.ChannelRef, rows []msglog.Row) error {
	if len(rows) == 0 {
		return nil
	}
	key := refKey(prefixLog, ch)
	k, err := l.lookUp(s, ch, key)
	if err != nil {
		return err
	}
	var there map[topology.Rev]uint64
	first, last := rows[0].Rev, rows[len(rows)-1].Rev
	if first <= k.head { // a repeat, or a takeover
		if there, err = l.times(key, first, last); err != nil {
			return err
		}
	}
	var value []byte
	for _, r := range rows {
		if at, ok := there[r.Rev]; ok && at >= r.Time {
			continue
		}
		value = append(binary.BigEndian.AppendUint64(value[:0], r.Time), r.Blob...)
		if err := b.Set(appendUint64(slices.Clip(key), r.Rev), value, nil); err != nil {
			return problem.Wrap(err, problem.Internal, "can't stage a log row")
		}
	}
	if !k.dirty {
		if err := b.Set(dirtyKey(s, ch), nil, nil); err != nil {
			return problem.Wrap(err, problem.Internal, "can't stage a dirty channel")
		}
	}
	l.shards[s].known[ch] = known{head: max(k.head, last), dirty: true}
	return nil
}

// lookUp is what is known of a channel; what is not, is read.
func (l *logStore) lookUp(s topology.Shard, ch topology.ChannelRef, key []byte) (known, error) {
	st := &l.shards[s]
	if k, ok := st.known[ch]; ok {
		return k, nil
	}
	it, err := l.db.pebble.NewIter(span(key))
	if err != nil {
		return known{}, l.db.read(err)
	}
	var k known
	if it.Last() {
		if n := len(it.Key()); n == len(key)+8 {
			k.head = topology.Rev(binary.BigEndian.Uint64(it.Key()[len(key):]))
		}
	}
	if err := it.Close(); err != nil {
		return known{}, l.db.read(err)
	}
	if st.known == nil {
		st.known = make(map[topology.ChannelRef]known)
	}
	for old := range st.known { // any one makes room
		if len(st.known) < knownMax {
			break
		}
		delete(st.known, old)
	}
	return k, nil
}

// times are those of the rows with revs first to last.
func (l *logStore) times(key []byte, first, last topology.Rev) (map[topology.Rev]uint64, error) {
	there := make(map[topology.Rev]uint64)
	err := l.rows(key, first, last, func(r msglog.Row, _ []byte) (bool, error) {
		there[r.Rev] = r.Time
		return true, nil
	})
	return there, err
}

// seal stages the deletion of the rows above a seal that are older than it. They
// are what an owner wrote that was cut off: few.
func (l *logStore) seal(b *pebble.Batch, s msglog.Seal) error {
	if s.Above == ^topology.Rev(0) {
		return nil
	}
	return l.rows(refKey(prefixLog, s.Channel), s.Above+1, ^topology.Rev(0), func(r msglog.Row, key []byte) (bool, error) {
		if r.Time < s.Time {
			if err := b.Delete(key, nil); err != nil {
				return false, problem.Wrap(err, problem.Internal, "can't stage a seal")
			}
		}
		return true, nil
	})
}
