package directory

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"parley/internal/problem"
)

// uriPath hides what would end the path of a file's URI.
var uriPath = strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23") //nolint:gochecknoglobals // a constant table

// readers is how many reads run side by side: SQLite reads from memory, and a
// cell's process has few cores.
const readers = 4

// Open opens the directory in a file, and makes it if there is none.
func Open(ctx context.Context, file string, now func() time.Time, log *slog.Logger) (*Directory, error) {
	if file == "" {
		return nil, problem.Field("file", "must name a file for the directory")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// FULL: a membership that was answered is kept over a power cut.
	dsn := "file:" + uriPath.Replace(file) + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate"
	d := &Directory{engine: inFile{}, now: now, log: log}
	var err error
	if d.write, err = sql.Open("sqlite", dsn); err != nil {
		return nil, problem.Wrap(err, problem.Internal, "can't open the directory %s", file)
	}
	d.write.SetMaxOpenConns(1) // SQLite has one writer
	if err := migrate(ctx, goose.DialectSQLite3, d.write, migrations); err != nil {
		_ = d.write.Close() // the failure is what to report
		return nil, problem.Wrap(err, problem.Unavailable, "can't open the directory %s", file)
	}
	if d.read, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)"); err != nil {
		_ = d.write.Close() // as above
		return nil, problem.Wrap(err, problem.Internal, "can't open the directory %s", file)
	}
	d.read.SetMaxOpenConns(readers)
	d.read.SetMaxIdleConns(readers)
	return d, nil
}

// inFile is SQLite.
type inFile struct{}

// forUpdate is nothing: a transaction that writes has the whole file.
func (inFile) forUpdate() string { return "" }

// undone: a commit that SQLite could not write is rolled back.
func (inFile) undone(error) bool { return true }

func (inFile) again(error) bool { return false }

func (inFile) failed(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok && !isOurs(err) {
		switch e.Code() {
		case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE:
			return taken(err)
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE:
			return full(err)
		}
	}
	return failed(err)
}

func full(cause error) error {
	return problem.Wrap(cause, problem.Full, "the directory's disk is full")
}

// taken is the error of a row whose id or name another has.
func taken(cause error) error {
	return problem.Wrap(cause, problem.Conflict, "an id or a name is taken")
}
