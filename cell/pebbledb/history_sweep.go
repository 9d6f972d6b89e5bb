package pebbledb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"parley/cell/history"
	"parley/internal/problem"
)

const (
	// sweepEvery is after how many new dedupe keys old ones are looked for.
	sweepEvery = 1000
	// sweepMax bounds what one sweep forgets: more than came, so that it keeps up,
	// and few enough to take some milliseconds.
	sweepMax = 4000
)

// sweepSometimes forgets old dedupe keys now and then as new ones come.
func (h *historyStore) sweepSometimes(added int) error {
	if added == 0 || h.sweepIn.Add(int64(-added)) >= 0 {
		return nil
	}
	h.sweepIn.Store(sweepEvery)
	_, err := h.sweep(h.db.now())
	return err
}

// Sweep forgets dedupe keys that are older than the window at now, some at a time;
// more says that there may be more.
func (h *historyStore) Sweep(ctx context.Context, now time.Time) (more bool, err error) {
	if err := h.db.begin(ctx); err != nil {
		return false, err
	}
	defer h.db.end()
	return h.sweep(now)
}

func (h *historyStore) sweep(now time.Time) (more bool, err error) {
	if !h.sweeping.TryLock() {
		return true, nil
	}
	defer h.sweeping.Unlock()
	old, n, err := h.old(now)
	if err != nil {
		return false, err
	}
	for i, keys := range old {
		if err := h.forgetAll(i, keys); err != nil {
			return false, err
		}
	}
	return n == sweepMax, nil
}

// old is the first dedupe times that are out of the window, by the lock of their
// channels.
func (h *historyStore) old(now time.Time) (keys map[int][][]byte, n int, err error) {
	// A change exactly a window old is not found any more.
	until := appendUint64([]byte{prefixDedupeTS}, uint64(max(now.Add(-history.Window).UnixMicro()+1, 0)))
	keys = make(map[int][][]byte)
	err = h.db.scan([]byte{prefixDedupeTS}, until, func(k, _ []byte) (bool, error) {
		if len(k) < 10 {
			return false, problem.New(problem.Internal, "a dedupe time in the database can't be decoded")
		}
		ch, _, ok := cutRef(k[10:]) // letter, time, letter of the dedupe key
		if !ok {
			return false, problem.New(problem.Internal, "a dedupe time in the database can't be decoded")
		}
		i := stripeOf(ch)
		keys[i] = append(keys[i], bytes.Clone(k))
		n++
		return n < sweepMax, nil
	})
	return keys, n, err
}

// forgetAll drops dedupe times of channels under one lock, which it holds until
// that is written: between looking at a key and dropping it the key must not be
// used again.
func (h *historyStore) forgetAll(lock int, timeKeys [][]byte) error {
	h.stripes[lock].mu.Lock()
	defer h.stripes[lock].mu.Unlock()
	b := h.db.pebble.NewBatch()
	for _, k := range timeKeys {
		if err := h.forget(b, k); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return h.db.commit(b, false)
}

// forget drops a dedupe time, and its key unless that was used again since.
func (h *historyStore) forget(b *pebble.Batch, timeKey []byte) error {
	at, key := int64(binary.BigEndian.Uint64(timeKey[1:9])), timeKey[9:] //nolint:gosec // it was an int64
	v, err := h.db.get(key)
	if err != nil {
		return err
	}
	f := fields{rest: v}
	if v != nil && f.varint() <= at {
		if err := b.Delete(key, nil); err != nil {
			return err
		}
	}
	return b.Delete(timeKey, nil)
}
