// Package pebbledb keeps a cell's data in one Pebble database on the local disk:
// the embedded drivers of the message log, the history, the event log and the
// read state. It suits a cell that is one process; what needs an answer to be
// durable is synced to disk before it answers, and callers that wait at the same
// time share a sync.
package pebbledb

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/internal/disk"
	"parley/internal/problem"
)

// Sizes fit for several databases in one process. A memtable of 16 MiB is some
// 30,000 messages; Pebble keeps up to four before it makes writers wait.
const (
	memTableBytes = 16 << 20
	cacheBytes    = 32 << 20
	// filterBits a key make one look in a hundred needless.
	filterBits = 10
)

// Config says where the database is.
type Config struct {
	Dir string       // made if it is not there; one process at a time may have it open
	FS  vfs.FS       // nil = the disk
	Log *slog.Logger // nil = none
	// Now is the clock that the event log's retention goes by; nil = time.Now.
	Now func() time.Time
}

// DB is an open database. Its methods may be called by many goroutines at once.
//
// Invariants:
//  1. A write that failed may or may not be there after a restart, and what
//     followed it, too. So the first failure closes the DB for good (it is
//     latched, see failed): every later call answers Unavailable.
//  2. Nothing answers success for a write that Pebble did not take: Pebble
//     reports a fatal commit error to its logger and then returns nil, so each
//     write looks at the latch after it (see commit).
//  3. A full disk is no failure: writes to it wait until there is room (see
//     patientFS), and posts are refused before it comes to that (see room).
type DB struct {
	pebble *pebble.DB
	log    *slog.Logger

	failure atomic.Pointer[error] // set once: why the database is out of use
	failed  chan struct{}         // closed with it
	stuck   atomic.Bool           // see hand

	lineMu sync.Mutex // see line; taken last

	mu       sync.RWMutex // held for reading by each call, for writing by Close
	closed   bool
	closeErr error

	patience  *disk.Patience
	room      *room
	logStore  *logStore
	history   *historyStore
	events    *eventLog
	readState *readStateStore
	clock     func() time.Time
}

// Open opens the database, and makes it if there is none. It repairs what a
// crash has left; a directory that another process has open is refused.
func Open(cfg Config) (*DB, error) {
	if cfg.Dir == "" {
		return nil, problem.Field("dir", "must name a directory for the database")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	d := &DB{log: cfg.Log, failed: make(chan struct{}), clock: cfg.Now}
	d.history, d.events = &historyStore{db: d}, &eventLog{db: d}
	d.readState = &readStateStore{db: d, seed: maphash.MakeSeed()}
	d.patience = disk.NewPatience(cfg.Log.With("dir", cfg.Dir))
	d.room = newRoom(cfg.FS, filepath.Clean(cfg.Dir), d.patience)
	opts := &pebble.Options{
		FS:                 patientFS{cfg.FS, d.patience},
		Logger:             pebbleLogger{d},
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       memTableBytes,
		CacheSize:          cacheBytes,
	}
	// Most reads of single keys ask whether a client_msg_id was there before, and
	// it was not: the filter knows without a look at the tables. Other levels take
	// after the first.
	opts.Levels[0].FilterPolicy = bloom.FilterPolicy(filterBits)
	p, err := pebble.Open(filepath.Clean(cfg.Dir), opts)
	if err != nil {
		return nil, problem.Wrap(err, openKind(err), "can't open the database in %s", cfg.Dir)
	}
	d.pebble = p
	if err := d.err(); err != nil { // a fatal error during Open was only logged
		_ = p.Close() // the failure is what to report
		return nil, err
	}
	if d.logStore, err = openLog(d); err != nil {
		_ = p.Close() // the failure is what to report
		return nil, err
	}
	return d, nil
}

func openKind(err error) problem.Kind {
	if disk.IsFull(err) {
		return problem.Full
	}
	return problem.Unavailable
}

// Close waits for calls that are under way, then closes the database. Later
// calls, and a second Close, do no harm. A database that has failed can't always
// be closed: then the error is of kind Unavailable, and its directory is free
// when the process ends. So it may be with one whose disk is full: what waits for
// room then is given up.
func (d *DB) Close() error {
	d.patience.End()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.closeErr
	}
	d.closed = true
	if d.stuck.Load() {
		d.closeErr = d.err()
		return d.closeErr
	}
	if d.err() == nil {
		if err := d.history.close(); err != nil { // only marks that may be lost
			d.log.Warn("not all marks were stored", "err", err)
		}
	}
	if d.stuck.Load() { // by that write
		d.closeErr = d.err()
		return d.closeErr
	}
	if err := d.pebble.Close(); err != nil {
		d.closeErr = problem.Wrap(err, problem.Internal, "can't close the database cleanly")
	}
	return d.closeErr
}

