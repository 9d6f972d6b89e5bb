package directory

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"parley/internal/problem"
	"parley/internal/topology"
)

// pageMax bounds every page.
const pageMax = 10_000

// page bounds a limit; engines read a negative one as none, or refuse it.
func page(limit int) int { return max(0, min(limit, pageMax)) }

// number is a counter that a caller gave, as SQL takes it: engines have no
// numbers above 2^63 - 1, and neither has a row.
func number[N ~uint64](n N) int64 {
	return int64(min(uint64(n), math.MaxInt64))
}

// PutWorkspace stores a workspace's row. The same epoch again changes nothing but
// names and state; a lower one is a Conflict.
func (d *Directory) PutWorkspace(ctx context.Context, w Workspace) error {
	switch {
	case w.ID == "":
		return problem.Field("id", "must name a workspace")
	case w.Epoch == 0:
		return problem.Field("epoch", "must be above 0")
	case w.State != StateOpen && w.State != StateFenced && w.State != StateCopy:
		return problem.Field("state", "%q is not a state", w.State)
	}
	return d.tx(ctx, func(tx *sql.Tx) error {
		var epoch topology.Epoch
		var generation topology.Generation
		err := tx.QueryRowContext(ctx, `SELECT epoch, generation FROM workspaces WHERE id = $1`, w.ID).Scan(&epoch, &generation)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			_, err = tx.ExecContext(ctx, `INSERT INTO workspaces (id, epoch, generation, state, slug, name) VALUES ($1, $2, $3, $4, $5, $6)`,
				w.ID, w.Epoch, w.Generation, w.State, w.Slug, w.Name)
			return err
		case err != nil:
			return err
		case w.Epoch < epoch:
			return problem.New(problem.Conflict, "epoch %d is below the stored %d", w.Epoch, epoch)
		case w.Epoch == epoch && w.Generation != generation:
			return problem.New(problem.Conflict, "epoch %d is stored with generation %d, not %d", epoch, generation, w.Generation)
		}
		_, err = tx.ExecContext(ctx, `UPDATE workspaces SET epoch = $2, generation = $3, state = $4, slug = $5, name = $6 WHERE id = $1`,
			w.ID, w.Epoch, w.Generation, w.State, w.Slug, w.Name)
		return err
	})
}

const workspaceColumns = `id, epoch, generation, state, slug, name`

type scanner interface{ Scan(to ...any) error }

func scanWorkspace(s scanner) (w Workspace, err error) {
	err = s.Scan(&w.ID, &w.Epoch, &w.Generation, &w.State, &w.Slug, &w.Name)
	return w, err
}

// Workspace is a workspace's row; NotFound if this cell never had it.
func (d *Directory) Workspace(ctx context.Context, ws topology.WorkspaceID) (Workspace, error) {
	return one(scanWorkspace, "no such workspace in this cell",
		d.read.QueryRowContext(ctx, `SELECT `+workspaceColumns+` FROM workspaces WHERE id = $1`, ws))
}

// Workspaces pages the rows by id.
func (d *Directory) Workspaces(ctx context.Context, after topology.WorkspaceID, limit int) ([]Workspace, error) {
	return many(ctx, d.read, scanWorkspace,
		`SELECT `+workspaceColumns+` FROM workspaces WHERE id > $1 ORDER BY id LIMIT $2`, after, page(limit))
}

// one scans a row, or says NotFound.
func one[T any](scan func(scanner) (T, error), none string, row *sql.Row) (T, error) {
	v, err := scan(row)
	if errors.Is(err, sql.ErrNoRows) {
		return v, problem.New(problem.NotFound, "%s", none)
	}
	return v, failed(err)
}

// many scans all rows of a query.
func many[T any](ctx context.Context, db *sql.DB, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, failed(err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, failed(err)
		}
		out = append(out, v)
	}
	return out, failed(rows.Err())
}
