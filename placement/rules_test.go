package placement_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/internal/topology"
	"parley/placement"
)

func cell(id string, change ...func(*placement.Cell)) placement.Cell {
	c := placement.Cell{
		ID: topology.CellID(id), Region: "eu", State: placement.Active,
		Capacity: placement.Capacity{Workspaces: 100, Connections: 1000, PostsPerS: 100},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// only judges a single cell.
func only(t *testing.T, c placement.Cell, r placement.Request) placement.Verdict {
	t.Helper()
	d := placement.Decide(placement.State{Cells: []placement.Cell{c}}, r)
	if len(d.Verdicts) != 1 {
		t.Fatalf("got %d verdicts on one cell", len(d.Verdicts))
	}
	if (d.Cell == c.ID) != d.Verdicts[0].OK {
		t.Fatalf("chose %q with verdict %+v", d.Cell, d.Verdicts[0])
	}
	return d.Verdicts[0]
}

func wantReasons(t *testing.T, v placement.Verdict, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, v.Reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	if v.OK != (len(want) == 0) {
		t.Errorf("OK = %v with reasons %v", v.OK, v.Reasons)
	}
}

func TestOnlyActiveCellsChosenAndAllReasonsGiven(t *testing.T) {
	c := cell("us-1", func(c *placement.Cell) {
		c.Region, c.State, c.Workspaces, c.Groups = "us", placement.Cordoned, 100, []string{"acme"}
	})
	r := placement.Request{Workspace: "W1", HomeRegion: "eu", Residency: []topology.RegionID{"eu", "ch"}, Pin: "eu-9", AntiAffinity: "acme"}
	wantReasons(t, only(t, c, r),
		"it is in region us, the workspace's home is eu",
		"it is in region us, the workspace's data may only be in eu, ch",
		"the workspace is pinned to cell eu-9",
		"it is cordoned, only active cells take workspaces",
		"workspaces: 100 in use and 1 expected are above 80 (100 less 20% headroom)",
		`it holds another workspace of the anti-affinity group "acme"`,
	)
}

func TestLeastLoadedCellIsChosen(t *testing.T) {
	s := placement.State{Cells: []placement.Cell{
		cell("eu-1", func(c *placement.Cell) { c.Load.Connections = 500 }),
		cell("eu-2", func(c *placement.Cell) { c.Load.PostsPerS = 20 }),
		cell("eu-3", func(c *placement.Cell) { c.Load.PostsPerS = 60 }),
	}}
	d := placement.Decide(s, placement.Request{Workspace: "W1"})
	if d.Cell != "eu-2" {
		t.Errorf("chose %q, want eu-2:\n%s", d.Cell, d.Why())
	}
	if why := d.Why(); !strings.Contains(why, "eu-2: chosen, score ") || !strings.Contains(why, "eu-1: possible") {
		t.Errorf("Why() = %q", why)
	}
}

func TestSilentCellIsTheLastChoiceButAChoice(t *testing.T) {
	silent := cell("eu-1", func(c *placement.Cell) { c.Silent = true })
	full := cell("eu-2", func(c *placement.Cell) { c.Load.Connections, c.Load.PostsPerS, c.Workspaces = 799, 79, 79 })
	if d := placement.Decide(placement.State{Cells: []placement.Cell{silent, full}}, placement.Request{}); d.Cell != "eu-2" {
		t.Errorf("chose %q over a cell that reports:\n%s", d.Cell, d.Why())
	}
	wantReasons(t, only(t, silent, placement.Request{}))
}

func TestTiesSpreadOverCells(t *testing.T) {
	s := placement.State{Cells: []placement.Cell{cell("eu-1"), cell("eu-2")}}
	got := map[topology.CellID]int{}
	for ws := range strings.FieldsSeq("W1 W2 W3 W4 W5 W6 W7 W8 W9 Wa Wb Wc Wd We Wf Wg") {
		got[placement.Decide(s, placement.Request{Workspace: topology.WorkspaceID(ws)}).Cell]++
	}
	if got["eu-1"] == 0 || got["eu-2"] == 0 {
		t.Errorf("sixteen workspaces on two equal cells: %v", got)
	}
}
