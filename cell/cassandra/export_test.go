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
	return dial(ctx, cl)
}
