package blevedb_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/cell/search/searchtest"
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
