// Package cassandra keeps a cell's message store in Apache Cassandra: the log
// with its fences (msglog.Store) and the history (history.Store), for cells of
// several processes. All of the client's types stay in here.
//
// Every write but the fences' carries its own time, so that no clock orders
// anything: a log row its token and number, a derived row its rev. So every one of
// them may be made again, at another node, at any later time.
package cassandra

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gocql/gocql"
	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/history"
	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// sizes bound partitions. They are part of where a row lies: never change them
// for tables that hold rows.
type sizes struct {
	log     uint64 // revs a bucket
	history uint64 // seqs a bucket
}

// A bucket of 4,096 rows is 1 to 3 MB of ordinary messages and some 150 MB of
// the longest there may be; a page touches two at most.
const bucketRows = 4096

// DB is a session with the cell's keyspace. Its methods may be called by many
// goroutines at once.
type DB struct {
	session *gocql.Session
	metrics *metrics
	cell    string
	log     *slog.Logger
	now     func() time.Time
	sizes   sizes
	spare   bool // there is a second replica to ask beside a slow one
	reads   *hedge
	writes  *hedge

	mu     sync.RWMutex // held for reading by each call, for writing by Close
	closed bool

	logStore *logStore
	history  *historyStore
	trimmer  *trimmer
}

// Open asks what Ready asks, makes the keyspace and the tables that are missing,
// and returns a store that serves. cell names the fences and lists of this cell in
// the keyspace. log and reg may be nil. Nothing is left running after an error.
func Open(ctx context.Context, cfg Config, cell topology.CellID, log *slog.Logger, reg prometheus.Registerer) (*DB, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o := options{metrics: reg}
	notes, err := inspect(ctx, cfg, o, log)
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		log.Warn("message store", "step", n)
	}
	if err := migrate(ctx, cfg, o, log); err != nil {
		return nil, err
	}
	return connect(ctx, cfg, o, cell, log)
}

// connect opens the session with a keyspace that is known to be there.
func connect(ctx context.Context, cfg Config, o options, cell topology.CellID, log *slog.Logger) (*DB, error) {
	if cell == "" || len(cell) > nameMax {
		return nil, problem.Field("id", "a cell's name has 1 to %d bytes, not %d", nameMax, len(cell))
	}
	cl, err := cfg.cluster(o, log, "")
	if err != nil {
		return nil, err
	}
	cl.Keyspace = cfg.Keyspace
	m := newMetrics(o.metrics)
	cl.QueryObserver, cl.BatchObserver, cl.ConnectObserver = m, m, m
	if err := m.register(); err != nil {
		return nil, err
	}
	s, err := cfg.dial(ctx, cl)
	if err != nil {
		m.unregister()
		return nil, problem.Wrap(err, problem.Unavailable, "Cassandra: no session with keyspace %s at %v", cfg.Keyspace, cfg.Hosts)
	}
	d := &DB{session: s, metrics: m, cell: string(cell), log: log, now: o.now, sizes: o.sizes, spare: cfg.Replication > 1, reads: &hedge{metrics: m}, writes: &hedge{metrics: m}}
	if d.now == nil {
		d.now = time.Now
	}
	if d.sizes == (sizes{}) {
		d.sizes = sizes{log: bucketRows, history: bucketRows}
	}
	d.logStore, d.history, d.trimmer = newLogStore(d), newHistory(d), newTrimmer(d)
	go d.trimmer.run()
	return d, nil
}

// Log is the message store.
func (d *DB) Log() msglog.Store { return d.logStore } //nolint:ireturn // the driver is used through its contract

// History is the cell's history.
func (d *DB) History() history.Store { return d.history } //nolint:ireturn // the driver is used through its contract

// Close waits for calls that are under way, then ends the session. Later calls are
// refused, and a second Close does no harm.
func (d *DB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.trimmer.stop()
	d.session.Close()
	d.metrics.unregister()
	return nil
}

// begin starts a call; after a nil error the caller must call end.
func (d *DB) begin(ctx context.Context) error {
	if err := ended(ctx); err != nil {
		return err
	}
	d.mu.RLock()
	if d.closed {
		d.mu.RUnlock()
		return problem.New(problem.Unavailable, "the message store is closed")
	}
	return nil
}

func (d *DB) end() { d.mu.RUnlock() }
