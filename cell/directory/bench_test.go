package directory_test

import (
	"path/filepath"
	"testing"
	"time"

	"parley/cell/directory"
	"parley/internal/topology"
)

// benchmarkMember asks for memberships, eight at a time.
func benchmarkMember(b *testing.B, d *directory.Directory) {
	b.Helper()
	if err := d.PutWorkspace(b.Context(), directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen}); err != nil {
		b.Fatal(err)
	}
	if _, err := d.PutUsers(b.Context(), place, []directory.User{{ID: "U1", Name: "ann"}}); err != nil {
		b.Fatal(err)
	}
	if _, _, err := d.CreateChannel(b.Context(), place, directory.Channel{ID: "C1", Name: "one", CreatedBy: "U1"}, []topology.UserID{"U1"}); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok, err := d.Member(b.Context(), place, "C1", "U1"); !ok || err != nil {
				b.Error(ok, err)
				return
			}
		}
	})
}

func BenchmarkSQLite_Member(b *testing.B) {
	d, err := directory.Open(b.Context(), filepath.Join(b.TempDir(), "d.db"), time.Now, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	benchmarkMember(b, d)
}
