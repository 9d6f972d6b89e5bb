package regions

import (
	"iter"
	"math/bits"
	"sync/atomic"

	"parley/internal/topology"
)

// slots is a hash table from ids to entries by linear probing: what a lookup needs
// of it is in one cache line as a rule, where a map of Go takes two or three.
// Readers take no lock, so that the memory accesses of one lookup need not wait for
// those of the one before: they read between two looks at a counter that is odd
// while something changes, and read again if it moved (a seqlock). Who changes
// excludes others who do. No id is all zeros: that marks a free slot.
type slots struct {
	changes atomic.Uint64
	table   atomic.Pointer[[]slot] // a power of two; nil at first
	used    int                    // the writers'
}

// slot is an id and its entry, in words that are read and written one by one.
type slot struct{ hi, lo, epoch, rest atomic.Uint64 }

func (s *slot) id() packedID { return packedID{hi: s.hi.Load(), lo: s.lo.Load()} }

func (s *slot) free() bool { return s.hi.Load()|s.lo.Load() == 0 }

const learnedBit = 1 << 48

func (s *slot) entry() entry {
	rest := s.rest.Load()
	return entry{
		epoch: topology.Epoch(s.epoch.Load()), cell: uint32(rest), round: uint16(rest >> 32), learned: rest&learnedBit != 0, //nolint:gosec // its parts
	}
}

func (s *slot) put(id packedID, e entry) {
	rest := uint64(e.cell) | uint64(e.round)<<32
	if e.learned {
		rest |= learnedBit
	}
	s.epoch.Store(uint64(e.epoch))
	s.rest.Store(rest)
	s.hi.Store(id.hi)
	s.lo.Store(id.lo)
}

func (s *slot) copyTo(to *slot) { to.put(s.id(), s.entry()) }

const slotsMin = 8

// home is where an id's probing begins: Fibonacci hashing (Knuth, TAOCP 6.4), since
// ids that are made in one millisecond follow each other.
func home(all []slot, id packedID) int {
	return int((id.hi ^ id.lo) * 0x9E3779B97F4A7C15 >> (64 - bits.TrailingZeros(uint(len(all))))) //nolint:gosec // below len(all)
}

// find is the index of an id, or of the free slot where it would be. One that is
// changed meanwhile may have neither: -1.
func find(all []slot, id packedID) (i int, ok bool) {
	mask := len(all) - 1
	i = home(all, id)
	for range all {
		a, b := all[i].hi.Load(), all[i].lo.Load()
		switch {
		case a == id.hi && b == id.lo:
			return i, true
		case a|b == 0:
			return i, false
		}
		i = (i + 1) & mask
	}
	return -1, false
}

func (t *slots) get(id packedID) (e entry, ok bool) {
	for {
		before := t.changes.Load()
		all := t.table.Load()
		if all == nil {
			return entry{}, false
		}
		var i int
		if i, ok = find(*all, id); ok {
			e = (*all)[i].entry()
		}
		if before&1 == 0 && t.changes.Load() == before {
			return e, ok
		}
	}
}

// change makes readers read again.
func (t *slots) change(do func()) {
	t.changes.Add(1)
	do()
	t.changes.Add(1)
}

func (t *slots) rows() []slot {
	if all := t.table.Load(); all != nil {
		return *all
	}
	return nil
}

func (t *slots) set(id packedID, e entry) {
	if 4*(t.used+1) > 3*len(t.rows()) {
		t.grow()
	}
	all := t.rows()
	i, ok := find(all, id)
	if !ok {
		t.used++
	}
	t.change(func() { all[i].put(id, e) })
}

func (t *slots) grow() {
	old := t.rows()
	all := make([]slot, max(slotsMin, 2*len(old)))
	for i := range old {
		if !old[i].free() {
			to, _ := find(all, old[i].id())
			old[i].copyTo(&all[to])
		}
	}
	t.table.Store(&all)
}

// drop frees an id's slot and moves those behind it that would not be found any
// more (Knuth, TAOCP 6.4, algorithm R).
func (t *slots) drop(id packedID) {
	all := t.rows()
	free, ok := find(all, id)
	if !ok {
		return
	}
	t.used--
	t.change(func() {
		mask := len(all) - 1
		for i := (free + 1) & mask; !all[i].free(); i = (i + 1) & mask {
			if (i-home(all, all[i].id()))&mask >= (i-free)&mask {
				all[i].copyTo(&all[free])
				free = i
			}
		}
		all[free].put(packedID{}, entry{})
	})
}

// each yields all; the table must not be changed meanwhile.
func (t *slots) each() iter.Seq2[packedID, entry] {
	return func(yield func(packedID, entry) bool) {
		all := t.rows()
		for i := range all {
			if !all[i].free() && !yield(all[i].id(), all[i].entry()) {
				return
			}
		}
	}
}
