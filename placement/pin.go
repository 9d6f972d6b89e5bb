package placement

import "fmt"

// pin: a pinned workspace lives in the cell it is pinned to.
func pin(_ State, r Request, c Cell) []string {
	if r.Pin == "" || r.Pin == c.ID {
		return nil
	}
	return []string{fmt.Sprintf("the workspace is pinned to cell %s", r.Pin)}
}
