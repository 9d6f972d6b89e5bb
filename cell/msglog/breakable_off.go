//go:build !failpoints

package msglog

import "parley/internal/topology"

// Breakable is a channel server's message store as a drill may break it: in this
// build, as it is.
func Breakable(s Store, _ topology.ServerID) Store { return s } //nolint:ireturn // a driver behind its contract
