package ownership_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"parley/cell/ownership"
	"parley/internal/topology"
)

func servers(t *rapid.T) []topology.ServerID {
	return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) topology.ServerID {
		return topology.ServerID(rapid.StringMatching(`[a-z]{2}-[0-9]-cs-[0-9]{1,2}`).Draw(t, "id"))
	}), 1, 12, rapid.ID).Draw(t, "servers")
}

func TestOwner_OnlyTheGonesShardsMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := servers(t)
		gone := rapid.SampledFrom(all).Draw(t, "gone")
		rest := slices.DeleteFunc(slices.Clone(all), func(id topology.ServerID) bool { return id == gone })
		shuffled := rapid.Permutation(all).Draw(t, "order")
		for s := range topology.Shard(topology.Shards) {
			before, _ := ownership.Owner(s, all)
			if again, _ := ownership.Owner(s, shuffled); again != before {
				t.Fatalf("shard %d: %s or %s, by the order of the list", s, before, again)
			}
			after, ok := ownership.Owner(s, rest)
			if ok != (len(rest) > 0) || (before != gone && after != before) || after == gone {
				t.Fatalf("shard %d went from %s to %s when %s went", s, before, after, gone)
			}
		}
	})
}

func TestShares_AreEven(t *testing.T) {
	shares := ownership.Shares([]topology.ServerID{"eu-1-cs-1", "eu-1-cs-2", "eu-1-cs-3", "eu-1-cs-4"})
	n := 0
	for id, s := range shares {
		n += len(s)
		if len(s) < 16 || len(s) > 56 { // 32 each; three standard deviations are 15
			t.Errorf("%s has %d of %d shards", id, len(s), topology.Shards)
		}
	}
	if n != topology.Shards {
		t.Errorf("%d shards have an owner, not %d", n, topology.Shards)
	}
}
