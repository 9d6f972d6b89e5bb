package directory

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

// AddMembers makes users members. The entry names those who were not; it is the
// zero Entry if all were.
func (d *Directory) AddMembers(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID, now time.Time) (Entry, error) {
	if err := key("by", string(by)); err != nil {
		return Entry{}, err
	}
	var e Entry
	err := d.tx(ctx, func(tx *txn) error {
		e = Entry{Place: p, Channel: ch, Kind: change.Joined, Author: by, At: now}
		if err := mayChange(ctx, tx, p, ch); err != nil {
			return err
		}
		us := unique(us)
		if err := known(ctx, tx, p, us); err != nil {
			return err
		}
		var err error
		if e.Subjects, err = outsiders(ctx, tx, p, ch, us); err != nil || len(e.Subjects) == 0 {
			return err
		}
		if err := record(ctx, tx, &e, Gained); err != nil {
			return err
		}
		return addRows(ctx, tx, e)
	})
	if err != nil || e.ID == 0 {
		return Entry{}, err
	}
	return e, nil
}

// RemoveMember takes a user out; the zero Entry if the user was no member.
func (d *Directory) RemoveMember(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID, now time.Time) (Entry, error) {
	if err := key("by", string(by)); err != nil {
		return Entry{}, err
	}
	var e Entry
	err := d.tx(ctx, func(tx *txn) error {
		e = Entry{Place: p, Channel: ch, Kind: change.Left, Author: by, Subjects: []topology.UserID{u}, At: now}
		if err := mayChange(ctx, tx, p, ch); err != nil || !storable(string(u)) {
			return err
		}
		done, err := tx.ExecContext(ctx, `DELETE FROM members WHERE workspace = $1 AND generation = $2 AND channel = $3 AND member = $4`,
			p.Workspace, p.Generation, ch, u)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		if err := countMembers(ctx, tx, p, ch, -1); err != nil {
			return err
		}
		return record(ctx, tx, &e, Lost)
	})
	if err != nil || e.ID == 0 {
		return Entry{}, err
	}
	return e, nil
}

// mayChange is mayWrite, for a channel that people can be in.
func mayChange(ctx context.Context, tx *txn, p topology.Place, ch topology.ChannelID) error {
	if err := mayWrite(ctx, tx, p); err != nil {
		return err
	}
	if !storable(string(ch)) {
		return problem.New(problem.NotFound, "no such channel")
	}
	var importing bool
	err := tx.QueryRowContext(ctx, `SELECT importing FROM channels WHERE workspace = $1 AND generation = $2 AND id = $3`,
		p.Workspace, p.Generation, ch).Scan(&importing)
	if errors.Is(err, sql.ErrNoRows) {
		return problem.New(problem.NotFound, "no such channel")
	}
	if importing {
		return problem.New(problem.Conflict, "the channel is being imported: add people when that is finished")
	}
	return err
}

