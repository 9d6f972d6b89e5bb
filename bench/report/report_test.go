package report_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"parley/bench/load"
	"parley/bench/report"
	"parley/bench/workload"
	"parley/internal/problem"
)

func row() workload.Row {
	return workload.Row{
		Workload: "fan-out, 2 sockets", Measure: "deliveries/s", Against: "raw hub",
		Parley: workload.Stat{Median: 6e5, Min: 5e5, Max: 7e5, Runs: []float64{6e5, 5e5, 7e5}},
		Floor:  &workload.Stat{Median: 1e6, Min: 1e6, Max: 1e6, Runs: []float64{1e6}}, Ratio: 0.6,
		Targets: []workload.Target{{Name: "first", Value: 0.5}, {Name: "goal", Value: 0.75}},
		Notes:   []string{"a note"}, Profile: []workload.Share{{What: "writing", Percent: 61.4}},
	}
}

func TestTable_SaysWhatWasMetAndMissed(t *testing.T) {
	var b bytes.Buffer
	if err := report.Table(&b, []workload.Row{row()}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"600 k (500 k … 700 k)", "1.00 M", "0.60", "≥ 0.5 pass", "≥ 0.75 miss", "a note", "writing 61 %"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
}

// Without the floor's figures a ratio is neither passed nor missed.
func TestTable_JudgesNothingWithoutItsFloor(t *testing.T) {
	r := row()
	r.Floor, r.Ratio = nil, 0
	var b bytes.Buffer
	if err := report.Table(&b, []workload.Row{r}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "pass") || strings.Contains(b.String(), "miss") {
		t.Errorf("judged:\n%s", b.String())
	}
}

func TestJSON_CanBeReadBack(t *testing.T) {
	var b bytes.Buffer
	if err := report.JSON(&b, []workload.Row{row()}); err != nil {
		t.Fatal(err)
	}
	var back []workload.Row
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || len(back) != 1 || back[0].Ratio != 0.6 || len(back[0].Parley.Runs) != 3 {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestFaults_OneIsTooMany(t *testing.T) {
	r := row()
	if err := report.Faults([]workload.Row{r}); err != nil {
		t.Error(err)
	}
	for _, c := range []load.Counts{{Lost: 1}, {Doubled: 1}, {Disorder: 1}, {Refused: 1}, {Broken: 1}} {
		r.Counts = c
		if report.Faults([]workload.Row{r}) == nil {
			t.Errorf("%+v passes", c)
		}
	}
}

func TestRun_WritesThePageAndTheBenchmarkLines(t *testing.T) {
	dir := t.TempDir()
	e := &workload.Env{Runs: 2, For: 100 * time.Millisecond, Floor: true, Dir: dir}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	c := report.Config{Only: []string{"commit"}, Markdown: filepath.Join(dir, "page.md"), Gobench: filepath.Join(dir, "bench.txt")}
	if err := report.Run(t.Context(), e, c, nil); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(c.Markdown)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Benchmarks", "| Go | go1", "| message store, 64 channels at once | commits/s |", "raw Pebble: "} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%q is not in the page:\n%s", want, page)
		}
	}
	lines, err := os.ReadFile(c.Gobench)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(lines), "/parley 1 "); n != 2 || strings.Count(string(lines), "/floor 1 ") != 2 {
		t.Errorf("want 2 lines of each side:\n%s", lines)
	}
}

// A workload that can't be measured is named in the page, and fails the whole.
func TestRun_NamesWhatFailed(t *testing.T) {
	dir := t.TempDir()
	e := &workload.Env{Runs: 1, For: time.Second, Floor: true, Dir: dir, Parley: filepath.Join(dir, "none"), Hub: []string{"none"}}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := report.Run(t.Context(), e, report.Config{Only: []string{"fan-out"}}, &out)
	if err == nil || !strings.Contains(out.String(), "Not measured") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}

func TestRun_RefusesUnknownNames(t *testing.T) {
	err := report.Run(context.Background(), &workload.Env{}, report.Config{Only: []string{"nothing"}}, nil)
	if !problem.Is(err, problem.Invalid) {
		t.Errorf("got %v", err)
	}
}

// A page made in parts has all of them; what is measured again takes its old place.
func TestRun_KeepsRowsOfOtherParts(t *testing.T) {
	dir := t.TempDir()
	rows := filepath.Join(dir, "rows.json")
	other := row()
	b, err := json.Marshal([]workload.Row{other})
	if err == nil {
		err = os.WriteFile(rows, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	e := &workload.Env{Runs: 1, For: 100 * time.Millisecond, Dir: dir}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var page bytes.Buffer
		if err := report.Run(t.Context(), e, report.Config{Only: []string{"commit"}, Rows: rows}, &page); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"| fan-out, 2 sockets |", "| message store, 64 channels at once |"} {
			if n := strings.Count(page.String(), want); n != 1 {
				t.Errorf("%q is there %d times:\n%s", want, n, page.String())
			}
		}
	}
}
