package directory

import (
	"context"

	"parley/cell/channel"
	"parley/internal/problem"
	"parley/internal/topology"
)

// forChannels answers what channel servers ask.
type forChannels struct{ *Directory }

// ForChannels is the directory as channel servers see it: uncached, since they
// keep answers themselves for as long as is allowed.
//
//nolint:ireturn // it is the consumer's interface
func ForChannels(d *Directory) channel.Directory { return forChannels{d} }

// Open reports whether the workspace is open at the place's generation.
func (f forChannels) Open(ctx context.Context, p topology.Place) (bool, error) {
	w, err := f.Workspace(ctx, p.Workspace)
	if problem.Is(err, problem.NotFound) {
		return false, nil
	}
	return err == nil && w.Open() && w.Generation == p.Generation, err
}

// ChannelInfo is the channel's row.
func (f forChannels) ChannelInfo(ctx context.Context, ch topology.ChannelRef) (channel.Info, error) {
	c, err := f.Channel(ctx, ch.Place, ch.Channel)
	return channel.Info{Number: c.Number, Importing: c.Importing, Private: c.Private}, err
}

// IsMember reports whether the user is a member.
func (f forChannels) IsMember(ctx context.Context, ch topology.ChannelRef, u topology.UserID) (bool, error) {
	_, ok, err := f.Member(ctx, ch.Place, ch.Channel, u)
	return ok, err
}
