package directory

import (
	"context"

	"parley/cell/channel"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Rows is what channel servers ask for: a Directory, or a Cache's Fresh.
type Rows interface {
	Workspace(ctx context.Context, ws topology.WorkspaceID) (Workspace, error)
	Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (Channel, error)
	Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (Membership, bool, error)
	Members(ctx context.Context, p topology.Place, ch topology.ChannelID, after topology.UserID, limit int) ([]topology.UserID, error)
	UsersByName(ctx context.Context, p topology.Place, names []string) (map[string]topology.UserID, error)
}

// forChannels answers what channel servers ask.
type forChannels struct{ Rows }

// ForChannels is the directory as channel servers see it: asked each time, since
// they keep answers themselves for as long as is allowed. What they get from
// memory while the engine is away is that much younger (S2).
//
//nolint:ireturn // it is the consumer's interface
func ForChannels(r Rows) channel.Directory {
	if f, ok := r.(*Fresh); ok {
		r = &Fresh{Cache: f.Cache, keptFor: channel.KnownMax}
	}
	return forChannels{r}
}

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

// IsMember reports whether the user is a member. The first question about a user has
// the whole list kept: who has posted in one channel may then post in all of theirs
// while the engine is away, also at a process that serves no sessions.
func (f forChannels) IsMember(ctx context.Context, ch topology.ChannelRef, u topology.UserID) (bool, error) {
	if fresh, ok := f.Rows.(*Fresh); ok {
		fresh.keepList(ctx, ch.Place, u)
	}
	_, ok, err := f.Member(ctx, ch.Place, ch.Channel, u)
	return ok, err
}

// Members are the channel's members. No cache keeps them.
func (f forChannels) Members(ctx context.Context, ch topology.ChannelRef, most int) (us []topology.UserID, all bool, err error) {
	if us, err = f.Rows.Members(ctx, ch.Place, ch.Channel, "", most+1); err != nil || len(us) > most {
		return nil, false, err
	}
	return us, true, nil
}
