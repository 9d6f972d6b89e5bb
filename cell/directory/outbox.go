package directory

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"parley/cell/change"
	"parley/internal/topology"
)

// OutboxPending are the entries after one that are not done, oldest first. Those
// of a workspace that is not open here are not among them: nobody may carry them out.
func (d *Directory) OutboxPending(ctx context.Context, after uint64, limit int) ([]Entry, error) {
	return many(ctx, d, scanEntry, `SELECT `+entryColumns+` FROM outbox o WHERE id > $1 AND EXISTS (SELECT 1 FROM workspaces w
		WHERE w.id = o.workspace AND w.generation = o.generation AND w.state = $2) ORDER BY id LIMIT $3`,
		number(after), StateOpen, page(limit))
}

// OutboxOf are a channel's entries up to one, oldest first: what has to be done
// before it, and itself unless it is done.
func (d *Directory) OutboxOf(ctx context.Context, p topology.Place, ch topology.ChannelID, upTo uint64, limit int) ([]Entry, error) {
	return many(ctx, d, scanEntry, `SELECT `+entryColumns+` FROM outbox
		WHERE workspace = $1 AND generation = $2 AND channel = $3 AND id <= $4 ORDER BY id LIMIT $5`,
		p.Workspace, p.Generation, ch, number(upTo), page(limit))
}

const entryColumns = `id, workspace, generation, channel, kind, author, subjects, at`

func scanEntry(s scanner) (e Entry, err error) {
	var subjects string
	var at int64
	if err = s.Scan(&e.ID, &e.Place.Workspace, &e.Place.Generation, &e.Channel, &e.Kind, &e.Author, &subjects, &at); err != nil {
		return e, err
	}
	e.At = time.UnixMicro(at)
	return e, json.Unmarshal([]byte(subjects), &e.Subjects)
}

// OutboxDone takes an entry out of the outbox: its change is in the channel's log
// at rev, with seq top-level messages up to it. Doing so twice is the same.
func (d *Directory) OutboxDone(ctx context.Context, e Entry, rev topology.Rev, seq topology.Seq) error {
	return d.tx(ctx, func(tx *txn) error {
		if err := mayWrite(ctx, tx, e.Place); err != nil {
			return err
		}
		gone, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE id = $1 AND workspace = $2 AND generation = $3`, e.ID, e.Place.Workspace, e.Place.Generation)
		if err != nil {
			return err
		}
		if n, err := gone.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return settle(ctx, tx, e, rev, seq)
	})
}

// settle notes in the rows that an entry made where the channel was.
func settle(ctx context.Context, tx *txn, e Entry, rev topology.Rev, seq topology.Seq) error {
	if e.Kind == change.Left {
		return nil
	}
	for part := range slices.Chunk(e.Subjects, namesMax) {
		args := []any{e.Place.Workspace, e.Place.Generation, e.Channel, seq, rev, e.joining()}
		marks := placeholders(&args, part)
		_, err := tx.ExecContext(ctx, `UPDATE members SET joined_seq = $4, joined_rev = $5
			WHERE workspace = $1 AND generation = $2 AND channel = $3 AND joined_seq = $6 AND member IN (`+marks+`)`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// Lease gives a name to a holder for a time by now, the holder's clock, and again
// to the holder that has it. Of several processes it picks the one that does what
// need not be done by all: nothing may break if two do.
func (d *Directory) Lease(ctx context.Context, name, holder string, now time.Time, length time.Duration) (mine bool, err error) {
	if err := errors.Join(key("name", name), key("holder", holder)); err != nil {
		return false, err
	}
	err = d.tx(ctx, func(tx *txn) error {
		done, err := tx.ExecContext(ctx, `INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
			WHERE leases.holder = excluded.holder OR leases.until <= $4`,
			name, holder, now.Add(length).UnixMicro(), now.UnixMicro())
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		mine = n > 0
		return err
	})
	return mine && err == nil, err
}
