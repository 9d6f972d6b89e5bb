package directory

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"

	"parley/internal/problem"
	"parley/internal/topology"
)

const userColumns = `id, name, display_name, admin`

func scanUser(s scanner) (u User, err error) {
	err = s.Scan(&u.ID, &u.Name, &u.DisplayName, &u.Admin)
	return u, err
}

// PutUsers adds people and returns them in the order given; one whose name exists
// is returned as it is stored.
func (d *Directory) PutUsers(ctx context.Context, p topology.Place, us []User) ([]User, error) {
	if err := checkUsers(us); err != nil {
		return nil, err
	}
	out := make([]User, len(us))
	err := d.tx(ctx, func(tx *txn) error {
		if err := mayWrite(ctx, tx, p); err != nil {
			return err
		}
		find, err := tx.PrepareContext(ctx, `SELECT `+userColumns+` FROM users WHERE workspace = $1 AND generation = $2 AND name = $3`)
		if err != nil {
			return err
		}
		defer func() { _ = find.Close() }() // ends with the transaction
		add, err := tx.PrepareContext(ctx, `INSERT INTO users (workspace, generation, id, name, display_name, admin) VALUES ($1, $2, $3, $4, $5, $6)`)
		if err != nil {
			return err
		}
		defer func() { _ = add.Close() }() // as above
		for i, u := range us {
			stored, err := scanUser(find.QueryRowContext(ctx, p.Workspace, p.Generation, u.Name))
			if err == nil {
				out[i] = stored
				continue
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if _, err := add.ExecContext(ctx, p.Workspace, p.Generation, u.ID, u.Name, u.DisplayName, flag(u.Admin)); err != nil {
				return err
			}
			out[i] = u
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func checkUsers(us []User) error {
	for _, u := range us {
		if err := errors.Join(key("id", string(u.ID)), key("name", u.Name), text("display_name", u.DisplayName)); err != nil {
			return err
		}
	}
	return nil
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// User is one person; NotFound if there is none.
func (d *Directory) User(ctx context.Context, p topology.Place, u topology.UserID) (User, error) {
	return one(ctx, d, scanUser, "no such user",
		`SELECT `+userColumns+` FROM users WHERE workspace = $1 AND generation = $2 AND id = $3`, p.Workspace, p.Generation, u)
}

// Users pages the people by id.
func (d *Directory) Users(ctx context.Context, p topology.Place, after topology.UserID, limit int) ([]User, error) {
	return many(ctx, d, scanUser,
		`SELECT `+userColumns+` FROM users WHERE workspace = $1 AND generation = $2 AND id > $3 ORDER BY id LIMIT $4`,
		p.Workspace, p.Generation, after, page(limit))
}

// namesMax bounds one question for names: those of one message.
const namesMax = 500

// UsersByName finds people by name or by id; who is not found is left out.
func (d *Directory) UsersByName(ctx context.Context, p topology.Place, names []string) (map[string]topology.UserID, error) {
	out := make(map[string]topology.UserID, len(names))
	names = storableOf(names[:min(len(names), namesMax)])
	if len(names) == 0 {
		return out, nil
	}
	args := []any{p.Workspace, p.Generation}
	marks := placeholders(&args, names)
	us, err := many(ctx, d, scanUser,
		`SELECT `+userColumns+` FROM users WHERE workspace = $1 AND generation = $2 AND (name IN (`+marks+`) OR id IN (`+marks+`))`, args...)
	if err != nil {
		return nil, err
	}
	for _, u := range us {
		out[u.Name] = u.ID
	}
	for _, u := range us { // last: nobody takes another's id by a name
		out[string(u.ID)] = u.ID
	}
	return out, nil
}

type userURev struct {
	id   topology.UserID
	urev topology.URev
}

func scanURev(s scanner) (r userURev, err error) { err = s.Scan(&r.id, &r.urev); return r, err }

// URevs are the urevs of many users; who is not known is left out.
func (d *Directory) URevs(ctx context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]topology.URev, error) {
	out := make(map[topology.UserID]topology.URev, len(us))
	us = storableOf(us)
	for len(us) > 0 {
		part := us[:min(len(us), namesMax)]
		us = us[len(part):]
		args := []any{p.Workspace, p.Generation}
		marks := placeholders(&args, part)
		rows, err := many(ctx, d, scanURev,
			`SELECT id, urev FROM users WHERE workspace = $1 AND generation = $2 AND id IN (`+marks+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[r.id] = r.urev
		}
	}
	return out, nil
}

// UserChanges are the changes of a user's list of channels after a urev, rising.
func (d *Directory) UserChanges(ctx context.Context, p topology.Place, u topology.UserID, after topology.URev, limit int) ([]UserChange, error) {
	scan := func(s scanner) (c UserChange, err error) {
		err = s.Scan(&c.URev, &c.Kind, &c.Channel, &c.By, &c.At)
		return c, err
	}
	return many(ctx, d, scan,
		`SELECT urev, kind, channel, author, at FROM user_changes
		 WHERE workspace = $1 AND generation = $2 AND member = $3 AND urev > $4 ORDER BY urev LIMIT $5`,
		p.Workspace, p.Generation, u, number(after), page(limit))
}

// placeholders adds values to args and returns "$n, $n+1, …" for them.
func placeholders[T any](args *[]any, values []T) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		*args = append(*args, v)
		b.WriteString("$" + strconv.Itoa(len(*args)))
	}
	return b.String()
}

// known refuses users that are not people of the workspace.
func known(ctx context.Context, tx *txn, p topology.Place, us []topology.UserID) error {
	if len(storableOf(us)) < len(us) {
		return errOutsider()
	}
	for len(us) > 0 {
		part := us[:min(len(us), namesMax)]
		us = us[len(part):]
		args := []any{p.Workspace, p.Generation}
		marks := placeholders(&args, part)
		var n int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM users WHERE workspace = $1 AND generation = $2 AND id IN (`+marks+`)`, args...).Scan(&n)
		if err != nil {
			return err
		}
		if n != len(part) {
			return errOutsider()
		}
	}
	return nil
}

func errOutsider() error {
	return problem.Field("user_ids", "names somebody who is not in this workspace")
}
