package workload

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/bench/load"
	"parley/internal/problem"
)

func TestStat_MedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		runs []float64
		want Stat
	}{
		{nil, Stat{}},
		{[]float64{3}, Stat{3, 3, 3, []float64{3}}},
		{[]float64{5, 1, 3}, Stat{3, 1, 5, []float64{5, 1, 3}}},
		{[]float64{4, 1, 2, 9}, Stat{3, 1, 9, []float64{4, 1, 2, 9}}},
	} {
		if diff := cmp.Diff(c.want, statOf(c.runs)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.runs, diff)
		}
	}
}

func TestRow_CompareAddsCountsOfBothSides(t *testing.T) {
	run := func(perS float64, lost int64) measured {
		return measured{Result: load.Result{DeliveriesPerS: perS, Counts: load.Counts{Posts: 10, Lost: lost}}}
	}
	var r Row
	r.compare([][]measured{{run(50, 0), run(70, 1)}, {run(100, 0), run(140, 2)}}, func(m measured) float64 { return m.DeliveriesPerS })
	if r.Parley.Median != 60 || r.Floor.Median != 120 || r.Ratio != 0.5 || r.Counts.Posts != 40 || r.Counts.Lost != 3 {
		t.Errorf("%+v", r)
	}
}

// A row without a floor's figures has nothing to hold against a ratio.
func TestRow_IsJudgedByWhatItHas(t *testing.T) {
	ratio := Row{Against: "raw hub", Targets: ratioTargets(0.5, 0.75)}
	ratio.set([]float64{6}, nil)
	if ratio.Judged() {
		t.Error("judged without a floor")
	}
	ratio.set([]float64{6}, []float64{10})
	if !ratio.Judged() || !ratio.Targets[0].Met(ratio.Held()) || ratio.Targets[1].Met(ratio.Held()) {
		t.Errorf("0.6 against 0.5 and 0.75: %+v", ratio)
	}
	absolute := Row{Targets: mostTargets(20, 6.5)}
	absolute.set([]float64{10}, []float64{1})
	if !absolute.Judged() || !absolute.Targets[0].Met(absolute.Held()) || absolute.Targets[1].Met(absolute.Held()) {
		t.Errorf("10 against at most 20 and 6.5: %+v", absolute)
	}
}

const traces = `File: parley
Type: cpu
Duration: 1s, Total samples = 100ms
-----------+-------------------------------------------------------
      60ms   internal/runtime/syscall/linux.Syscall6
             syscall.Write
             parley/edge.(*queue).write
             parley/edge.(*session).write
-----------+-------------------------------------------------------
      30ms   modernc.org/sqlite.(*conn).query
             parley/cell/directory.(*Directory).Member
             parley/cell/channel.(*checks).member
-----------+-------------------------------------------------------
      10ms   example.org/unheard.of
-----------+-------------------------------------------------------
`

func TestShares_OfWhatTheProgramWasDoing(t *testing.T) {
	want := []Share{{"edge: writing to the client sockets", 60}, {"directory (SQLite)", 30}, {"the rest", 10}}
	if diff := cmp.Diff(want, sharesOf([]byte(traces))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The floor's sockets follow channels as Parley's online members do.
func TestTypical_FloorHasTheSameShape(t *testing.T) {
	w := TypicalSize()
	follows := w.follows()
	members := map[int]int{}
	for _, chs := range follows {
		for _, ch := range chs {
			members[ch]++
		}
	}
	if len(follows) != w.Sockets || len(members) != w.Channels {
		t.Fatalf("%d sockets, %d channels", len(follows), len(members))
	}
	for ch, n := range members {
		if n != w.Online {
			t.Errorf("channel %d has %d online", ch, n)
		}
	}
}

func TestWorkloads_RefuseNonsense(t *testing.T) {
	e := &Env{Runs: 1, For: time.Second}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]interface {
		try() error
	}{
		"fanout": tried(func() error { _, err := Fanout{Sockets: 0, InFlight: 1}.Run(t.Context(), e); return err }),
		"typical": tried(func() error {
			_, err := Typical{Channels: 1, Members: 1, Online: 2, Sockets: 2}.Run(t.Context(), e)
			return err
		}),
		"idle":   tried(func() error { _, err := Idle{Sockets: 150, Channels: 1}.Run(t.Context(), e); return err }),
		"link":   tried(func() error { _, err := Link{Rates: []int{0}}.Run(t.Context(), e); return err }),
		"bytes":  tried(func() error { _, err := Bytes{Members: 1}.Run(t.Context(), e); return err }),
		"routes": tried(func() error { _, err := Routes{Table: 1, Published: 2, Changes: 1}.Run(t.Context(), e); return err }),
		"commit": tried(func() error { _, err := Commit{}.Run(t.Context(), e); return err }),
		"runs":   tried(func() error { return (&Env{Runs: 0, For: time.Second}).Validate() }),
	} {
		if err := w.try(); !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: %v, want kind invalid", name, err)
		}
	}
}

type tried func() error

func (f tried) try() error { return f() }

// The hop over a link and over the raw stream: every message comes back.
func TestLink_BothEchoesReturnEverything(t *testing.T) {
	e := &Env{Runs: 1, For: 200 * time.Millisecond, Floor: true, Dir: t.TempDir()}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	rows, err := Link{Rates: []int{2000}}.Run(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Counts.Lost != 0 || r.Parley.Median <= 0 || r.Floor == nil || r.Floor.Median <= 0 || !strings.Contains(r.Measure, "µs") {
			t.Errorf("%+v", r)
		}
	}
	if len(rows) != 2 {
		t.Errorf("%d rows, want p50 and p99", len(rows))
	}
}

func TestCommit_BothStoresTakeRows(t *testing.T) {
	e := &Env{Runs: 1, For: 100 * time.Millisecond, Floor: true, Dir: t.TempDir()}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	rows, err := Commit{Writers: 4}.Run(t.Context(), e)
	if err != nil || len(rows) != 1 || rows[0].Parley.Median <= 0 || rows[0].Floor.Median <= 0 {
		t.Fatalf("%+v, %v", rows, err)
	}
}

func TestRoutes_SmallTable(t *testing.T) {
	e := &Env{Runs: 1, For: time.Second, Dir: t.TempDir()}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	rows, err := Routes{Table: 1000, Published: 100, Changes: 5}.Run(t.Context(), e)
	if err != nil || len(rows) != 4 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if rows[1].Parley.Median != 0 {
		t.Errorf("a lookup allocates %v times", rows[1].Parley.Median)
	}
	if rows[3].Parley.Median <= 0 {
		t.Errorf("a change took no time: %+v", rows[3])
	}
}
