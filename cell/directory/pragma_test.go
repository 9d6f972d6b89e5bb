package directory

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// What a crash of the process can't show: that commits are synced.
func TestOpen_CommitsAreSynced(t *testing.T) {
	d, err := Open(t.Context(), filepath.Join(t.TempDir(), "d.db"), time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	pragma := func(db *sql.DB, name string) (v string) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := pragma(d.write, "synchronous"); v != "2" {
		t.Errorf("synchronous is %s, not FULL", v)
	}
	if v := pragma(d.write, "journal_mode"); v != "wal" {
		t.Errorf("journal_mode is %s", v)
	}
	if v := pragma(d.read, "query_only"); v != "1" {
		t.Errorf("readers may write: query_only is %s", v)
	}
}

// A full disk is told as one: a client then does not try again at once.
func TestOpen_AFullDiskIsFull(t *testing.T) {
	d, err := Open(t.Context(), filepath.Join(t.TempDir(), "d.db"), time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	place := topology.Place{Workspace: "W1", Generation: 1}
	if err := d.PutWorkspace(t.Context(), Workspace{ID: "W1", Epoch: 1, Generation: 1, State: StateOpen}); err != nil {
		t.Fatal(err)
	}
	d.write.SetMaxOpenConns(1)
	if _, err := d.write.ExecContext(t.Context(), "PRAGMA max_page_count = 1"); err != nil { // no less than it has
		t.Fatal(err)
	}
	for i := 0; err == nil && i < 1000; i++ {
		_, err = d.PutUsers(t.Context(), place, []User{{ID: topology.UserID(fmt.Sprint("U", i)), Name: fmt.Sprint("name", i)}})
	}
	if !problem.Is(err, problem.Full) {
		t.Errorf("a full disk: %v", err)
	}
}
