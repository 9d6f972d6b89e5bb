//go:build failpoints

package msglog

import (
	"context"

	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Breakable is a channel server's message store as a drill may break it.
func Breakable(s Store, of topology.ServerID) Store { //nolint:ireturn // a driver behind its contract
	return &brokenStore{Store: s, of: string(of)}
}

type brokenStore struct {
	Store
	of string
}

// Append may be held up for longer than any deadline: a process that was paused
// before it wrote writes late.
func (s *brokenStore) Append(ctx context.Context, sh topology.Shard, t topology.Token, ws []Write) error {
	if err := failpoint.Hang(failpoint.ChannelCommit, s.of); err != nil {
		return err
	}
	return s.Store.Append(context.WithoutCancel(ctx), sh, t, ws)
}

// Fences implements Store.
func (s *brokenStore) Fences(ctx context.Context, of ...topology.Shard) ([]Fence, error) {
	if err := failpoint.At(ctx, failpoint.ChannelConfirm, s.of); err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the fence rows can't be read")
	}
	return s.Store.Fences(ctx, of...)
}
