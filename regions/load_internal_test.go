package regions

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSumLoads_ACellIsItsProcesses(t *testing.T) {
	early, late := time.Unix(1_700_000_000, 0), time.Unix(1_700_000_002, 0)
	table := NewTable("eu")
	parts := []Load{
		{Cell: "eu-2", Connections: 7, At: early},
		{Cell: "eu-1", Process: "a", Connections: 1, PostsPerS: 2, DeliveriesPerS: 3, BytesPerS: 4, Workspaces: 5, At: late, Top: []TopWorkspace{{"W1", 1, 2, 3}}},
		{Cell: "eu-1", Process: "b", Connections: 10, PostsPerS: 20, DeliveriesPerS: 30, BytesPerS: 40, Workspaces: 5, At: early, Top: []TopWorkspace{{"W2", 1, 9, 1}, {"W1", 1, 1, 1}}},
	}
	for _, p := range parts {
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		table.apply([]update{{key: loadKey(p), value: b}})
	}
	want := []Load{
		{Cell: "eu-1", Connections: 11, PostsPerS: 22, DeliveriesPerS: 33, BytesPerS: 44, Workspaces: 5, At: late, Top: []TopWorkspace{{"W2", 1, 9, 1}, {"W1", 2, 3, 4}}},
		{Cell: "eu-2", Connections: 7, At: early},
	}
	if d := cmp.Diff(want, table.Loads()); d != "" {
		t.Error(d)
	}
	again := NewTable("eu")
	again.Fill(table.Contents())
	if d := cmp.Diff(want, again.Loads()); d != "" {
		t.Errorf("after a disk copy: %s", d)
	}
	table.apply([]update{{key: "live/cells/eu-1/a", deleted: true}})
	if got := table.Loads()[0].Connections; got != 10 {
		t.Errorf("a process that left still counts: %d connections", got)
	}
}

// Entries of versions without an address of their own stay readable.
func TestServer_WithoutAnAddress(t *testing.T) {
	table := NewTable("eu")
	bad := table.apply([]update{{key: "live/servers/eu-1/cs-1", value: []byte(`{"id":"cs-1","cell":"eu-1","incarnation":7}`)}})
	if got := table.Servers("eu-1"); len(bad) > 0 || len(got) != 1 || got[0].Addr != "" || got[0].Incarnation != 7 {
		t.Errorf("%v, unreadable: %v", got, bad)
	}
}
