package pebbledb

import (
	"context"
	"time"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

func decodeMessage(v []byte) (history.Message, error) {
	f := fields{rest: v}
	m := history.Message{ReplyCount: f.uvarint(), LastReplyTS: f.varint()}
	if err := f.err("message"); err != nil {
		return m, err
	}
	var err error
	m.Change, err = change.Decode(f.rest)
	return m, err
}

// message reads one top-level message, or says NotFound.
func (d *DB) message(ch topology.ChannelRef, seq topology.Seq) (history.Message, error) {
	v, err := d.get(messageKey(ch, seq))
	if err != nil {
		return history.Message{}, err
	}
	if v == nil {
		return history.Message{}, problem.New(problem.NotFound, "no such message")
	}
	return decodeMessage(v)
}

// Get implements history.Store.
func (h *historyStore) Get(ctx context.Context, ch topology.ChannelRef, seq topology.Seq) (history.Message, error) {
	if err := h.db.begin(ctx); err != nil {
		return history.Message{}, err
	}
	defer h.db.end()
	if err := checkRef(ch); err != nil {
		return history.Message{}, err
	}
	return h.db.message(ch, seq)
}

// Page implements history.Store.
func (h *historyStore) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	if err := h.db.begin(ctx); err != nil {
		return nil, err
	}
	defer h.db.end()
	if err := checkRef(ch); err != nil || q.Limit <= 0 {
		return nil, err
	}
	var out []history.Message
	take := func(_, v []byte) (bool, error) {
		m, err := decodeMessage(v)
		out = append(out, m)
		return len(out) < q.Limit, err
	}
	prefix := refKey(prefixMessage, ch)
	if q.Forward {
		return out, h.db.scan(messageKey(ch, q.After+1), keyEnd(prefix), take)
	}
	end := keyEnd(prefix)
	if q.Before > 0 {
		end = messageKey(ch, q.Before)
	}
	return out, h.db.scanBack(prefix, end, take)
}

// Thread implements history.Store.
func (h *historyStore) Thread(ctx context.Context, ch topology.ChannelRef, root, after topology.Seq, limit int) ([]history.Message, error) {
	if err := h.db.begin(ctx); err != nil {
		return nil, err
	}
	defer h.db.end()
	if err := checkRef(ch); err != nil || limit <= 0 {
		return nil, err
	}
	var out []history.Message
	err := h.db.scan(replyKey(ch, root, after+1), keyEnd(threadKey(ch, root)), func(_, v []byte) (bool, error) {
		c, err := change.Decode(v)
		out = append(out, history.Message{Change: c})
		return len(out) < limit, err
	})
	return out, err
}

// Deduped implements history.Store.
func (h *historyStore) Deduped(ctx context.Context, ch topology.ChannelRef, author topology.UserID, key string, now time.Time) (history.Deduped, bool, error) {
	if err := h.db.begin(ctx); err != nil {
		return history.Deduped{}, false, err
	}
	defer h.db.end()
	if err := checkRef(ch); err != nil {
		return history.Deduped{}, false, err
	}
	v, err := h.db.get(dedupeKey(ch, author, key))
	if err != nil || v == nil {
		return history.Deduped{}, false, err
	}
	f := fields{rest: v}
	d := history.Deduped{TS: f.varint(), Kind: change.Kind(f.byte()), Seq: topology.Seq(f.uvarint()), Rev: topology.Rev(f.uvarint())}
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
