package regions

import (
	"cmp"
	"slices"

	"parley/internal/topology"
)

// sumLoads makes one report per cell out of those of its processes, in the order of
// their names. Every process counts the cell's workspaces, all of them; what else
// there is adds up.
func sumLoads(parts []Load) []Load {
	cells := map[topology.CellID]Load{}
	for _, p := range parts {
		sum, more := cells[p.Cell]
		if !more {
			p.Top = slices.Clone(p.Top)
			sum = p
		} else {
			sum = addLoad(sum, p)
		}
		sum.Process = ""
		cells[p.Cell] = sum
	}
	out := make([]Load, 0, len(cells))
	for _, l := range cells {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Load) int { return cmp.Compare(a.Cell, b.Cell) })
	return out
}

func addLoad(sum, p Load) Load {
	sum.Connections += p.Connections
	sum.PostsPerS += p.PostsPerS
	sum.DeliveriesPerS += p.DeliveriesPerS
	sum.BytesPerS += p.BytesPerS
	sum.Workspaces = max(sum.Workspaces, p.Workspaces)
	if p.At.After(sum.At) {
		sum.At = p.At
	}
	for _, t := range p.Top {
		i := slices.IndexFunc(sum.Top, func(o TopWorkspace) bool { return o.Workspace == t.Workspace })
		if i < 0 {
			sum.Top = append(sum.Top, t)
			continue
		}
		o := &sum.Top[i]
		o.Connections += t.Connections
		o.PostsPerS += t.PostsPerS
		o.BytesPerS += t.BytesPerS
	}
	slices.SortStableFunc(sum.Top, func(a, b TopWorkspace) int { return cmp.Compare(b.PostsPerS, a.PostsPerS) })
	sum.Top = sum.Top[:min(len(sum.Top), maxTop)]
	return sum
}
