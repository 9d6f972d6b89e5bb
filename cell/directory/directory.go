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
	"errors"
	"log/slog"
	"math"
	"strconv"
	"time"

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
//  13. Text that is not valid UTF-8, or has a NUL, is Invalid with its field in a
//     write. Nobody has it: who asks for it finds nothing, or has an Invalid cursor.
//  14. A Lease is one holder's until it ends by a holder's clock, and may be renewed
//     by that one before.
type Directory struct {
	engine engine
	write  *sql.DB
	read   *sql.DB
	watch  *watch // nil if the engine is in this process: it can't be away
	now    func() time.Time
	log    *slog.Logger
}

// Close waits for what is under way and closes the directory.
func (d *Directory) Close() error {
	return errors.Join(d.watch.stop(), d.read.Close(), d.write.Close())
}

// pending stands for the seq of a joining that is not in the log yet.
const pending = topology.Seq(math.MaxInt64)

// mayWrite is D1. The row stays locked until the transaction ends: nobody closes
// the workspace meanwhile, and its writers go one after the other. On an engine
// where each statement sees what was committed before it (Postgres's READ
// COMMITTED) that is all it takes: whatever a writer looks at in its workspace after
// this is as the last writer left it and stays so. Writers of different workspaces
// share the counter alone, which each locks after its workspace: no two can wait
// for each other.
func mayWrite(ctx context.Context, tx *txn, p topology.Place) error {
	var state State
	var generation topology.Generation
	err := sql.ErrNoRows
	if storable(string(p.Workspace)) {
		err = tx.QueryRowContext(ctx, `SELECT state, generation FROM workspaces WHERE id = $1`+tx.forUpdate, p.Workspace).Scan(&state, &generation)
	}
	if errors.Is(err, sql.ErrNoRows) || (err == nil && (state != StateOpen || generation != p.Generation)) {
		return problem.New(problem.Moved, "this cell does not serve the workspace")
	}
	return err
}

// next raises the cell's counter of changes. The row stays locked until the
// transaction ends, so that numbers rise in the order of commits.
func next(ctx context.Context, tx *txn) (n uint64, err error) {
	err = tx.QueryRowContext(ctx, `UPDATE counters SET value = value + 1 WHERE name = 'outbox' RETURNING value`).Scan(&n)
	return n, err
}
