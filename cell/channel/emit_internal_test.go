package channel

import (
	"slices"
	"testing"

	"parley/cell/change"
	"parley/internal/topology"
)

func changesOf(from, to topology.Rev) (cs []change.Change) {
	for rev := from; rev <= to; rev++ {
		c := change.Change{Rev: rev, Kind: change.Message}
		if rev%3 == 0 {
			c.Mentions = []topology.UserID{"ann"}
		}
		cs = append(cs, c)
	}
	return cs
}

// What is known of a channel's changes has no gap: what does not follow is read from
// the log when its turn comes.
func TestEmission_RemembersWhatFollows(t *testing.T) {
	e := &emission{done: 10, upTo: 10}
	e.remember(changesOf(9, 12)) // the first two are emitted already
	e.remember(changesOf(14, 16))
	e.remember(changesOf(12, 13))
	want := []brief{{change.Message, true}, {change.Message, false}, {change.Message, true}}
	if !slices.Equal(e.briefs, want) {
		t.Errorf("%v, want those of revs 11 to 13: %v", e.briefs, want)
	}
}

func TestEmission_RemembersNoMoreThanItsBound(t *testing.T) {
	e := &emission{}
	e.remember(changesOf(1, briefsMax+100))
	e.remember(changesOf(briefsMax+101, briefsMax+200))
	if len(e.briefs) != briefsMax {
		t.Errorf("%d, want %d", len(e.briefs), briefsMax)
	}
}
