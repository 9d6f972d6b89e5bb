package placement_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/internal/topology"
	"parley/placement"
)

var (
	regions = []topology.RegionID{"eu", "us", "ap"}
	groups  = []string{"", "a", "b"}
	ids     = []topology.CellID{"c1", "c2", "c3", "c4", "c5", "c6"}
)

func genCell(id topology.CellID) *rapid.Generator[placement.Cell] {
	return rapid.Custom(func(t *rapid.T) placement.Cell {
		return placement.Cell{
			ID:     id,
			Region: rapid.SampledFrom(regions).Draw(t, "region"),
			State:  rapid.SampledFrom([]placement.CellState{placement.Active, placement.Active, placement.Cordoned, placement.Draining}).Draw(t, "state"),
			Silent: rapid.Bool().Draw(t, "silent"),
			Capacity: placement.Capacity{
				Workspaces:  rapid.SampledFrom([]int{0, 10}).Draw(t, "capWorkspaces"),
				Connections: rapid.SampledFrom([]int{0, 100}).Draw(t, "capConnections"),
				PostsPerS:   rapid.SampledFrom([]float64{0, 50}).Draw(t, "capPosts"),
			},
			Load: placement.Load{
				Connections: rapid.IntRange(0, 100).Draw(t, "connections"),
				PostsPerS:   float64(rapid.IntRange(0, 50).Draw(t, "posts")),
			},
			Workspaces: rapid.IntRange(0, 10).Draw(t, "workspaces"),
			Groups:     rapid.SliceOfN(rapid.SampledFrom(groups[1:]), 0, 2).Draw(t, "groups"),
		}
	})
}

func genState(t *rapid.T) placement.State {
	n := rapid.IntRange(0, len(ids)).Draw(t, "cells")
	s := placement.State{Headroom: rapid.SampledFrom([]float64{0, -1, 0.5}).Draw(t, "headroom")}
	for _, id := range ids[:n] {
		s.Cells = append(s.Cells, genCell(id).Draw(t, string(id)))
	}
	return s
}

func genRequest(t *rapid.T) placement.Request {
	return placement.Request{
		Workspace:    topology.WorkspaceID(rapid.StringMatching(`W[0-9]{3}`).Draw(t, "workspace")),
		HomeRegion:   rapid.SampledFrom(append([]topology.RegionID{"", ""}, regions...)).Draw(t, "home"),
		Residency:    rapid.SliceOfN(rapid.SampledFrom(regions), 0, 2).Draw(t, "residency"),
		Pin:          rapid.SampledFrom([]topology.CellID{"", "", "", "c1", "c2", "gone"}).Draw(t, "pin"),
		AntiAffinity: rapid.SampledFrom(groups).Draw(t, "group"),
		Expected:     placement.Load{Connections: rapid.IntRange(0, 40).Draw(t, "expected"), PostsPerS: float64(rapid.IntRange(0, 20).Draw(t, "expectedPosts"))},
	}
}

// allowed is the rules once more, in one plain expression.
func allowed(s placement.State, r placement.Request, c placement.Cell) bool {
	free := map[float64]float64{0: 0.8, -1: 1, 0.5: 0.5}[s.Headroom]
	fits := func(used, size float64) bool { return size == 0 || used <= size*free }
	return (r.HomeRegion == "" || r.HomeRegion == c.Region) &&
		(len(r.Residency) == 0 || slices.Contains(r.Residency, c.Region)) &&
		(r.Pin == "" || r.Pin == c.ID) && c.State == placement.Active &&
		fits(float64(c.Workspaces+1), float64(c.Capacity.Workspaces)) &&
		fits(float64(c.Load.Connections+r.Expected.Connections), float64(c.Capacity.Connections)) &&
		fits(c.Load.PostsPerS+r.Expected.PostsPerS, c.Capacity.PostsPerS) &&
		(r.AntiAffinity == "" || !slices.Contains(c.Groups, r.AntiAffinity))
}

func TestChosenCellIsAllowedAndThereIsOneWheneverPossible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, r := genState(t), genRequest(t)
		d := placement.Decide(s, r)
		possible := false
		for _, c := range s.Cells {
			ok := allowed(s, r, c)
			possible = possible || ok
			i := slices.IndexFunc(d.Verdicts, func(v placement.Verdict) bool { return v.Cell == c.ID })
			if i < 0 || d.Verdicts[i].OK != ok || (len(d.Verdicts[i].Reasons) == 0) != ok {
				t.Fatalf("cell %+v allowed = %v, verdicts:\n%s", c, ok, d.Why())
			}
			if d.Cell == c.ID && !ok {
				t.Fatalf("chose %s against the rules:\n%s", d.Cell, d.Why())
			}
		}
		if possible != (d.Cell != "") {
			t.Fatalf("chose %q though possible = %v:\n%s", d.Cell, possible, d.Why())
		}
	})
}

func TestOtherCellsDoNotChangeAVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, r := genState(t), genRequest(t)
		before := placement.Decide(s, r)
		s.Cells = append(s.Cells, genCell("c9").Draw(t, "added"))
		after := placement.Decide(s, r)
		if diff := cmp.Diff(before.Verdicts, after.Verdicts[:len(after.Verdicts)-1]); diff != "" {
			t.Fatalf("verdicts changed (-before +after):\n%s", diff)
		}
		if after.Cell != before.Cell && after.Cell != "c9" {
			t.Fatalf("a new cell moved the choice from %q to %q", before.Cell, after.Cell)
		}
	})
}

func TestOrderOfCellsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, r := genState(t), genRequest(t)
		want := placement.Decide(s, r)
		s.Cells = rapid.Permutation(s.Cells).Draw(t, "order")
		if diff := cmp.Diff(want, placement.Decide(s, r)); diff != "" {
			t.Fatalf("another order gives another decision (-want +got):\n%s", diff)
		}
	})
}