// Failed is closed when the database has failed for good and the process should
// be restarted; Err says why.
func (d *DB) Failed() <-chan struct{} { return d.failed }

// Err is why the database is out of use, nil while it is not.
func (d *DB) Err() error { return d.err() }

// begin starts a call: it refuses when the database is closed or has failed, or
// ctx has ended. After a nil error the caller must call end.
func (d *DB) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return problem.Wrap(err, problem.Unavailable, "the request took too long; try again")
	}
	d.mu.RLock()
	if d.closed {
		d.mu.RUnlock()
		return problem.New(problem.Unavailable, "the database is closed")
	}
	if err := d.err(); err != nil {
		d.mu.RUnlock()
		return err
	}
	return nil
}

func (d *DB) end() { d.mu.RUnlock() }

// commit writes a batch and closes it; with sync it answers when the batch is on
// disk. An error means that the outcome is unknown, and that the database has
// failed.
func (d *DB) commit(b *pebble.Batch, sync bool) error {
	if sync {
		if err := d.apply(b); err != nil {
			return err
		}
		return d.synced(b)
	}
	if err := d.line(b, pebble.NoSync); err != nil {
		return err
	}
	return d.written(b.Close())
}

// apply makes a batch visible and puts it in line for the next sync, without
// waiting for that: the caller lets go of its locks and calls synced, if there
// was no error. Batches reach the disk in the order of their applies.
func (d *DB) apply(b *pebble.Batch) error { return d.line(b, pebble.Sync) }

// line hands a batch to Pebble. After a failed write Pebble's line of batches
// stands still, and whoever joins it waits for ever; so batches join one at a
// time, each after a look at the latch (invariant 2). That costs little: they
// take turns in Pebble, too, and the syncs are waited for outside. A batch that
// has failed is left to the collector: Pebble may still be using it.
func (d *DB) line(b *pebble.Batch, o *pebble.WriteOptions) error {
	d.lineMu.Lock()
	defer d.lineMu.Unlock()
	if err := d.err(); err != nil {
		return err
	}
	return d.written(d.hand(b, o))
}

// hand is the call itself. Pebble panics when its log can't be written, with its
// line locked for good: the database has failed, and can't even be closed.
func (d *DB) hand(b *pebble.Batch, o *pebble.WriteOptions) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.stuck.Store(true)
			cause, _ := p.(error)
			err = errors.Join(fmt.Errorf("pebble gave up: %v", p), cause)
		}
	}()
	if o.Sync {
		return d.pebble.ApplyNoSyncWait(b, o)
	}
	return d.pebble.Apply(b, o)
}

// synced waits until an applied batch is on disk, and closes it.
func (d *DB) synced(b *pebble.Batch) error {
	if err := d.written(b.SyncWait()); err != nil {
		return err
	}
	return d.written(b.Close())
}

func (d *DB) written(err error) error {
	d.fail(err)
	cause := d.failure.Load()
	if cause == nil {
		return nil
	}
	return problem.Wrap(*cause, problem.Unknown, "the write may not have reached the disk")
}

// read maps an error of a read. Pebble's NotFound is not one: look for it first.
func (d *DB) read(err error) error {
	if err == nil {
		return nil
	}
	return problem.Wrap(err, problem.Unavailable, "can't read from the database")
}

func (d *DB) err() error {
	cause := d.failure.Load()
	switch {
	case cause == nil:
		return nil
	case disk.IsFull(*cause): // at a sync, or in a stop
		return problem.Wrap(*cause, problem.Unavailable, "the disk was full: free space, then restart")
	default:
		return problem.Wrap(*cause, problem.Unavailable, "the database has failed; restart it")
	}
}

// fail latches the database: see invariant 1.
func (d *DB) fail(cause error) {
	if cause == nil {
		return
	}
	if d.failure.CompareAndSwap(nil, &cause) {
		close(d.failed)
		d.log.Error("database failed", "err", cause)
	}
}
