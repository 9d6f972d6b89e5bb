package directory

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"
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
