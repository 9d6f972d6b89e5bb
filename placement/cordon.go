package placement

import "fmt"

// cordon: only an active cell takes workspaces.
func cordon(_ State, _ Request, c Cell) []string {
	if c.State == Active {
		return nil
	}
	if c.State == "" {
		return []string{"its state is not known, only active cells take workspaces"}
	}
	return []string{fmt.Sprintf("it is %s, only active cells take workspaces", c.State)}
}
