package directory

import (
	"context"
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
	case w.Epoch == 0 || w.Epoch > math.MaxInt64:
		return problem.Field("epoch", "must be above 0 and below 2^63")
	case w.Generation > math.MaxInt64:
		return problem.Field("generation", "must be below 2^63")
	case w.State != StateOpen && w.State != StateFenced && w.State != StateCopy:
		return problem.Field("state", "%q is not a state", w.State)
	}
	if err := errors.Join(key("id", string(w.ID)), text("slug", w.Slug), text("name", w.Name)); err != nil {
		return err
	}
	return d.tx(ctx, func(tx *txn) error {
		// Of two processes that put the first row one finds the other's.
		_, err := tx.ExecContext(ctx, `INSERT INTO workspaces (id, epoch, generation, state, slug, name) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`,
			w.ID, w.Epoch, w.Generation, w.State, w.Slug, w.Name)
		if err != nil {
			return err
		}
		if err := mayFollow(ctx, tx, w); err != nil {
			return err
		}
		changed, err := next(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE workspaces SET epoch = $2, generation = $3, state = $4, slug = $5, name = $6, changed = $7 WHERE id = $1`,
			w.ID, w.Epoch, w.Generation, w.State, w.Slug, w.Name, changed)
		return err
	})
}

// mayFollow is D3.
func mayFollow(ctx context.Context, tx *txn, w Workspace) error {
	var epoch topology.Epoch
	var generation topology.Generation
	err := tx.QueryRowContext(ctx, `SELECT epoch, generation FROM workspaces WHERE id = $1`+tx.forUpdate, w.ID).Scan(&epoch, &generation)
	switch {
	case err != nil:
		return err
	case w.Epoch < epoch:
		return problem.New(problem.Conflict, "epoch %d is below the stored %d", w.Epoch, epoch)
	case w.Epoch == epoch && w.Generation != generation:
		return problem.New(problem.Conflict, "epoch %d is stored with generation %d, not %d", epoch, generation, w.Generation)
	}
	return nil
}

const workspaceColumns = `id, epoch, generation, state, slug, name`

type scanner interface{ Scan(to ...any) error }

func scanWorkspace(s scanner) (w Workspace, err error) {
	err = s.Scan(&w.ID, &w.Epoch, &w.Generation, &w.State, &w.Slug, &w.Name)
	return w, err
}

// Workspace is a workspace's row; NotFound if this cell never had it.
func (d *Directory) Workspace(ctx context.Context, ws topology.WorkspaceID) (Workspace, error) {
	return one(ctx, d, scanWorkspace, "no such workspace in this cell",
		`SELECT `+workspaceColumns+` FROM workspaces WHERE id = $1`, ws)
}

// Workspaces pages the rows by id.
func (d *Directory) Workspaces(ctx context.Context, after topology.WorkspaceID, limit int) ([]Workspace, error) {
	return many(ctx, d, scanWorkspace,
		`SELECT `+workspaceColumns+` FROM workspaces WHERE id > $1 ORDER BY id LIMIT $2`, after, page(limit))
}
