package blevedb_test

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/cell/search/searchtest"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestIndex(t *testing.T) {
	for name, most := range map[string]int{"all open": 0, "one open at a time": 1} {
		t.Run(name, func(t *testing.T) {
			searchtest.Run(t, harness(most))
		})
	}
}

// harness opens indexes of which so many may be open at once.
func harness(most int) func(t *testing.T) searchtest.Harness {
	return func(t *testing.T) searchtest.Harness {
		t.Helper()
		open := func(dir string) *blevedb.DB {
			db, err := blevedb.Open(blevedb.Config{Dir: dir, OpenMax: most})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			return db
		}
		dir := t.TempDir()
		return searchtest.Harness{
			Index: open(dir),
			// A kill of the process leaves the files as they are now.
			Crash: func(t *testing.T) search.Index {
				t.Helper()
				left := t.TempDir()
				if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				dir = left
				return open(dir)
			},
		}
	}
}

// An index that fails in the middle is an error, and whole again afterwards.
func TestIndex_OpensAnewWhatHasFailed(t *testing.T) {
	db, err := blevedb.Open(blevedb.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	place := topology.Place{Workspace: "W1", Generation: 1}
	doc := func(id topology.MessageID) []search.Doc {
		return []search.Doc{{Channel: topology.ChannelRef{Place: place, Channel: "C1"}, ID: id, Version: 1, Author: "U1", Text: "words", TS: time.Now().UnixMicro()}}
	}
	if err := db.Put(t.Context(), doc("M1")); err != nil {
		t.Fatal(err)
	}
	if err := db.Break(); err != nil {
		t.Fatal(err)
	}
	if err := db.Put(t.Context(), doc("M2")); !problem.Is(err, problem.Unavailable) {
		t.Errorf("a write to what is broken: %v", err)
	}
	if err := db.Put(t.Context(), doc("M2")); err != nil {
		t.Errorf("a write afterwards: %v", err)
	}
	hits, err := db.Find(t.Context(), search.Query{Place: place, Everything: true, Order: search.Newest, Limit: 10})
	if err != nil || len(hits) != 2 {
		t.Errorf("%d documents are found, %v", len(hits), err)
	}
}
