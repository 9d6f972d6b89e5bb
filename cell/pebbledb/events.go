package pebbledb

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// eventLog is the event log. Appends are not synced: a commit of a position is,
// and takes with it all that was appended before, for the database keeps its
// writes' order over a crash.
type eventLog struct {
	db         *DB
	partitions [topology.Shards]partition
}

// partition is the end of one partition; the newest event is never trimmed, so
// that positions go on after it.
type partition struct {
	mu    sync.Mutex
	known bool
	last  eventlog.Position
	added int           // since the last trim
	grown chan struct{} // closed at the next append; nil while nobody waits
}

var _ eventlog.Log = (*eventLog)(nil)

// Events is the database's event log.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) Events() eventlog.Log { return d.events }

// trimEvery is after how many events a partition looks for old ones, trimMax how
// many it drops at once: more, so that it keeps up.
const (
	trimEvery = 1000
	trimMax   = 4000
)

func partitionKey(p topology.Shard) []byte { return appendShard([]byte{prefixEvent}, p) }

func eventKey(p topology.Shard, at eventlog.Position) []byte {
	return appendUint64(partitionKey(p), at)
}

func offsetKey(group string, p topology.Shard) []byte {
	return appendShard(appendName([]byte{prefixOffset}, group), p)
}

func (l *eventLog) partition(p topology.Shard) (*partition, error) {
	if p >= topology.Shards {
		return nil, problem.New(problem.Internal, "there is no partition %d", p)
	}
	return &l.partitions[p], nil
}

// load finds the end of a partition; its lock is held.
func (l *eventLog) load(p topology.Shard, part *partition) error {
	if part.known {
		return nil
	}
	prefix := partitionKey(p)
	err := l.db.scanBack(prefix, keyEnd(prefix), func(k, _ []byte) (bool, error) {
		part.last = eventlog.Position(binary.BigEndian.Uint64(k[len(prefix):]))
		return false, nil
	})
	part.known = err == nil
	part.added = trimEvery // a short run would never come to a trim
	return err
}

// Append implements eventlog.Log.
func (l *eventLog) Append(ctx context.Context, p topology.Shard, events []eventlog.Event) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	part, err := l.partition(p)
	if err != nil || len(events) == 0 {
		return err
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	if err := l.load(p, part); err != nil {
		return err
	}
	b, at := l.db.pebble.NewBatch(), part.last
	now := l.db.now().UnixMicro()
	for _, e := range events {
		if err := checkRef(e.Channel); err != nil {
			return errors.Join(err, b.Close())
		}
		at++
		v := binary.AppendVarint(nil, now)
		v = appendRef(v, e.Channel)
		v = binary.AppendUvarint(v, uint64(e.Rev))
		if err := b.Set(eventKey(p, at), append(v, kindByte(e)), nil); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	if err := l.trimSometimes(p, part, b, len(events)); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := l.db.commit(b, false); err != nil {
		return err
	}
	part.last = at
	if part.grown != nil {
		close(part.grown)
		part.grown = nil
	}
	return nil
}

// trimSometimes drops events that are older than the retention.
func (l *eventLog) trimSometimes(p topology.Shard, part *partition, b *pebble.Batch, added int) error {
	if part.added += added; part.added < trimEvery {
		return nil
	}
	part.added = 0
	return l.trim(p, part, b)
}

func (l *eventLog) trim(p topology.Shard, part *partition, b *pebble.Batch) error {
	oldest := l.db.now().Add(-eventlog.Retention).UnixMicro()
	var keep []byte
	n := 0 // old ones, and the one that ends them
	err := l.db.scan(partitionKey(p), eventKey(p, part.last), func(k, v []byte) (bool, error) {
		f := fields{rest: v}
		if n++; f.varint() >= oldest || n > trimMax {
			keep = append(keep, k...)
			return false, nil
		}
		return true, nil
	})
	if keep == nil {
		keep = eventKey(p, part.last)
		n++
	}
	if err != nil || n <= 1 {
		return err
	}
	return b.DeleteRange(partitionKey(p), keep, nil)
}

// Trim drops old events of all partitions, as appends do from time to time.
func (l *eventLog) Trim(ctx context.Context) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	b := l.db.pebble.NewBatch()
	for p := range topology.Shard(topology.Shards) {
		part := &l.partitions[p]
		part.mu.Lock()
		err := l.load(p, part)
		if err == nil {
			err = l.trim(p, part, b)
		}
		part.mu.Unlock()
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return l.db.commit(b, false)
}

// Read implements eventlog.Log.
func (l *eventLog) Read(ctx context.Context, p topology.Shard, after eventlog.Position, limit int) ([]eventlog.Event, eventlog.Position, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, after, err
	}
	defer l.db.end()
	if _, err := l.partition(p); err != nil || limit <= 0 {
		return nil, after, err
	}
	prefix := partitionKey(p)
	var out []eventlog.Event
	last := after
	err := l.db.scan(eventKey(p, after+1), keyEnd(prefix), func(k, v []byte) (bool, error) {
		f := fields{rest: v}
		f.varint()
		ref, rest, ok := cutRef(f.rest)
		f.rest, f.bad = rest, f.bad || !ok
		e := eventlog.Event{Channel: ref, Rev: topology.Rev(f.uvarint())}
		kind := f.byte()
		e.Kind, e.Plain = change.Kind(kind&^plainBit), kind&plainBit != 0
		out = append(out, e)
		last = eventlog.Position(binary.BigEndian.Uint64(k[len(prefix):]))
		return len(out) < limit, f.err("event")
	})
	if err != nil {
		return nil, after, err
	}
	return out, last, nil
}

