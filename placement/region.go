package placement

import "fmt"

// region: a workspace lives in its home region.
func region(_ State, r Request, c Cell) []string {
	if r.HomeRegion == "" || r.HomeRegion == c.Region {
		return nil
	}
	return []string{fmt.Sprintf("it is in region %s, the workspace's home is %s", c.Region, r.HomeRegion)}
}
