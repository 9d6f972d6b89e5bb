package drill_test

import (
	"errors"
	"strings"
	"testing"

	"parley/chaos/drill"
)

// A run of some drills writes their rows, and leaves those of others.
func TestWriteTable_KeepsWhatWasNotDrilled(t *testing.T) {
	all := drill.Drills()
	write := func(earlier, commit string, results ...drill.Result) string {
		t.Helper()
		var out strings.Builder
		if err := drill.WriteTable(&out, earlier, results, "make e2e", commit); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	first := write("No run is kept yet.\n", "c1", drill.Result{Drill: all[0]}, drill.Result{Drill: all[1], Err: errors.New("a | b")})
	second := write(first, "c2", drill.Result{Drill: all[1]})
	second = write(second, "c3", drill.Result{Drill: all[2]})
	var names, commits []string
	for line := range strings.Lines(second) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if len(cells) > 1 && cells[0] != "drill" && cells[0] != "---" {
			names, commits = append(names, cells[0]), append(commits, cells[len(cells)-1])
		}
	}
	if got, want := strings.Join(names, " "), all[0].Name+" "+all[1].Name+" "+all[2].Name; got != want {
		t.Errorf("rows of %s, want %s", got, want)
	}
	if got := strings.Join(commits, " "); got != "c1 c2 c3" {
		t.Errorf("the rows are of %s, not c1 c2 c3", got)
	}
	if !strings.Contains(first, "**a / b**") || strings.Contains(second, "a / b") || strings.Contains(second, "No run") {
		t.Errorf("first:\n%s\nsecond:\n%s", first, second)
	}
}
