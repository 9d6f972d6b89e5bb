package pebbledb

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Tail reads rows (clause 4).
func (l *logStore) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	if err := checkRef(ch); err != nil {
		return nil, err
	}
	if limit <= 0 {
		return nil, nil
	}
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	var rows []msglog.Row
	err := l.rows(refKey(prefixLog, ch), from, ^topology.Rev(0), func(r msglog.Row, _ []byte) (bool, error) {
		r.Blob = bytes.Clone(r.Blob)
		rows = append(rows, r)
		return len(rows) < limit, ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// rows visits the rows of a channel with revs first to last, rising, until visit
// says no more. The row's blob and the key are valid during the visit.
func (l *logStore) rows(prefix []byte, first, last topology.Rev, visit func(r msglog.Row, key []byte) (bool, error)) error {
	o := &pebble.IterOptions{LowerBound: appendUint64(slices.Clip(prefix), first), UpperBound: keyEnd(prefix)}
	if last != ^topology.Rev(0) {
		o.UpperBound = appendUint64(slices.Clip(prefix), last+1)
	}
	it, err := l.db.pebble.NewIter(o)
	if err != nil {
		return l.db.read(err)
	}
	more := true
	for ok := it.First(); ok && more; ok = it.Next() {
		key, value := it.Key(), it.Value()
		if len(key) != len(prefix)+8 || len(value) < 8 {
			err = problem.New(problem.Internal, "a log row is damaged")
			break
		}
		r := msglog.Row{
			Rev:  topology.Rev(binary.BigEndian.Uint64(key[len(prefix):])),
			Time: binary.BigEndian.Uint64(value), Blob: value[8:],
		}
		if more, err = visit(r, key); err != nil {
			break
		}
	}
	if closeErr := it.Close(); err == nil {
		err = l.db.read(closeErr)
	}
	return err
}

// Oldest is where a log begins (clause 7): nothing is dropped here.
func (l *logStore) Oldest(ctx context.Context, _ topology.ChannelRef) (topology.Rev, error) {
	return 1, ctx.Err()
}

// Dirty names the channels of a shard that were written to (clause 6).
func (l *logStore) Dirty(ctx context.Context, s topology.Shard) ([]topology.ChannelRef, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	prefix := appendShard([]byte{prefixDirty}, s)
	it, err := l.db.pebble.NewIter(span(prefix))
	if err != nil {
		return nil, l.db.read(err)
	}
	var refs []topology.ChannelRef
	for ok := it.First(); ok; ok = it.Next() {
		ch, rest, good := cutRef(it.Key()[len(prefix):])
		if !good || len(rest) != 0 {
			_ = it.Close() // the damage is what to report
			return nil, problem.New(problem.Internal, "a dirty channel's row is damaged")
		}
		refs = append(refs, ch)
	}
	if err := it.Close(); err != nil {
		return nil, l.db.read(err)
	}
	return refs, nil
}

// Clean takes a channel off the list of Dirty (clause 6). It is not synced: what
// is lost is on the list again. The next Append to the channel comes after it in
// the order of the disk as well.
func (l *logStore) Clean(ctx context.Context, s topology.Shard, t topology.Token, ch topology.ChannelRef, upTo topology.Rev) error {
	if err := checkChannels(s, []topology.ChannelRef{ch}); err != nil {
		return err
	}
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	st := &l.shards[s]
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := l.present(s, t); err != nil {
		return err
	}
	above := false
	if upTo < ^topology.Rev(0) {
		err := l.rows(refKey(prefixLog, ch), upTo+1, ^topology.Rev(0), func(msglog.Row, []byte) (bool, error) {
			above = true
			return false, nil
		})
		if err != nil {
			return err
		}
	}
	if above {
		return nil
	}
	b := l.db.pebble.NewBatch()
	if err := b.Delete(dirtyKey(s, ch), nil); err != nil {
		return problem.Wrap(err, problem.Internal, "can't stage a clean channel")
	}
	if k, ok := st.known[ch]; ok {
		st.known[ch] = known{head: k.head}
	}
	return l.db.commit(b, false)
}

func span(prefix []byte) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: prefix, UpperBound: keyEnd(prefix)}
}

func fenceKey(s topology.Shard) []byte { return appendShard([]byte{prefixFence}, s) }

func dirtyKey(s topology.Shard, ch topology.ChannelRef) []byte {
	b := make([]byte, 0, 3+1+len(ch.Workspace)+8+1+len(ch.Channel))
	return appendRef(appendShard(append(b, prefixDirty), s), ch)
}

func encodeFence(f msglog.Fence) []byte {
	return appendName(appendUint64(nil, f.Token), f.Owner)
}

func decodeFence(key, value []byte) (msglog.Fence, bool) {
	if len(key) != 3 || len(value) < 8 {
		return msglog.Fence{}, false
	}
	owner, rest, ok := cutName(value[8:])
	f := msglog.Fence{
		Shard: topology.Shard(binary.BigEndian.Uint16(key[1:])),
		Token: topology.Token(binary.BigEndian.Uint64(value)), Owner: topology.ServerID(owner),
	}
	return f, ok && len(rest) == 0 && f.Shard < topology.Shards
}

// checkTimes refuses rows that are not of the token, or whose revs don't rise
// one by one.
func checkTimes(t topology.Token, rows []msglog.Row) error {
	for i, r := range rows {
		if r.Time <= msglog.Time(t, 0) || r.Time >= msglog.Time(t+1, 0) {
			return problem.New(problem.Invalid, "a row's time must be one of token %d", t)
		}
		if r.Rev == 0 || r.Rev != rows[0].Rev+topology.Rev(i) {
			return problem.New(problem.Invalid, "rows must have revs from 1 up, without gaps")
		}
	}
	return nil
}

// checkChannels refuses channels of another shard, and one that is named twice.
func checkChannels(s topology.Shard, chs []topology.ChannelRef) error {
	if s >= topology.Shards {
		return problem.New(problem.Invalid, "there is no shard %d", s)
	}
	seen := make(map[topology.ChannelRef]struct{}, len(chs))
	for _, ch := range chs {
		if err := checkRef(ch); err != nil {
			return err
		}
		if ch.Shard() != s {
			return problem.New(problem.Invalid, "channel %s is not in shard %d", ch.Channel, s)
		}
		if _, ok := seen[ch]; ok {
			return problem.New(problem.Invalid, "channel %s is named twice in one write", ch.Channel)
		}
		seen[ch] = struct{}{}
	}
	return nil
}
