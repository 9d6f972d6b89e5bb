package cassandra

import (
	"context"
	"log/slog"
	"time"

	"github.com/gocql/gocql"

	"parley/internal/topology"
)

// Session is the client's, for tests that look at rows or break things.
func (d *DB) Session() *gocql.Session { return d.session }

// Connect opens a keyspace that is there, without looking at the cluster first,
// with buckets of so many rows.
func Connect(ctx context.Context, cfg Config, cell topology.CellID, rows uint64, d gocql.Dialer, now func() time.Time) (*DB, error) {
	return connect(ctx, cfg, options{sizes: sizes{log: rows, history: rows}, dialer: d, now: now}, cell, slog.New(slog.DiscardHandler))
}

// Dial opens a session with all of the client's settings and no keyspace.
func Dial(ctx context.Context, cfg Config) (*gocql.Session, error) {
	cl, err := cfg.cluster(options{}, slog.New(slog.DiscardHandler), "")
	if err != nil {
		return nil, err
	}
	cl.Timeout = schemaWait
	return cfg.dial(ctx, cl)
}

// Judge is what Check would say of a node's settings.
func Judge(is map[string]string, cfg Config) (faults []error, notes []string) {
	f := &findings{}
	f.judge(is, cfg, "node")
	return f.faults, f.notes
}

// WriteError is the kind that a write's error gets.
func WriteError(err error, attempts int) error { return writeError(err, attempts) }

// ReadError is WriteError of a read.
func ReadError(err error) error { return readError(err) }

// Together does the parts of a call.
func Together(n int, do func(i int) error) error { return together(n, do) }

// Statements cuts a migration's file.
func Statements(file string) []string { return statements(file) }

// Major is the first number of a version.
func Major(release string) int { return major(release) }

// Steps are the migrations' names, and their statements together.
func Steps() (names, cql []string, err error) {
	all, err := steps()
	for _, s := range all {
		names, cql = append(names, s.name), append(cql, s.cql...)
	}
	return names, cql, err
}
