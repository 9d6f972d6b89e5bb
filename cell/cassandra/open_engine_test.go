//go:build engines

package cassandra_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"parley/cell/cassandra"
	"parley/internal/problem"
)

func openTest(t *testing.T, cfg cassandra.Config) *cassandra.DB {
	t.Helper()
	db, err := cassandra.Open(t.Context(), cfg, "eu-1", nil, nil)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}

// Many processes of a new cell start at once: each serves, and each step was run
// once.
func TestCassandra_Open_FirstStartsAtOnce(t *testing.T) {
	cfg := config(t)
	dropAtEnd(t, cfg)
	notes, err := cassandra.Inspect(t.Context(), cfg)
	if err != nil || !strings.Contains(strings.Join(notes, "\n"), "there is no keyspace "+cfg.Keyspace+" yet: it will be made") {
		t.Fatalf("before the first start: %q, %v", notes, err)
	}
	const processes = 4
	dbs := make([]*cassandra.DB, processes)
	var wg sync.WaitGroup
	for i := range dbs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			db, err := cassandra.Open(ctx, cfg, "eu-1", nil, nil)
			if err != nil {
				t.Errorf("process %d: %v", i, err)
				return
			}
			dbs[i] = db
			if _, err := db.Log().Fences(ctx); err != nil {
				t.Errorf("process %d: Fences: %v", i, err)
			}
		})
	}
	wg.Wait()
	for _, db := range dbs {
		if db != nil {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cassandra.Check(t.Context(), cfg); err != nil {
		t.Errorf("Check of what Open has made: %v", err)
	}
	db := openTest(t, cfg)
	n := 0
	if err := db.Session().Query("SELECT count(*) FROM schema_version").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d steps are noted, %v; want 1", n, err)
	}
}

// One broken thing at a time: Check names it and the way out, and Open refuses.
func TestCassandra_Check_NamesWhatIsWrong(t *testing.T) {
	cfg := keyspace(t)
	db := openTest(t, cfg)
	exec := func(cql string) {
		t.Helper()
		q := db.Session().Query(strings.ReplaceAll(cql, "KS", cfg.Keyspace)).Consistency(gocql.Quorum)
		var err error
		for range 5 { // a change of the schema may take longer than an attempt
			if err = q.Exec(); err == nil || !strings.Contains(err.Error(), "no response") {
				break
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", cql, err)
		}
	}
	for _, c := range []struct {
		name, do, undo string
		edit           func(*cassandra.Config)
		want           string
		kind           problem.Kind
	}{
		{
			name: "schema from the future", want: "has tables of version 99, this release knows up to 1", kind: problem.Unsupported,
			do: "INSERT INTO schema_version (step, name) VALUES (99, 'later')", undo: "DELETE FROM schema_version WHERE step = 99",
		},
		{
			name: "grace", want: "table KS.log has gc_grace_seconds 60", kind: problem.Invalid,
			do: "ALTER TABLE log WITH gc_grace_seconds = 60", undo: "ALTER TABLE log WITH gc_grace_seconds = 864000",
		},
		{
			name: "read repair", want: "table KS.message has read_repair NONE", kind: problem.Invalid,
			do: "ALTER TABLE message WITH read_repair = 'NONE'", undo: "ALTER TABLE message WITH read_repair = 'BLOCKING'",
		},
		{
			name: "time to live", want: "table KS.log has default_time_to_live 5", kind: problem.Invalid,
			do: "ALTER TABLE log WITH default_time_to_live = 5", undo: "ALTER TABLE log WITH default_time_to_live = 0",
		},
		{
			name: "compaction", want: "TimeWindowCompactionStrategy", kind: problem.Invalid,
			do:   "ALTER TABLE log WITH compaction = {'class': 'TimeWindowCompactionStrategy'}",
			undo: "ALTER TABLE log WITH compaction = {'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}",
		},
		{
			name: "durable writes", want: "durable_writes false", kind: problem.Invalid,
			do: "ALTER KEYSPACE KS WITH durable_writes = false", undo: "ALTER KEYSPACE KS WITH durable_writes = true",
		},
		{
			name: "other replication", want: "the config says 2 in dc1 only", kind: problem.Invalid,
			edit: func(cfg *cassandra.Config) { cfg.Replication = 2 },
		},
		{
			name: "too few nodes", want: "too few for replication 7", kind: problem.Invalid,
			edit: func(cfg *cassandra.Config) { cfg.Replication = 7 },
		},
		{
			name: "no such datacenter", want: `no datacenter "nowhere", but dc1`, kind: problem.Invalid,
			edit: func(cfg *cassandra.Config) { cfg.Datacenter = "nowhere" },
		},
		{
			name: "missing table", want: "no table dedupe, though its migration was run", kind: problem.Invalid,
			do: "DROP TABLE dedupe", // the last: it stays away
		},
	} {
		if c.do != "" {
			exec(c.do)
		}
		wrong := cfg
		if c.edit != nil {
			c.edit(&wrong)
		}
		want := strings.ReplaceAll(c.want, "KS", cfg.Keyspace)
		if err := cassandra.Check(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Check says %v; want %q in it", c.name, err, want)
		}
		opened, err := cassandra.Open(t.Context(), wrong, "eu-1", nil, nil)
		if err == nil || problem.KindOf(err) != c.kind {
			t.Errorf("%s: Open: %v; want kind %s", c.name, err, c.kind)
		}
		if opened != nil {
			_ = opened.Close()
		}
		if c.undo != "" {
			exec(c.undo)
			if err := cassandra.Check(t.Context(), cfg); err != nil {
				t.Errorf("%s, mended: %v", c.name, err)
			}
		}
	}
}

// A node that is away is a fault for who checks, and none for who starts.
func TestCassandra_Open_WithoutOneOfItsHosts(t *testing.T) {
	cfg := keyspace(t)
	cfg.Hosts = append([]string{"127.0.0.1:1"}, cfg.Hosts...)
	if err := cassandra.Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "nothing answers at 127.0.0.1:1") {
		t.Errorf("Check: %v", err)
	}
	db := openTest(t, cfg)
	if _, err := db.Log().Fences(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCassandra_Close_LaterCallsAreRefused(t *testing.T) {
	db := openTest(t, keyspace(t))
	for range 2 {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := db.Log().Fences(t.Context()); !problem.Is(err, problem.Unavailable) {
		t.Errorf("Fences after Close: %v; want kind unavailable", err)
	}
}
