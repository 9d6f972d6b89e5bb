package gateway

import (
	"cmp"
	"slices"

	"parley/internal/topology"
)

// follows is what a session follows, by channel: a map of a dozen would be a large
// part of what an idle session costs.
type follows []*follower

func (fs *follows) search(ch topology.ChannelID) (int, bool) {
	return slices.BinarySearchFunc(*fs, ch, func(f *follower, ch topology.ChannelID) int { return cmp.Compare(f.ref.Channel, ch) })
}

// find is the follower of a channel, nil without one.
func (fs *follows) find(ch topology.ChannelID) *follower {
	if i, ok := fs.search(ch); ok {
		return (*fs)[i]
	}
	return nil
}

// add takes the follower of a channel that has none here.
func (fs *follows) add(f *follower) {
	i, _ := fs.search(f.ref.Channel)
	*fs = slices.Insert(*fs, i, f)
}

// drop forgets a follower.
func (fs *follows) drop(f *follower) {
	if i, ok := fs.search(f.ref.Channel); ok && (*fs)[i] == f {
		*fs = slices.Delete(*fs, i, i+1)
	}
}
