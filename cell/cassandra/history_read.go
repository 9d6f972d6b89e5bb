package cassandra

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/gocql/gocql"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	pageBack    = `SELECT seq, body, thread FROM message WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND seq < ? LIMIT ?`
	pageForward = `SELECT seq, body, thread FROM message WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND seq > ? ORDER BY seq ASC LIMIT ?`
	messageGet  = `SELECT body, thread FROM message WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND seq = ?`
	threadRead  = `SELECT seq, body FROM reply WHERE workspace = ? AND generation = ? AND channel = ? AND root = ? AND bucket = ? AND seq > ? LIMIT ?`
	dedupeGet   = `SELECT value FROM dedupe WHERE workspace = ? AND generation = ? AND channel = ? AND slot = ? AND author = ? AND key = ?`
)

// Page implements history.Store.
func (h *historyStore) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	if err := checkRef(ch); err != nil || q.Limit <= 0 {
		return nil, err
	}
	if err := h.db.begin(ctx); err != nil {
		return nil, err
	}
	defer h.db.end()
	if q.Forward {
		return h.forward(ctx, ch, q.After, q.Limit)
	}
	return h.backward(ctx, ch, q.Before, q.Limit)
}

// backward reads newest first. Buckets become visible in rising order, so whoever
// has seen rows of one finds all of the one below, if it looks there afterwards.
func (h *historyStore) backward(ctx context.Context, ch topology.ChannelRef, before topology.Seq, limit int) ([]history.Message, error) {
	clamped := before == 0
	if clamped {
		var err error
		if before, err = h.end(ctx, ch); err != nil {
			return nil, err
		}
	}
	var out []history.Message
	for before > 1 {
		page, err := h.messages(ctx, pageBack, ch, h.db.historyBucket(before-1), number(before), limit-len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		switch {
		case len(out) >= limit:
			return out, nil
		case len(page) > 0: // the rest is in the buckets below
			before = topology.Seq(uint64(h.db.historyBucket(before-1)) * h.db.sizes.history) //nolint:gosec // a bucket that is there
		case clamped || len(out) > 0:
			return out, nil
		default: // above the newest message: where is that?
			end, err := h.end(ctx, ch)
			if err != nil {
				return nil, err
			}
			before, clamped = min(before, end), true
		}
	}
	return out, nil
}

// end is the seq after the newest message.
func (h *historyStore) end(ctx context.Context, ch topology.ChannelRef) (topology.Seq, error) {
	m, err := h.mark(ctx, ch)
	return m.Seq + 1, err
}

// forward reads oldest first. A bucket that was read before it was full is the
// last that counts: what has come into the next one since would leave a gap.
func (h *historyStore) forward(ctx context.Context, ch topology.ChannelRef, after topology.Seq, limit int) ([]history.Message, error) {
	var out []history.Message
	for after < math.MaxInt64 {
		bucket := h.db.historyBucket(after + 1)
		page, err := h.messages(ctx, pageForward, ch, bucket, number(after), limit-len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		last := topology.Seq(uint64(bucket+1)*h.db.sizes.history - 1) //nolint:gosec // a bucket that is there
		if len(out) >= limit || len(page) == 0 || page[len(page)-1].Seq != last {
			return out, nil
		}
		after = last
	}
	return out, nil
}

// messages reads top-level messages of one bucket.
func (h *historyStore) messages(ctx context.Context, cql string, ch topology.ChannelRef, bucket, seq int64, limit int) ([]history.Message, error) {
	it := h.db.get(ctx, cql, partition(ch, bucket, seq, min(limit, math.MaxInt32))...).Iter()
	out := make([]history.Message, 0, it.NumRows())
	var body, facts []byte
	for it.Scan(&seq, &body, &facts) {
		m, err := decodeMessage(body, facts)
		if err != nil {
			_ = it.Close() // the damage is what to report
			return nil, err
		}
		out = append(out, m)
	}
	return out, readError(it.Close())
}

func decodeMessage(body, facts []byte) (history.Message, error) {
	var m history.Message
	var err error
	if m.Change, err = change.Decode(body); err != nil {
		return m, err
	}
	if len(facts) > 0 {
		f := fields{rest: facts}
		m.ReplyCount, m.LastReplyTS = f.uvarint(), f.varint()
		err = f.err("thread")
	}
	return m, err
}

// Get implements history.Store.
func (h *historyStore) Get(ctx context.Context, ch topology.ChannelRef, seq topology.Seq) (history.Message, error) {
	if err := checkRef(ch); err != nil {
		return history.Message{}, err
	}
	if err := h.db.begin(ctx); err != nil {
		return history.Message{}, err
	}
	defer h.db.end()
	var body, facts []byte
	err := h.db.get(ctx, messageGet, partition(ch, h.db.historyBucket(seq), number(seq))...).Scan(&body, &facts)
	if errors.Is(err, gocql.ErrNotFound) {
		return history.Message{}, problem.New(problem.NotFound, "no such message")
	}
	if err != nil {
		return history.Message{}, readError(err)
	}
	return decodeMessage(body, facts)
}

// Thread implements history.Store. Its buckets are read as a page forward is.
func (h *historyStore) Thread(ctx context.Context, ch topology.ChannelRef, root, after topology.Seq, limit int) ([]history.Message, error) {
	if err := checkRef(ch); err != nil || limit <= 0 {
		return nil, err
	}
	if err := h.db.begin(ctx); err != nil {
		return nil, err
	}
	defer h.db.end()
	var out []history.Message
	for after < math.MaxInt64 {
		bucket := h.db.historyBucket(after + 1)
		page, err := h.replies(ctx, partition(ch, number(root), bucket, number(after), min(limit-len(out), math.MaxInt32)))
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		last := topology.Seq(uint64(bucket+1)*h.db.sizes.history - 1) //nolint:gosec // a bucket that is there
		if len(out) >= limit || len(page) == 0 || page[len(page)-1].Seq != last {
			return out, nil
		}
		after = last
	}
	return out, nil
}

func (h *historyStore) replies(ctx context.Context, args []any) ([]history.Message, error) {
	it := h.db.get(ctx, threadRead, args...).Iter()
	var (
		out  []history.Message
		seq  int64
		body []byte
	)
	for it.Scan(&seq, &body) {
		c, err := change.Decode(body)
		if err != nil {
			_ = it.Close() // the damage is what to report
			return nil, err
		}
		out = append(out, history.Message{Change: c})
	}
	return out, readError(it.Close())
}

// Deduped implements history.Store. Cassandra forgets a key by itself an hour
// after its window; here the change's own time decides.
func (h *historyStore) Deduped(ctx context.Context, ch topology.ChannelRef, author topology.UserID, key string, now time.Time) (history.Deduped, bool, error) {
	var d history.Deduped
	if err := checkRef(ch); err != nil || key == "" {
		return d, false, err
	}
	if err := h.db.begin(ctx); err != nil {
		return d, false, err
	}
	defer h.db.end()
	var v []byte
	err := h.db.get(ctx, dedupeGet, partition(ch, dedupeSlot(author, key), string(author), []byte(key))...).Scan(&v)
	if errors.Is(err, gocql.ErrNotFound) {
		return d, false, nil
	}
	if err != nil {
		return d, false, readError(err)
	}
	f := fields{rest: v}
	d = history.Deduped{TS: f.varint(), Kind: change.Kind(f.byte()), Seq: topology.Seq(f.uvarint()), Rev: topology.Rev(f.uvarint())}
	copy(d.Hash[:], f.take(len(d.Hash)))
	if err := f.err("dedupe key"); err != nil {
		return history.Deduped{}, false, err
	}
	d.ID = topology.MessageID(f.rest)
	if now.Sub(time.UnixMicro(d.TS)) >= history.Window {
		return history.Deduped{}, false, nil
	}
	return d, true, nil
}

// fields reads the fields of a value. After a fault every field is zero.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.rest)
	return v * f.skip(n)
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.rest)
	return v * int64(f.skip(n)) //nolint:gosec // 0 or 1
}

// skip goes past a number of n bytes: 1 if it is one, else 0.
func (f *fields) skip(n int) uint64 {
	if f.bad = f.bad || n <= 0; f.bad {
		return 0
	}
	f.rest = f.rest[n:]
	return 1
}

func (f *fields) take(n int) []byte {
	if f.bad = f.bad || len(f.rest) < n; f.bad {
		return nil
	}
	v := f.rest[:n]
	f.rest = f.rest[n:]
	return v
}

func (f *fields) byte() byte {
	if b := f.take(1); b != nil {
		return b[0]
	}
	return 0
}

// err tells of a value that was not written by this program, or by another version.
func (f *fields) err(what string) error {
	if f.bad {
		return problem.New(problem.Internal, "a %s row in the message store can't be decoded", what)
	}
	return nil
}
