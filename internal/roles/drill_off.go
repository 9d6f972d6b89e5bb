//go:build !failpoints

package roles

import (
	"parley/cell/change"
	"parley/cell/msglog"
	"parley/internal/topology"
)

// breakable is a channel server's message store as a drill may break it: in this
// build, as it is.
func breakable(s msglog.Store, _ topology.ServerID) msglog.Store { return s } //nolint:ireturn // a driver behind its contract

// tap writes down what was confirmed; in this build, nothing.
type tap struct{}

func openTap(string, topology.CellID) (tap, error) { return tap{}, nil }

func (tap) of(topology.ServerID) func(topology.ChannelRef, topology.Token, []change.Change) {
	return nil
}

func (tap) close() error { return nil }
