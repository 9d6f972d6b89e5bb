package directory

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"strings"
)

// survey is what is there before anything is changed.
type survey struct {
	server, schema     string // encoding; "" if the schema is missing
	number, connsMax   int
	synchronous, fsync string
	mayUse, mayCreate  bool
	version            int64
	columns            map[string]map[string]string // by table and name: type and collation
	denied             []string                     // tables that may not be read and written
}

// expected are the tables of the latest version; types are as information_schema
// names them.
func expected() map[string]string {
	return map[string]string{
		"workspaces":   "id text, epoch bigint, generation bigint, state text, slug text, name text, last_move text, changed bigint",
		"users":        "workspace text, generation bigint, id text, name text, display_name text, admin integer, urev bigint",
		"channels":     "workspace text, generation bigint, id text, number bigint, name text, topic text, private integer, importing integer, import_digest text, created_by text, created_ts bigint, members bigint",
		"members":      "workspace text, generation bigint, channel text, member text, joined_seq bigint, joined_rev bigint",
		"outbox":       "id bigint, workspace text, generation bigint, channel text, kind bigint, author text, subjects text, at bigint",
		"user_changes": "workspace text, generation bigint, member text, urev bigint, kind text, channel text, author text, at bigint, entry bigint",
		"counters":     "name text, value bigint",
		"leases":       "name text, holder text, until bigint",
	}
}

// survey looks at everything as of one moment: another process may be making the
// tables, and neither their version nor their columns may be of an earlier state than
// the other's.
func (c Config) survey(ctx context.Context, pool *sql.DB) (s survey, err error) {
	db, err := pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return s, err
	}
	defer func() { _ = db.Rollback() }() // it has only read
	err = db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
		current_setting('synchronous_commit'), current_setting('fsync'),
		current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
		COALESCE((SELECT nspname FROM pg_namespace WHERE nspname = $1), '')`, c.Schema).
		Scan(&s.number, &s.server, &s.synchronous, &s.fsync, &s.connsMax, &s.schema)
	if err != nil || s.schema == "" {
		return s, err
	}
	err = db.QueryRowContext(ctx, `SELECT has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE')
		FROM pg_namespace n WHERE nspname = $1`, c.Schema).Scan(&s.mayUse, &s.mayCreate)
	if err != nil || !s.mayUse {
		return s, err
	}
	if err := s.readColumns(ctx, db); err != nil {
		return s, err
	}
	if s.columns["goose_db_version"] == nil || slices.Contains(s.denied, "goose_db_version") {
		return s, nil
	}
	err = db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&s.version)
	return s, err
}

// readColumns reads the catalogue, which shows what may not be read, too.
func (s *survey) readColumns(ctx context.Context, db *sql.Tx) error {
	type column struct {
		table, name, kind string
		may               bool
	}
	scan := func(row scanner) (c column, err error) {
		err = row.Scan(&c.table, &c.name, &c.kind, &c.may)
		return c, err
	}
	cs, err := rowsOf(ctx, db, scan, `SELECT t.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE
			WHEN a.attcollation <> 0 AND o.collname <> 'C' AND t.relname <> 'goose_db_version' THEN ' collated ' || o.collname ELSE '' END,
			has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT')
			AND has_table_privilege(t.oid, 'UPDATE') AND has_table_privilege(t.oid, 'DELETE')
		FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
		JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_collation o ON o.oid = a.attcollation
		WHERE n.nspname = $1 AND t.relkind IN ('r', 'p', 'v', 'f', 'm')`, s.schema)
	if err != nil {
		return err
	}
	want := expected()
	s.columns = map[string]map[string]string{}
	for _, c := range cs {
		if want[c.table] == "" && c.table != "goose_db_version" {
			continue
		}
		if s.columns[c.table] == nil {
			s.columns[c.table] = map[string]string{}
			if !c.may {
				s.denied = append(s.denied, c.table)
			}
		}
		s.columns[c.table][c.name] = c.kind
	}
	return nil
}

// serverFaults are what is wrong with the server's settings.
func (c Config) serverFaults(s survey, fault func(string, ...any) error) (out []error) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			out = append(out, fault(format, args...))
		}
	}
	check(s.number >= versionLeast, "is version %d; 14 or later is needed", s.number/10_000)
	check(s.server == "UTF8", "the database's encoding is %s; make it with ENCODING 'UTF8'", s.server)
	check(s.synchronous != "off", "synchronous_commit is off, so a crash loses changes that were answered; set it to on")
	check(s.fsync == "on", "fsync is off, so a crash can destroy the database; set it to on")
	check(s.connsMax > c.MaxConns, "has %d connections for everybody; lower max_conns (%d), of each process, or raise max_connections", s.connsMax, c.MaxConns)
	return out
}

// tableFaults are what is wrong with the tables.
func (c Config) tableFaults(s survey, fault func(string, ...any) error) (out []error) {
	add := func(format string, args ...any) { out = append(out, fault(format, args...)) }
	switch {
	case s.schema == "":
		add("has no schema %s; make it with CREATE SCHEMA", c.Schema)
		return out
	case !s.mayUse:
		add("the schema %s may not be used; GRANT USAGE, CREATE ON SCHEMA %s to the role", c.Schema, c.Schema)
		return out
	}
	for _, t := range s.denied {
		add("the table %s.%s may not be read and written; GRANT SELECT, INSERT, UPDATE, DELETE on it, or make the role its owner", c.Schema, t)
	}
	switch {
	case len(s.denied) > 0:
	case s.version > latest:
		add("the tables are of version %d, from a later Parley; this one knows %d: run that later one", s.version, latest)
	case s.version < latest && !s.mayCreate:
		add("tables may not be made in the schema %s; GRANT CREATE ON SCHEMA %s to the role", c.Schema, c.Schema)
	case s.version == 0:
		for _, t := range slices.Sorted(maps.Keys(expected())) {
			if s.columns[t] != nil {
				add("a table %s.%s is there that Parley did not make; give the directory a database, or a schema, of its own", c.Schema, t)
			}
		}
	case s.version == latest:
		out = append(out, c.columnFaults(s, fault)...)
	}
	return out
}

func (c Config) columnFaults(s survey, fault func(string, ...any) error) (out []error) {
	want := expected()
	for _, t := range slices.Sorted(maps.Keys(want)) {
		if s.columns[t] == nil {
			out = append(out, fault("the table %s.%s is missing; restore the database from a backup", c.Schema, t))
			continue
		}
		for column := range strings.SplitSeq(want[t], ", ") {
			name, kind, _ := strings.Cut(column, " ")
			switch got := s.columns[t][name]; got {
			case kind:
			case "":
				out = append(out, fault("the table %s.%s has no column %s; restore the database from a backup", c.Schema, t, name))
			default:
				out = append(out, fault("the column %s of %s.%s is %s, not %s; somebody has changed it: change it back", name, c.Schema, t, got, kind))
			}
		}
	}
	return out
}