// outsiders are those of us who are not members, in their order.
func outsiders(ctx context.Context, tx *txn, p topology.Place, ch topology.ChannelID, us []topology.UserID) ([]topology.UserID, error) {
	in := make(map[topology.UserID]bool)
	scan := func(s scanner) (u topology.UserID, err error) { err = s.Scan(&u); return u, err }
	for part := range slices.Chunk(us, namesMax) {
		args := []any{p.Workspace, p.Generation, ch}
		marks := placeholders(&args, part)
		ms, err := rowsOf(ctx, tx, scan, `SELECT member FROM members WHERE workspace = $1 AND generation = $2 AND channel = $3 AND member IN (`+marks+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, u := range ms {
			in[u] = true
		}
	}
	var out []topology.UserID
	for _, u := range us {
		if !in[u] {
			out = append(out, u)
		}
	}
	return out, nil
}

// addRows makes a recorded entry's subjects members.
func addRows(ctx context.Context, tx *txn, e Entry) error {
	for part := range slices.Chunk(e.Subjects, namesMax) {
		args := []any{e.Place.Workspace, e.Place.Generation, e.Channel, e.joining()}
		var rows []string
		for _, u := range part {
			args = append(args, u)
			rows = append(rows, `($1, $2, $3, $`+strconv.Itoa(len(args))+`, $4, 0)`)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO members (workspace, generation, channel, member, joined_seq, joined_rev) VALUES `+strings.Join(rows, ", "), args...)
		if err != nil {
			return err
		}
	}
	return countMembers(ctx, tx, e.Place, e.Channel, len(e.Subjects))
}

// joining stands in a member's row until the entry is done.
func (e Entry) joining() int64 { return -int64(e.ID) } //nolint:gosec // a counter of SQL's, below 2^63

func countMembers(ctx context.Context, tx *txn, p topology.Place, ch topology.ChannelID, by int) error {
	_, err := tx.ExecContext(ctx, `UPDATE channels SET members = members + $4 WHERE workspace = $1 AND generation = $2 AND id = $3`,
		p.Workspace, p.Generation, ch, by)
	return err
}

// record writes an entry into the outbox, gives it its id, and raises the urev of
// everybody it concerns (D2).
func record(ctx context.Context, tx *txn, e *Entry, kind string) error {
	subjects, err := json.Marshal(e.Subjects)
	if err != nil {
		return err
	}
	if e.ID, err = next(ctx, tx); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO outbox (id, workspace, generation, channel, kind, author, subjects, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID, e.Place.Workspace, e.Place.Generation, e.Channel, e.Kind, e.Author, string(subjects), e.At.UnixMicro())
	if err != nil {
		return err
	}
	for part := range slices.Chunk(e.Subjects, namesMax) {
		urevs, err := raise(ctx, tx, e.Place, part)
		if err != nil {
			return err
		}
		args := []any{e.Place.Workspace, e.Place.Generation, kind, e.Channel, e.Author, e.At.UnixMicro(), e.ID}
		var rows []string
		for _, r := range urevs {
			args = append(args, r.id, r.urev)
			rows = append(rows, `($1, $2, $`+strconv.Itoa(len(args)-1)+`, $`+strconv.Itoa(len(args))+`, $3, $4, $5, $6, $7)`)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO user_changes (workspace, generation, member, urev, kind, channel, author, at, entry) VALUES `+strings.Join(rows, ", "), args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// raise gives users their next urevs.
func raise(ctx context.Context, tx *txn, p topology.Place, us []topology.UserID) ([]userURev, error) {
	args := []any{p.Workspace, p.Generation}
	marks := placeholders(&args, us)
	out, err := rowsOf(ctx, tx, scanURev, `UPDATE users SET urev = urev + 1 WHERE workspace = $1 AND generation = $2 AND id IN (`+marks+`) RETURNING id, urev`, args...)
	if err == nil && len(out) != len(us) {
		err = errOutsider()
	}
	return out, err
}

func scanMembership(s scanner) (m Membership, err error) {
	var seq int64
	if err = s.Scan(&m.Channel, &seq, &m.JoinedRev); seq < 0 {
		m.JoinedSeq = pending
	} else {
		m.JoinedSeq = topology.Seq(seq)
	}
	return m, err
}

// ChannelsOf are all of a user's memberships, by channel.
func (d *Directory) ChannelsOf(ctx context.Context, p topology.Place, u topology.UserID) ([]Membership, error) {
	return many(ctx, d, scanMembership,
		`SELECT channel, joined_seq, joined_rev FROM members WHERE workspace = $1 AND generation = $2 AND member = $3 ORDER BY channel LIMIT $4`,
		p.Workspace, p.Generation, u, pageMax)
}

// Member is a user's membership of a channel; false without one.
func (d *Directory) Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (Membership, bool, error) {
	m, err := one(ctx, d, scanMembership, "no member",
		`SELECT channel, joined_seq, joined_rev FROM members WHERE workspace = $1 AND generation = $2 AND channel = $3 AND member = $4`,
		p.Workspace, p.Generation, ch, u)
	if problem.Is(err, problem.NotFound) {
		return Membership{}, false, nil
	}
	return m, err == nil, err
}

// Members pages a channel's members by id.
func (d *Directory) Members(ctx context.Context, p topology.Place, ch topology.ChannelID, after topology.UserID, limit int) ([]topology.UserID, error) {
	scan := func(s scanner) (u topology.UserID, err error) { err = s.Scan(&u); return u, err }
	return many(ctx, d, scan,
		`SELECT member FROM members WHERE workspace = $1 AND generation = $2 AND channel = $3 AND member > $4 ORDER BY member LIMIT $5`,
		p.Workspace, p.Generation, ch, after, page(limit))
}

// MemberCount is how many members a channel has.
func (d *Directory) MemberCount(ctx context.Context, p topology.Place, ch topology.ChannelID) (int, error) {
	scan := func(s scanner) (n int, err error) { err = s.Scan(&n); return n, err }
	return one(ctx, d, scan, "no such channel",
		`SELECT members FROM channels WHERE workspace = $1 AND generation = $2 AND id = $3`, p.Workspace, p.Generation, ch)
}
