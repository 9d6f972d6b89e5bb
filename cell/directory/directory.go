// Package directory keeps what a cell knows of its workspaces beside their
// messages: the workspace's own row, people, channels, who is in which, and the
// outbox of changes of membership that are not in their channel's log yet.
//
// Invariants:
//
//	D1 Every write of a workspace's content looks at the workspace's row in the same
//	   transaction, and is refused (kind Moved) unless that is open at the
//	   writer's generation.
//	D2 A change of membership, its outbox entry and the next urev of everybody it
//	   concerns are one transaction.
//	D3 A workspace's epoch never goes back.
package directory

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

// State says whether a cell serves a workspace.
type State string

// The states.
const (
	StateOpen   State = "open"
	StateFenced State = "fenced" // moving away: nothing is written
	StateCopy   State = "copy"   // moving in: not served yet
)

// Workspace is a cell's own row about a workspace: by it alone it serves.
type Workspace struct {
	ID         topology.WorkspaceID
	Epoch      topology.Epoch
	Generation topology.Generation
	State      State
	Slug, Name string
}

// Open reports whether the cell serves the workspace.
func (w Workspace) Open() bool { return w.State == StateOpen }

// Place is the workspace as its rows are keyed.
func (w Workspace) Place() topology.Place {
	return topology.Place{Workspace: w.ID, Generation: w.Generation}
}

// User is a person of a workspace.
type User struct {
	ID                topology.UserID
	Name, DisplayName string
	Admin             bool
}

// Channel is a channel's row.
type Channel struct {
	ID           topology.ChannelID
	Number       uint64 // 40 bits, unique in the workspace; part of message ids
	Name, Topic  string
	Private      bool
	Importing    bool // being filled: nobody sees it
	ImportDigest string
	CreatedBy    topology.UserID
	CreatedTS    int64 // µs
}

// Membership is a user in a channel.
type Membership struct {
	Channel topology.ChannelID
	// JoinedSeq and JoinedRev are where the channel was when the user joined:
	// what is older is not unread. Until the joining is in the channel's log,
	// JoinedSeq is above every seq.
	JoinedSeq topology.Seq
	JoinedRev topology.Rev
}

// Entry is a change of membership that is to be put into its channel's log.
type Entry struct {
	ID       uint64 // rising; 0 = nothing is to be done
	Place    topology.Place
	Channel  topology.ChannelID
	Kind     change.Kind
	Author   topology.UserID
	Subjects []topology.UserID
	At       time.Time
}

// Key makes the entry's change in the channel's log safe to repeat.
func (e Entry) Key() string { return "outbox-" + strconv.FormatUint(e.ID, 10) }

// What a UserChange is.
const (
	Gained = "gained"
	Lost   = "lost"
)

// UserChange is a change of a user's list of channels.
type UserChange struct {
	URev    topology.URev
	Kind    string // Gained or Lost
	Channel topology.ChannelID
	By      topology.UserID
	At      int64 // µs
}

// Directory is a cell's directory. The SQL is the same for every engine, so there
// is no interface between: an engine is another way to open one. The contract is
// run by directorytest, against each:
//
//  1. PutWorkspace stores a row. The same epoch again may change state and names;
//     a lower one, or another generation at the same epoch, is a Conflict (D3).
//  2. Every other write is refused with kind Moved, and does nothing, unless the
//     workspace is open at the place's generation (D1). Reads answer in any state,
//     and only for their place: nothing of another workspace or generation shows.
//  3. PutUsers returns people in the order given; a name that exists gives the user
//     who has it, unchanged. Names are compared by their bytes. All or nothing.
//  4. CreateChannel gives a number of 40 bits, not 0, that no other channel of the
//     workspace has. A name or id that is taken is a Conflict; a first member who is
//     not of the workspace is Invalid. A channel being imported is in no list, and
//     its members can't be changed (Conflict) until FinishImport.
//  5. AddMembers and RemoveMember change rows, count, outbox and urevs together (D2).
//     The entry names exactly those whose membership changed; if there are none, it
//     is the zero Entry and nothing was done.
//  6. Outbox ids rise in the order of commits. OutboxPending leaves out what is not
//     open here. OutboxDone notes where the channel was in the rows that this very
//     entry made, and takes the entry out; once, however often it is called.
//  7. A user's changes are numbered 1, 2, 3 … without gaps, over all channels, and
//     the user's urev is the last of them.
//  8. ListChannels shows public channels, the user's own, and all to an admin.
//  9. Pages rise, by bytes, from after the cursor on; a limit below 1 gives nothing,
//     one above 10,000 gives 10,000.
//  10. What was answered is kept, also over a crash or the loss of power; of a write
//     that was not answered, all is there or nothing.
//  11. Writers may come at once; readers see whole transactions, and every write
//     that was answered before they asked.
//  12. A context that has ended gives kind Unavailable.
type Directory struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB
	now   func() time.Time
	log   *slog.Logger
}

//go:embed migrations/*.sql
var migrations embed.FS

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
	d := &Directory{now: now, log: log}
	var err error
	if d.write, err = sql.Open("sqlite", dsn); err != nil {
		return nil, problem.Wrap(err, problem.Internal, "can't open the directory %s", file)
	}
	d.write.SetMaxOpenConns(1)
	if err := d.migrate(ctx); err != nil {
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

func (d *Directory) migrate(ctx context.Context) error {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, d.write, sub)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Close waits for what is under way and closes the directory.
func (d *Directory) Close() error { return errors.Join(d.read.Close(), d.write.Close()) }

// pending stands for the seq of a joining that is not in the log yet.
const pending = topology.Seq(math.MaxInt64)

// tx runs do in a transaction. A transaction that failed did nothing.
func (d *Directory) tx(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return failed(err)
	}
	if err := do(tx); err != nil {
		_ = tx.Rollback() // the failure is what to report
		return failed(err)
	}
	return failed(tx.Commit())
}

// failed gives errors of the engine a kind and leaves ours alone.
func failed(err error) error {
	var p *problem.Error
	switch {
	case err == nil, errors.As(err, &p):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unavailable, "the request took too long; try again")
	}
	return problem.Wrap(err, problem.Unavailable, "the directory can't be used now; try again")
}

// mayWrite is D1.
func mayWrite(ctx context.Context, tx *sql.Tx, p topology.Place) error {
	var state State
	var generation topology.Generation
	err := tx.QueryRowContext(ctx, `SELECT state, generation FROM workspaces WHERE id = $1`, p.Workspace).Scan(&state, &generation)
	if errors.Is(err, sql.ErrNoRows) || (err == nil && (state != StateOpen || generation != p.Generation)) {
		return problem.New(problem.Moved, "this cell does not serve the workspace")
	}
	return err
}
