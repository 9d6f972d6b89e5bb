package regions_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"parley/internal/topology"
	"parley/regions"
)

func gateways(n int) []regions.Gateway {
	gs := make([]regions.Gateway, n)
	for i := range gs {
		gs[i].ID = topology.GatewayID(fmt.Sprintf("gw-%d", i))
	}
	return gs
}

func pick(t interface{ Fatalf(string, ...any) }, r *regions.Ring, user int, gs []regions.Gateway) topology.GatewayID {
	g, ok := r.Pick(topology.UserID(fmt.Sprintf("U%d", user)), gs)
	if !ok {
		t.Fatalf("no gateway among %d", len(gs))
	}
	return g.ID
}

const users = 200

func TestRingMovesNoMoreThanItMust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		r := regions.NewRing(func() time.Time { return now })
		gs := gateways(rapid.IntRange(2, 8).Draw(t, "gateways"))
		gone := rapid.IntRange(0, len(gs)-1).Draw(t, "gone")
		before := make([]topology.GatewayID, users)
		for u := range users {
			before[u] = pick(t, r, u, gs)
		}
		id := gs[gone].ID
		rest := rapid.Permutation(gs).Draw(t, "order")
		switch rapid.SampledFrom([]string{"left", "drains", "suspected"}).Draw(t, "how") {
		case "left":
			rest = slices.DeleteFunc(rest, func(g regions.Gateway) bool { return g.ID == id })
		case "drains":
			i := slices.IndexFunc(rest, func(g regions.Gateway) bool { return g.ID == id })
			rest[i].Draining = true
		case "suspected":
			r.Suspect(id, now.Add(time.Second))
		}
		for u := range users {
			after := pick(t, r, u, rest)
			if after == id || (before[u] != id && after != before[u]) {
				t.Fatalf("user %d went from %s to %s when %s left", u, before[u], after, id)
			}
		}
	})
}

func TestRingSpreadsUsers(t *testing.T) {
	r, gs, count := regions.NewRing(nil), gateways(4), map[topology.GatewayID]int{}
	const many = 20_000
	for u := range many {
		count[pick(t, r, u, gs)]++
	}
	for _, g := range gs {
		if n := count[g.ID]; n < many/4*9/10 || n > many/4*11/10 {
			t.Errorf("%s has %d of %d users, want a quarter", g.ID, n, many)
		}
	}
}

func TestSuspicionEnds(t *testing.T) {
	now := time.Unix(1000, 0)
	r, gs := regions.NewRing(func() time.Time { return now }), gateways(3)
	home := pick(t, r, 1, gs)
	r.Suspect(home, now.Add(time.Second))
	if pick(t, r, 1, gs) == home {
		t.Error("a suspected gateway was picked")
	}
	now = now.Add(time.Second)
	if got := pick(t, r, 1, gs); got != home {
		t.Errorf("after the suspicion: %s, want %s", got, home)
	}
	r.Suspect(home, now.Add(time.Second))
	r.Trust(home)
	if got := pick(t, r, 1, gs); got != home {
		t.Errorf("after Trust: %s, want %s", got, home)
	}
}

func TestRingPrefersSuspectsToDrainingToNone(t *testing.T) {
	now := time.Unix(1000, 0)
	r, gs := regions.NewRing(func() time.Time { return now }), gateways(2)
	gs[0].Draining = true
	r.Suspect(gs[1].ID, now.Add(time.Second))
	for u := range 20 {
		if got := pick(t, r, u, gs); got != gs[1].ID {
			t.Errorf("picked %s over a suspect", got)
		}
	}
	if got := pick(t, r, 1, gs[:1]); got != gs[0].ID {
		t.Errorf("picked %s, want the draining one", got)
	}
	if _, ok := r.Pick("U1", nil); ok {
		t.Error("picked among none")
	}
}

func BenchmarkPick(b *testing.B) {
	r, gs := regions.NewRing(nil), gateways(16)
	b.ReportAllocs()
	for b.Loop() {
		r.Pick("U01ARZ3NDEKTSV4RRFFQ69G5FAV", gs)
	}
}
