package gateway

import (
	"slices"
	"testing"
	"time"

	"parley/cell/router"
	"parley/internal/topology"
)

// TestBeacons_G3_SilenceIsPolled goes through seconds of a router that goes away and
// comes back.
func TestBeacons_G3_SilenceIsPolled(t *testing.T) {
	cfg := Config{}.withDefaults()
	start := time.Unix(1_700_000_000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	var b beacons
	b.start(start)
	beacon := func(s topology.Shard, n uint64, sec float64) {
		b.note([]router.Beacon{{Shard: s, Token: 1, Number: n}}, at(sec), func(router.Beacon) {})
	}
	asked := func(sec float64, want ...topology.Shard) {
		t.Helper()
		got := b.silent(at(sec), cfg)
		if len(want) == 0 && len(got) != 0 || len(want) > 0 && !slices.Equal(got, want) {
			t.Errorf("at %v s: %d shards are asked %.40v, want %v", sec, len(got), got, want)
		}
	}
	all := make([]topology.Shard, topology.Shards)
	for i := range all {
		all[i] = topology.Shard(i)
		beacon(all[i], 1, 0.5)
	}
	asked(1)
	asked(2) // one beacon may be late
	asked(3, all...)
	asked(4)
	asked(4.99, all...) // a tick may be early
	asked(6)
	asked(7, all...)
	for i := range all[1:] {
		beacon(all[i+1], 8, 7.5)
	}
	asked(8)
	asked(9, 0) // one owner is silent still, and it alone
	for i := range all[1:] {
		beacon(all[i+1], 9, 9.5)
	}
	asked(10)
	asked(11, 0)
	beacon(0, 9, 11.2)
	asked(11.4)
}
