//go:build engines

package directory_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"parley/cell/directory"
)

var portOne = regexp.MustCompile(`127\.0\.0\.1:\d+/`)

// Each thing that is wrong is said, with what to do, by Check and by Open; neither
// changes anything.
func TestPostgres_CheckRefuses(t *testing.T) {
	role := "parley_test_role"
	u := server(t)
	if err := run(u, "DROP ROLE IF EXISTS "+role, "CREATE ROLE "+role+" LOGIN PASSWORD 'x'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run(u, "DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	word := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(word, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	asRole := func(cfg *directory.Config) { cfg.URL, cfg.PasswordFile = withUser(t, cfg.URL, role), word }
	for name, c := range map[string]struct {
		tables bool // made before
		do     []string
		cfg    func(*directory.Config)
		say    []string
	}{
		"no database":     {cfg: func(c *directory.Config) { c.URL = withDatabase(t, c.URL, "not_here") }, say: []string{"no such database", "CREATE DATABASE"}},
		"no role":         {cfg: func(c *directory.Config) { c.URL = withUser(t, c.URL, "nobody_here") }, say: []string{"nobody_here", "make the role"}},
		"no schema":       {cfg: func(c *directory.Config) { c.Schema = "cell_7" }, say: []string{"no schema cell_7", "CREATE SCHEMA"}},
		"schema not ours": {do: []string{"CREATE SCHEMA cell_8"}, cfg: func(c *directory.Config) { c.Schema = "cell_8"; asRole(c) }, say: []string{"GRANT USAGE, CREATE ON SCHEMA cell_8"}},
		"no tables may be made": {
			do: []string{"CREATE SCHEMA cell_8", "GRANT USAGE ON SCHEMA cell_8 TO " + role}, cfg: func(c *directory.Config) { c.Schema = "cell_8"; asRole(c) },
			say: []string{"GRANT CREATE ON SCHEMA cell_8"},
		},
		"tables denied":    {tables: true, do: []string{"GRANT SELECT ON users TO " + role}, cfg: asRole, say: []string{"public.users", "public.counters", "GRANT SELECT, INSERT, UPDATE, DELETE"}},
		"from the future":  {tables: true, do: []string{"INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)"}, say: []string{"version 99", "later Parley"}},
		"foreign table":    {do: []string{"CREATE TABLE users (login TEXT)"}, say: []string{"public.users", "of its own"}},
		"missing table":    {tables: true, do: []string{"DROP TABLE outbox"}, say: []string{"public.outbox is missing"}},
		"missing column":   {tables: true, do: []string{"ALTER TABLE channels DROP COLUMN topic", "ALTER TABLE users DROP COLUMN urev"}, say: []string{"public.channels has no column topic", "public.users has no column urev"}},
		"other type":       {tables: true, do: []string{"ALTER TABLE users ALTER COLUMN urev TYPE INTEGER"}, say: []string{"urev of public.users is integer, not bigint"}},
		"other collation":  {tables: true, do: []string{`ALTER TABLE channels ALTER COLUMN name TYPE TEXT COLLATE "POSIX"`}, say: []string{"name of public.channels is text collated POSIX"}},
		"read-only":        {do: []string{"ALTER DATABASE %s SET default_transaction_read_only = on"}, say: []string{"standby, or read-only"}},
		"commits not kept": {do: []string{"ALTER DATABASE %s SET synchronous_commit = off"}, say: []string{"synchronous_commit is off"}},
		"too many":         {cfg: func(c *directory.Config) { c.MaxConns = 400 }, say: []string{"lower max_conns (400)"}},
		"no server":        {cfg: func(c *directory.Config) { c.URL = portOne.ReplaceAllString(c.URL, "127.0.0.1:1/") }, say: []string{"can't be reached", "host and port"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := database(t)
			s.cfg.ConnectTimeout = 2 * time.Second
			if c.tables {
				s.open(t)
			}
			for _, q := range c.do {
				s.exec(t, strings.Replace(q, "%s", strings.TrimPrefix(s.admin.Path, "/"), 1))
			}
			if c.cfg != nil {
				c.cfg(&s.cfg)
			}
			before := s.tables(t)
			_, opened := directory.OpenPostgres(t.Context(), s.cfg, time.Now, nil)
			for how, err := range map[string]error{"Check": directory.Check(t.Context(), s.cfg), "Open": opened} {
				if err == nil {
					t.Errorf("%s finds nothing wrong", how)
					continue
				}
				for _, say := range c.say {
					if !strings.Contains(err.Error(), say) || !strings.Contains(err.Error(), "postgres 127.0.0.1:") {
						t.Errorf("%s says: %v\nnot: %s", how, err, say)
					}
				}
			}
			if after := s.tables(t); after != before {
				t.Errorf("%d tables, then %d", before, after)
			}
		})
	}
}

func withUser(t *testing.T, to, user string) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	return u.String()
}

func withDatabase(t *testing.T, to, database string) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	return u.String()
}

func (s scratch) tables(t *testing.T) (n int) {
	t.Helper()
	db, err := admin(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(context.Background(), `SELECT COUNT(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A database with nothing in it, and one that is up to date, are in order; several
// processes may be the first.
func TestPostgres_CheckFindsNothing(t *testing.T) {
	s := database(t)
	if err := directory.Check(t.Context(), s.cfg); err != nil {
		t.Errorf("empty: %v", err)
	}
	if n := s.tables(t); n != 0 {
		t.Errorf("Check made %d tables", n)
	}
	errs := make(chan error)
	for range 4 {
		go func() {
			d, err := directory.OpenPostgres(context.WithoutCancel(t.Context()), s.cfg, time.Now, nil)
			if err == nil {
				err = d.Close()
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Errorf("opened at once: %v", err)
		}
	}
	if err := directory.Check(t.Context(), s.cfg); err != nil {
		t.Errorf("made: %v", err)
	}
	own := s.cfg
	own.Schema = "cell_9"
	s.exec(t, "CREATE SCHEMA cell_9")
	d, err := directory.OpenPostgres(t.Context(), own, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 1, State: directory.StateOpen}); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	other := s.open(t)
	if ws, err := other.Workspaces(t.Context(), "", 10); len(ws) > 0 || err != nil {
		t.Errorf("a workspace of another schema shows: %v, %v", ws, err)
	}
}

// A process that starts while another makes the tables sees none, some, or all of
// them, and never a version that is not that of what it sees.
func TestPostgres_CheckWhileTablesAreMade(t *testing.T) {
	for range 10 {
		s := database(t)
		made := make(chan error, 1)
		go func() {
			d, err := directory.OpenPostgres(context.WithoutCancel(t.Context()), s.cfg, time.Now, nil)
			if err == nil {
				err = d.Close()
			}
			made <- err
		}()
		for busy := true; busy; {
			select {
			case err := <-made:
				busy = false
				if err != nil {
					t.Error(err)
				}
			default:
			}
			if err := directory.Check(t.Context(), s.cfg); err != nil {
				t.Error(err)
			}
		}
	}
}
