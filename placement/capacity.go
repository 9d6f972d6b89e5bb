package placement

import (
	"fmt"
	"strconv"
)

// dimension is one way in which a cell can be full.
type dimension struct {
	name                 string
	used, expected, size float64
}

func dimensions(r Request, c Cell) []dimension {
	return []dimension{
		{"workspaces", float64(c.Workspaces), 1, float64(c.Capacity.Workspaces)},
		{"connections", float64(c.Load.Connections), float64(r.Expected.Connections), float64(c.Capacity.Connections)},
		{"posts/s", c.Load.PostsPerS, r.Expected.PostsPerS, c.Capacity.PostsPerS},
	}
}

// share is how full the dimension would be; 0 without a limit.
func (d dimension) share() float64 {
	if d.size <= 0 {
		return 0
	}
	return (d.used + d.expected) / d.size
}

// headroom is the share to leave free.
func (s State) headroom() float64 {
	switch {
	case s.Headroom == 0:
		return DefaultHeadroom
	case s.Headroom < 0:
		return 0
	default:
		return min(s.Headroom, 1)
	}
}

// capacity: with the workspace in it, a cell still has its headroom.
func capacity(s State, r Request, c Cell) []string {
	var reasons []string
	free := s.headroom()
	for _, d := range dimensions(r, c) {
		limit := d.size * (1 - free)
		if d.size <= 0 || d.used+d.expected <= limit {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("%s: %s in use and %s expected are above %s (%s less %s%% headroom)",
			d.name, number(d.used), number(d.expected), number(limit), number(d.size), number(free*100)))
	}
	return reasons
}

// number shows at most two decimals, without trailing zeros.
func number(f float64) string {
	r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', 2, 64), 64)
	if err != nil {
		r = f // out of range: as it is
	}
	return strconv.FormatFloat(r, 'f', -1, 64)
}
