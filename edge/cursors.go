package edge

import (
	"cmp"
	"slices"

	"parley/internal/topology"
)

// cursor is where a session is in a channel: at its group's rev while it is in
// one, else at rev. It is written under both the group's lane and the session's
// mu, so either is enough to read it; seat is the lane's alone.
type cursor struct {
	channel topology.ChannelID
	rev     topology.Rev
	group   *group
	seat    int
}

// cursors are a session's, by channel: a map of a dozen would be half of what an
// idle session costs.
type cursors []*cursor

func (cs *cursors) search(ch topology.ChannelID) (int, bool) {
	return slices.BinarySearchFunc(*cs, ch, func(c *cursor, ch topology.ChannelID) int { return cmp.Compare(c.channel, ch) })
}

// find is the cursor of a channel, nil without one.
func (cs *cursors) find(ch topology.ChannelID) *cursor {
	if i, ok := cs.search(ch); ok {
		return (*cs)[i]
	}
	return nil
}

// put adds a cursor in place of the channel's other, if there is one.
func (cs *cursors) put(c *cursor) {
	i, ok := cs.search(c.channel)
	if ok {
		(*cs)[i] = c
		return
	}
	*cs = slices.Insert(*cs, i, c)
}

// drop forgets a channel's cursor.
func (cs *cursors) drop(ch topology.ChannelID) {
	if i, ok := cs.search(ch); ok {
		*cs = slices.Delete(*cs, i, i+1)
	}
}
