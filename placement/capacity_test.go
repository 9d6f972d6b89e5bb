package placement_test

import (
	"testing"

	"parley/placement"
)

func TestCapacityKeepsHeadroom(t *testing.T) {
	with := func(connections int, posts float64, workspaces int) placement.Cell {
		return cell("eu-1", func(c *placement.Cell) {
			c.Load, c.Workspaces = placement.Load{Connections: connections, PostsPerS: posts}, workspaces
		})
	}
	r := placement.Request{Expected: placement.Load{Connections: 100, PostsPerS: 10}}
	wantReasons(t, only(t, with(700, 70, 79), r)) // exactly at the limit
	wantReasons(t, only(t, with(701, 70.5, 80), r),
		"workspaces: 80 in use and 1 expected are above 80 (100 less 20% headroom)",
		"connections: 701 in use and 100 expected are above 800 (1000 less 20% headroom)",
		"posts/s: 70.5 in use and 10 expected are above 80 (100 less 20% headroom)")
}

func TestCapacityOfZeroHasNoLimit(t *testing.T) {
	c := cell("eu-1", func(c *placement.Cell) { c.Capacity, c.Workspaces = placement.Capacity{}, 1_000_000 })
	wantReasons(t, only(t, c, placement.Request{}))
}

func TestHeadroomCanBeSet(t *testing.T) {
	c := cell("eu-1", func(c *placement.Cell) { c.Workspaces = 95 })
	for headroom, want := range map[float64]bool{0: false, 0.05: false, 0.04: true, -1: true, 5: false} {
		d := placement.Decide(placement.State{Cells: []placement.Cell{c}, Headroom: headroom}, placement.Request{})
		if got := d.Cell == c.ID; got != want {
			t.Errorf("headroom %v: chosen %v, want %v:\n%s", headroom, got, want, d.Why())
		}
	}
}
