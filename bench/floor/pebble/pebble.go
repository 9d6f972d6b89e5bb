// Package pebble is the floor of the message store: bare synced sets in a Pebble
// database. Pebble commits in groups what its writers hand it at the same time.
package pebble

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/internal/problem"
)

const memTableBytes = 16 << 20 // as the store has it

// DB is an open database.
type DB struct{ p *pebble.DB }

// Open makes a database in a directory.
func Open(dir string) (*DB, error) {
	p, err := pebble.Open(dir, &pebble.Options{FS: vfs.Default, FormatMajorVersion: pebble.FormatNewest, MemTableSize: memTableBytes, Logger: silent{}})
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the floor's database can't be opened")
	}
	return &DB{p}, nil
}

// Put stores the nth row of a writer; it is on disk when Put returns.
func (d *DB) Put(writer, n int, blob []byte) error {
	return d.p.Set(fmt.Appendf(nil, "l%08d%08d", writer, n), blob, pebble.Sync)
}

// Close closes it.
func (d *DB) Close() error { return d.p.Close() }

// silent keeps Pebble's chatter out of the table.
type silent struct{}

// Infof implements pebble.Logger.
func (silent) Infof(string, ...any) {}

// Errorf implements pebble.Logger.
func (silent) Errorf(string, ...any) {}

// Fatalf implements pebble.Logger. The write that failed says so itself.
func (silent) Fatalf(string, ...any) {}
