package cassandra

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gocql/gocql"

	"parley/cell/change"
	"parley/internal/ids"
	"parley/internal/topology"
)

const (
	// retention is how long a log is kept at least: whoever comes back later loads
	// afresh.
	retention = 30 * 24 * time.Hour
	// trimQueue channels may wait; one that finds no place is looked at when it enters
	// its next bucket.
	trimQueue = 256
	// trimBuckets are dropped of a channel at a time: more than it has entered since.
	trimBuckets = 8
	// trimMax bounds one look.
	trimMax = 30 * time.Second
	// dropTime is above every write time: nothing comes back into a dropped bucket.
	dropTime = int64(1) << 62

	logLast   = `SELECT rev, body FROM log WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? ORDER BY rev DESC LIMIT 1`
	logDrop   = `DELETE FROM log USING TIMESTAMP ? WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ?`
	floorRead = `SELECT floor FROM mark WHERE workspace = ? AND generation = ? AND channel = ?`
	floorSet  = `UPDATE mark USING TIMESTAMP ? SET floor = ? WHERE workspace = ? AND generation = ? AND channel = ?`
)

// trimmer drops the log's old buckets as new ones are entered: those whose last
// change is older than the retention and has become history and event. A channel
// younger than that has none, whatever its changes say: those of an import have the
// times that they had elsewhere, and workers are yet to read them.
//
// Rejected: a time to live on the rows. It runs while a cell is off or its history
// is behind, and would take changes that are nowhere else.
type trimmer struct {
	db     *DB
	queue  chan entered
	ctx    context.Context //nolint:containedctx // ends with the DB
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// entered is a channel whose log has come to a new bucket.
type entered struct {
	ch  topology.ChannelRef
	rev topology.Rev
}

func newTrimmer(d *DB) *trimmer {
	t := &trimmer{db: d, queue: make(chan entered, trimQueue)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Add(1)
	return t
}

func (t *trimmer) run() {
	defer t.wg.Done()
	for {
		select {
		case e := <-t.queue:
			ctx, cancel := context.WithTimeout(t.ctx, trimMax)
			if err := t.trim(ctx, e); err != nil && t.ctx.Err() == nil {
				t.db.log.Warn("old log buckets were not dropped", "channel", string(e.ch.Channel), "err", err)
			}
			cancel()
		case <-t.ctx.Done():
			return
		}
	}
}

// stop ends run and waits for it.
func (t *trimmer) stop() {
	t.cancel()
	t.wg.Wait()
}

// look asks for a channel to be looked at, unless too many are.
func (t *trimmer) look(ch topology.ChannelRef, rev topology.Rev) {
	select {
	case t.queue <- entered{ch, rev}:
	default:
	}
}

func (t *trimmer) trim(ctx context.Context, e entered) error {
	oldest := t.db.now().Add(-retention)
	if made, ok := ids.Made(ids.Channel, string(e.ch.Channel)); ok && made.After(oldest) {
		return nil
	}
	mark, err := t.db.history.mark(ctx, e.ch)
	if err != nil {
		return err
	}
	done := min(mark.Applied, mark.Emitted)
	if done == 0 {
		return nil
	}
	bucket, err := t.db.floor(ctx, e.ch)
	if err != nil {
		return err
	}
	for n := 0; n < trimBuckets && bucket < t.db.logBucket(e.rev); n++ {
		old, err := t.old(ctx, e.ch, bucket, done, oldest)
		if err != nil || !old {
			return err
		}
		if err := t.db.put(ctx, mutation{{cql: logDrop, args: append([]any{dropTime}, partition(e.ch, bucket)...)}}); err != nil {
			return err
		}
		bucket++
		if err := t.db.put(ctx, mutation{{cql: floorSet, args: append([]any{bucket, bucket}, partition(e.ch)...)}}); err != nil {
			return err
		}
	}
	return nil
}

// old says whether a bucket may go: all of it is derived, and out of the retention.
func (t *trimmer) old(ctx context.Context, ch topology.ChannelRef, bucket int64, done topology.Rev, oldest time.Time) (bool, error) {
	if end := topology.Rev(uint64(bucket+1)*t.db.sizes.log) - 1; end > done { //nolint:gosec // a bucket that is there
		return false, nil
	}
	body, there, err := t.db.last(ctx, ch, bucket)
	if err != nil {
		return false, err
	}
	if !there {
		return true, nil // dropped before, and the floor was not noted
	}
	c, err := change.Decode(body)
	if err != nil {
		return false, err
	}
	return c.TS < oldest.UnixMicro(), nil
}

// floor is the oldest bucket that was not noted as dropped.
func (d *DB) floor(ctx context.Context, ch topology.ChannelRef) (int64, error) {
	var floor *int64
	err := d.get(ctx, floorRead, partition(ch)...).Scan(&floor)
	if errors.Is(err, gocql.ErrNotFound) || err == nil && floor == nil {
		return 0, nil
	}
	if err != nil {
		return 0, readError(err)
	}
	return *floor, nil
}

// last is a bucket's last row.
func (d *DB) last(ctx context.Context, ch topology.ChannelRef, bucket int64) (body []byte, there bool, err error) {
	var rev int64
	err = d.get(ctx, logLast, partition(ch, bucket)...).Scan(&rev, &body)
	if errors.Is(err, gocql.ErrNotFound) {
		return nil, false, nil
	}
	return body, err == nil, readError(err)
}

// Oldest is where a channel's log begins (clause 7).
func (l *logStore) Oldest(ctx context.Context, ch topology.ChannelRef) (topology.Rev, error) {
	if err := checkRef(ch); err != nil {
		return 0, err
	}
	if err := l.db.begin(ctx); err != nil {
		return 0, err
	}
	defer l.db.end()
	bucket, err := l.db.floor(ctx, ch)
	if err != nil {
		return 0, err
	}
	for _, next := range []int64{bucket, bucket + 1} { // one may be dropped whose floor was not noted
		_, there, err := l.db.last(ctx, ch, next)
		if err != nil {
			return 0, err
		}
		if there {
			bucket = next
			break
		}
	}
	return topology.Rev(max(uint64(bucket)*l.db.sizes.log, 1)), nil //nolint:gosec // a bucket that is there
}
