//go:build !failpoints

package roles

import (
	"parley/cell/change"
	"parley/internal/topology"
)

// tap writes down what was confirmed; in this build, nothing.
type tap struct{}

func openTap(string, topology.CellID) (tap, error) { return tap{}, nil }

func (tap) of(topology.ServerID) func(topology.ChannelRef, topology.Token, []change.Change, bool) {
	return nil
}

func (tap) close() error { return nil }