// Commit implements eventlog.Log.
func (l *eventLog) Commit(ctx context.Context, group string, p topology.Shard, at eventlog.Position) error {
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	if err := checkGroup(group); err != nil {
		return err
	}
	b := l.db.pebble.NewBatch()
	if err := b.Set(offsetKey(group, p), appendUint64(nil, at), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	return l.db.commit(b, true)
}

// Committed implements eventlog.Log.
func (l *eventLog) Committed(ctx context.Context, group string, p topology.Shard) (eventlog.Position, error) {
	if err := l.db.begin(ctx); err != nil {
		return 0, err
	}
	defer l.db.end()
	if err := checkGroup(group); err != nil {
		return 0, err
	}
	v, err := l.db.get(offsetKey(group, p))
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, problem.New(problem.Internal, "an offset row in the database can't be decoded")
	}
	return eventlog.Position(binary.BigEndian.Uint64(v)), nil
}

func checkGroup(group string) error {
	if l := len(group); l == 0 || l > nameMax {
		return problem.Field("group", "must have 1 to %d bytes, not %d", nameMax, l)
	}
	return nil
}

// Wait implements eventlog.Log.
func (l *eventLog) Wait(ctx context.Context, p topology.Shard, after eventlog.Position) error {
	part, err := l.partition(p)
	if err != nil {
		return err
	}
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	part.mu.Lock()
	err = l.load(p, part)
	there := part.last > after
	if part.grown == nil {
		part.grown = make(chan struct{})
	}
	grown := part.grown
	part.mu.Unlock()
	l.db.end()
	if err != nil || there {
		return err
	}
	select {
	case <-grown:
		return nil
	case <-ctx.Done():
		return problem.Wrap(ctx.Err(), problem.Unavailable, "no event came")
	}
}

// End implements eventlog.Log.
func (l *eventLog) End(ctx context.Context, p topology.Shard) (eventlog.Position, error) {
	if err := l.db.begin(ctx); err != nil {
		return 0, err
	}
	defer l.db.end()
	part, err := l.partition(p)
	if err != nil {
		return 0, err
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	err = l.load(p, part)
	return part.last, err
}

// now is what retention goes by.
func (d *DB) now() time.Time {
	if d.clock != nil {
		return d.clock()
	}
	return time.Now()
}

// plainBit stands in a kind's byte for Event.Plain; kinds are far below it.
const plainBit = 0x80

func kindByte(e eventlog.Event) byte {
	if e.Plain {
		return byte(e.Kind) | plainBit
	}
	return byte(e.Kind)
}
