package placement

import (
	"fmt"
	"slices"
)

// antiAffinity: workspaces of one group are never together in a cell.
func antiAffinity(_ State, r Request, c Cell) []string {
	if r.AntiAffinity == "" || !slices.Contains(c.Groups, r.AntiAffinity) {
		return nil
	}
	return []string{fmt.Sprintf("it holds another workspace of the anti-affinity group %q", r.AntiAffinity)}
}
