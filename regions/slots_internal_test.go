package regions

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"parley/internal/topology"
)

// The table does what a map does, over any sequence of changes, ids that follow
// each other and ids that share their home included.
func TestSlots_AreAMap(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var table slots
		want := map[packedID]entry{}
		for range 5_000 {
			id := packedID{lo: 1 + r.Uint64N(300)<<(seed%3*20)}
			if r.IntN(3) == 0 {
				table.drop(id)
				delete(want, id)
				continue
			}
			e := entry{epoch: topology.Epoch(r.Uint64())}
			table.set(id, e)
			want[id] = e
		}
		got := maps.Collect(table.each())
		if len(got) != len(want) || table.used != len(want) {
			t.Fatalf("seed %d: %d entries, %d used, want %d", seed, len(got), table.used, len(want))
		}
		for id, e := range want {
			if found, ok := table.get(id); !ok || found != e || got[id] != e {
				t.Fatalf("seed %d: %x is %v %t, want %v", seed, id, found, ok, e)
			}
		}
		for range 100 {
			id := packedID{lo: 1 + r.Uint64N(1<<40)}
			if _, ok := table.get(id); ok != (want[id] != entry{}) {
				t.Fatalf("seed %d: %x is there: %t", seed, id, ok)
			}
		}
	}
}

// Who reads while the table changes sees, of each id, what was there before or
// after, and ids that stay never vanish.
func TestSlots_ReadersSeeWholeEntries(t *testing.T) {
	var table slots
	id := func(n uint64) packedID { return packedID{hi: 7, lo: n + 1} }
	const stay, come = 64, 512
	for n := range uint64(stay) {
		table.set(id(n), entry{epoch: topology.Epoch(n), cell: uint32(n)})
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for n := uint64(0); ; n = (n + 1) % stay {
				e, ok := table.get(id(n))
				if !ok || uint64(e.epoch)%stay != n || uint64(e.cell) != uint64(e.epoch) {
					t.Errorf("id %d is %+v, %t", n, e, ok)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range uint64(20_000) {
		n := stay + r.Uint64N(come)
		if i%2 == 0 {
			table.set(id(n), entry{})
		} else {
			table.drop(id(n))
		}
		again := i*stay + i%stay
		table.set(id(i%stay), entry{epoch: topology.Epoch(again), cell: uint32(again)})
	}
	close(done)
	readers.Wait()
}
