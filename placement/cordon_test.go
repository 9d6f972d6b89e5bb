package placement_test

import (
	"testing"

	"parley/placement"
)

func TestCordonAllowsActiveCellsOnly(t *testing.T) {
	in := func(s placement.CellState) placement.Cell {
		return cell("eu-1", func(c *placement.Cell) { c.State = s })
	}
	wantReasons(t, only(t, in(placement.Active), placement.Request{}))
	wantReasons(t, only(t, in(placement.Cordoned), placement.Request{}), "it is cordoned, only active cells take workspaces")
	wantReasons(t, only(t, in(placement.Draining), placement.Request{}), "it is draining, only active cells take workspaces")
	wantReasons(t, only(t, in(""), placement.Request{}), "its state is not known, only active cells take workspaces")
}
