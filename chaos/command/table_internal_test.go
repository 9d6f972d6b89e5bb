package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/chaos/drill"
)

// A page with the two lines keeps what is around them; one without is the table's.
func TestWrite_KeepsThePageAround(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	read := func() string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := os.WriteFile(file, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second run finds the lines again
		if err := write(file, []drill.Result{{Drill: drill.Drills()[0]}}, drill.Config{Engines: "x"}, "c0ffee"); err != nil {
			t.Fatal(err)
		}
		got := read()
		if !strings.HasPrefix(got, "before\n"+tableBegins+"Written by `make e2e-engines`") || strings.Count(got, "c0ffee") != 1 || !strings.HasSuffix(got, tableEnds+"after\n") || strings.Contains(got, "old") {
			t.Fatalf("the page is\n%s", got)
		}
	}
	other := filepath.Join(t.TempDir(), "new.md")
	if err := write(other, nil, drill.Config{}, "c0ffee"); err != nil {
		t.Fatal(err)
	}
	file = other
	if got := read(); !strings.HasPrefix(got, "# Drills") || !strings.Contains(got, "`make e2e`") {
		t.Fatalf("the page is\n%s", got)
	}
}
