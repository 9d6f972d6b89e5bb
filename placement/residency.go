package placement

import (
	"fmt"
	"slices"
	"strings"
)

// residency: a workspace's data stays in the regions that its contract names.
func residency(_ State, r Request, c Cell) []string {
	if len(r.Residency) == 0 || slices.Contains(r.Residency, c.Region) {
		return nil
	}
	names := make([]string, len(r.Residency))
	for i, id := range r.Residency {
		names[i] = string(id)
	}
	return []string{fmt.Sprintf("it is in region %s, the workspace's data may only be in %s", c.Region, strings.Join(names, ", "))}
}
