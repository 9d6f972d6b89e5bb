package directory

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

const channelColumns = `id, number, name, topic, private, importing, import_digest, created_by, created_ts`

func scanChannel(s scanner) (c Channel, err error) {
	err = s.Scan(&c.ID, &c.Number, &c.Name, &c.Topic, &c.Private, &c.Importing, &c.ImportDigest, &c.CreatedBy, &c.CreatedTS)
	return c, err
}

// numberBits is the size of a channel's number in a message id.
const numberBits = 40

// CreateChannel makes a channel with its first members and gives it its number. A
// name that is taken is a Conflict.
func (d *Directory) CreateChannel(ctx context.Context, p topology.Place, ch Channel, members []topology.UserID) (Channel, Entry, error) {
	err := errors.Join(key("id", string(ch.ID)), key("name", ch.Name), text("topic", ch.Topic), text("import_digest", ch.ImportDigest), key("created_by", string(ch.CreatedBy)))
	if err != nil {
		return Channel{}, Entry{}, err
	}
	e := Entry{Place: p, Channel: ch.ID, Kind: change.Created, Author: ch.CreatedBy, Subjects: unique(members), At: d.now()}
	err = d.tx(ctx, func(tx *txn) error {
		if err := mayWrite(ctx, tx, p); err != nil {
			return err
		}
		if err := known(ctx, tx, p, e.Subjects); err != nil {
			return err
		}
		var taken int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM channels WHERE workspace = $1 AND generation = $2 AND (name = $3 OR id = $4)`,
			p.Workspace, p.Generation, ch.Name, ch.ID).Scan(&taken)
		if err != nil {
			return err
		}
		if taken > 0 {
			return problem.New(problem.Conflict, "a channel named %q exists", ch.Name)
		}
		if ch.Number, err = freeNumber(ctx, tx, p); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO channels (workspace, generation, `+channelColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			p.Workspace, p.Generation, ch.ID, ch.Number, ch.Name, ch.Topic, flag(ch.Private), flag(ch.Importing), ch.ImportDigest, ch.CreatedBy, ch.CreatedTS)
		if err != nil {
			return err
		}
		if err := record(ctx, tx, &e, Gained); err != nil {
			return err
		}
		return addRows(ctx, tx, e)
	})
	if err != nil {
		return Channel{}, Entry{}, err
	}
	return ch, e, nil
}

// freeNumber is a random number that no channel of the workspace has. At 100,000
// channels one try in ten million meets another.
func freeNumber(ctx context.Context, tx *txn, p topology.Place) (uint64, error) {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // crypto/rand's Read never fails
		n := binary.BigEndian.Uint64(b[:]) & (1<<numberBits - 1)
		var taken int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM channels WHERE workspace = $1 AND generation = $2 AND number = $3`,
			p.Workspace, p.Generation, n).Scan(&taken)
		if err != nil {
			return 0, err
		}
		if n > 0 && taken == 0 {
			return n, nil
		}
	}
}

// Channel is one channel's row, also while it is being imported.
func (d *Directory) Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (Channel, error) {
	return one(ctx, d, scanChannel, "no such channel",
		`SELECT `+channelColumns+` FROM channels WHERE workspace = $1 AND generation = $2 AND id = $3`, p.Workspace, p.Generation, ch)
}

// ChannelByName finds a channel by its name.
func (d *Directory) ChannelByName(ctx context.Context, p topology.Place, name string) (Channel, error) {
	return one(ctx, d, scanChannel, "no such channel",
		`SELECT `+channelColumns+` FROM channels WHERE workspace = $1 AND generation = $2 AND name = $3`, p.Workspace, p.Generation, name)
}

// ListChannels pages, by name, the channels that a user may see: public ones and
// the user's own; all for an admin. Channels being imported are nobody's.
func (d *Directory) ListChannels(ctx context.Context, p topology.Place, u topology.UserID, admin bool, after string, limit int) ([]Channel, error) {
	return many(ctx, d, scanChannel,
		`SELECT `+channelColumns+` FROM channels c WHERE workspace = $1 AND generation = $2 AND name > $3 AND importing = 0
		 AND (private = 0 OR $4 = 1 OR EXISTS (SELECT 1 FROM members m
		      WHERE m.workspace = c.workspace AND m.generation = c.generation AND m.channel = c.id AND m.member = $5))
		 ORDER BY name LIMIT $6`,
		p.Workspace, p.Generation, after, flag(admin), u, page(limit))
}

// FinishImport shows an imported channel; one that is shown stays so.
func (d *Directory) FinishImport(ctx context.Context, p topology.Place, ch topology.ChannelID) error {
	return d.tx(ctx, func(tx *txn) error {
		if err := mayWrite(ctx, tx, p); err != nil {
			return err
		}
		if !storable(string(ch)) {
			return problem.New(problem.NotFound, "no such channel")
		}
		done, err := tx.ExecContext(ctx, `UPDATE channels SET importing = 0 WHERE workspace = $1 AND generation = $2 AND id = $3`,
			p.Workspace, p.Generation, ch)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, problem.New(problem.NotFound, "no such channel"))
		}
		return nil
	})
}

// unique drops repeats and keeps the order.
func unique(us []topology.UserID) []topology.UserID {
	seen := make(map[topology.UserID]bool, len(us))
	var out []topology.UserID
	for _, u := range us {
		if !seen[u] {
			seen[u] = true
			out = append(out, u)
		}
	}
	return out
}
