package directory

import (
	"context"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Rooms is what tells who may read a channel.
type Rooms interface {
	Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (Channel, error)
	Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (Membership, bool, error)
}

// Readable is a channel's row if somebody may know of it and read it: a member, an
// admin, or anybody of the workspace if it is public. For all others there is no
// such channel.
func Readable(ctx context.Context, rooms Rooms, p topology.Place, u topology.UserID, admin bool, ch topology.ChannelID) (Channel, error) {
	unknown := problem.New(problem.NotFound, "no such channel")
	row, err := rooms.Channel(ctx, p, ch)
	switch {
	case problem.Is(err, problem.NotFound):
		return Channel{}, unknown
	case err != nil:
		return Channel{}, err
	case admin:
		return row, nil
	case row.Importing:
		return Channel{}, unknown
	case !row.Private:
		return row, nil
	}
	_, member, err := rooms.Member(ctx, p, ch, u)
	if err != nil {
		return Channel{}, err
	}
	if !member {
		return Channel{}, unknown
	}
	return row, nil
}
