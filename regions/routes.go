package regions

import (
	"encoding/binary"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"parley/internal/topology"
)

// packedID is a workspace id of the usual form, W and a ULID, in two words: they
// travel in registers, where an array is written to memory and read again.
type packedID struct{ hi, lo uint64 }

// crockford is the alphabet of ULIDs.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const idLen = 27

// digits maps a character to its value in crockford, 0xff if it has none. Only
// upper case: two spellings of an id are two ids.
type digits [256]byte

func newDigits() *digits {
	var d digits
	for i := range d {
		d[i] = 0xff
	}
	for i := range len(crockford) {
		d[crockford[i]] = byte(i)
	}
	return &d
}

// pack packs an id; false if it is not W and a canonical ULID, or is all zeros.
func (d *digits) pack(ws topology.WorkspaceID) (p packedID, ok bool) {
	if len(ws) != idLen || ws[0] != 'W' || ws[1] > '7' {
		return p, false
	}
	// Two halves of twelve characters with one between them, so that the halves do
	// not wait for each other; 3 + 12 × 5, 5 and 12 × 5 bits.
	const half = 12
	mid := d[ws[half+2]]
	hi, lo := uint64(d[ws[1]]), uint64(0)
	seen := mid | d[ws[1]]
	for i := range half {
		a, b := d[ws[2+i]], d[ws[half+3+i]]
		hi, lo = hi<<5|uint64(a), lo<<5|uint64(b)
		seen |= a | b
	}
	if seen >= 32 { // one has no value
		return p, false
	}
	p = packedID{hi: hi<<1 | uint64(mid)>>4, lo: uint64(mid)<<60 | lo}
	return p, p != packedID{}
}

// packedBytes is what append adds.
const packedBytes = 16

// append adds an id to b, as unpacked reads it.
func (p packedID) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, p.hi), p.lo)
}

func unpacked(b [packedBytes]byte) packedID {
	return packedID{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:])}
}

func (p packedID) id() topology.WorkspaceID {
	hi, lo := p.hi, p.lo
	var b [idLen]byte
	b[0] = 'W'
	for i := idLen - 1; i > 0; i-- {
		b[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return topology.WorkspaceID(b[:])
}

// entry is a route without its workspace: 16 bytes.
type entry struct {
	epoch   topology.Epoch
	cell    uint32 // index into routes.cells
	round   uint16 // the load that last saw it
	learned bool   // from a cell's answer, not (yet) from etcd
}

const (
	routeShards = 64
	// maxLearned bounds the routes that only a cell's answer vouches for.
	maxLearned = 1 << 21
)

type routeShard struct {
	mu  sync.RWMutex // not needed to look something up in m
	m   slots
	odd map[topology.WorkspaceID]entry // ids of another form; none in practice
	_   [64]byte                       // a cache line each: readers of one shard don't slow those of another
}

// routes is the route table: sharded tables of small values without pointers, so
// that a million of them cost the garbage collector nothing.
type routes struct {
	digits *digits
	shards [routeShards]routeShard

	cells atomic.Pointer[[]topology.CellID] // never changed, but replaced under mu

	mu      sync.RWMutex // guards what follows; taken after a shard's
	byName  map[topology.CellID]uint32
	learned int
	count   int
}

func newRoutes() *routes {
	r := &routes{digits: newDigits(), byName: map[topology.CellID]uint32{}}
	r.cells.Store(new([]topology.CellID))
	return r
}

// shardOf uses the last bytes of the ULID, its random part.
func (r *routes) shardOf(p packedID) *routeShard { return &r.shards[p.lo%routeShards] }

func (r *routes) get(ws topology.WorkspaceID) (topology.Route, bool) {
	p, packed := r.digits.pack(ws)
	var e entry
	var ok bool
	if packed {
		e, ok = r.shardOf(p).m.get(p)
	} else {
		s := &r.shards[0]
		s.mu.RLock()
		e, ok = s.odd[ws]
		s.mu.RUnlock()
	}
	if !ok {
		return topology.Route{}, false
	}
	return topology.Route{Workspace: ws, Cell: r.cell(e.cell), Epoch: e.epoch}, true
}

func (s *routeShard) find(p packedID, packed bool, ws topology.WorkspaceID) (entry, bool) {
	if packed {
		return s.m.get(p)
	}
	e, ok := s.odd[ws]
	return e, ok
}

func (s *routeShard) set(p packedID, packed bool, ws topology.WorkspaceID, e entry) {
	if packed {
		s.m.set(p, e)
		return
	}
	if s.odd == nil {
		s.odd = map[topology.WorkspaceID]entry{}
	}
	s.odd[ws] = e
}

func (s *routeShard) drop(p packedID, packed bool, ws topology.WorkspaceID) {
	if packed {
		s.m.drop(p)
		return
	}
	delete(s.odd, ws)
}

func (r *routes) cell(i uint32) topology.CellID { return (*r.cells.Load())[i] }

func (r *routes) intern(c topology.CellID) uint32 {
	r.mu.RLock()
	i, ok := r.byName[c]
	r.mu.RUnlock()
	if ok {
		return i
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i, ok := r.byName[c]; ok {
		return i
	}
	cells := append(slices.Clone(*r.cells.Load()), c)
	i = uint32(len(cells) - 1) //nolint:gosec // cells are few
	r.cells.Store(&cells)
	r.byName[c] = i
	return i
}

// published stores a route that etcd has, as seen by load round. A higher epoch
// that a cell told stays. It reports whether the route changed.
func (r *routes) published(rt topology.Route, round uint16) bool {
	return r.store(rt, func(old entry, had bool) (entry, bool) {
		e := entry{epoch: rt.Epoch, round: round}
		if had && old.epoch > rt.Epoch {
			old.round = round
			return old, true
		}
		return e, true
	})
}

// prefer stores a route that a cell told, if its epoch is higher than the known
// one's.
func (r *routes) prefer(rt topology.Route) bool {
	return r.store(rt, func(old entry, had bool) (entry, bool) {
		if had && old.epoch >= rt.Epoch {
			return old, false
		}
		if (!had || !old.learned) && r.full() {
			return old, false
		}
		return entry{epoch: rt.Epoch, round: old.round, learned: true}, true
	})
}

func (r *routes) full() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.learned >= maxLearned
}

// store lets decide make the new entry out of the old one. An entry that keeps
// the old epoch keeps its cell, unless decide made it afresh.
func (r *routes) store(rt topology.Route, decide func(old entry, had bool) (entry, bool)) bool {
	cell := r.intern(rt.Cell)
	p, packed := r.digits.pack(rt.Workspace)
	s := &r.shards[0]
	if packed {
		s = r.shardOf(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.find(p, packed, rt.Workspace)
	e, ok := decide(old, had)
	if !ok {
		return false
	}
	if e.epoch == rt.Epoch {
		e.cell = cell
	}
	s.set(p, packed, rt.Workspace, e)
	r.tally(had, old.learned, e.learned)
	return !had || e.epoch != old.epoch || e.cell != old.cell
}

func (r *routes) tally(had, wasLearned, isLearned bool) {
	if had && wasLearned == isLearned {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !had {
		r.count++
	}
	if wasLearned {
		r.learned--
	}
	if isLearned {
		r.learned++
	}
}

func (r *routes) remove(ws topology.WorkspaceID) bool {
	p, packed := r.digits.pack(ws)
	s := &r.shards[0]
	if packed {
		s = r.shardOf(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.find(p, packed, ws)
	if !ok {
		return false
	}
	s.drop(p, packed, ws)
	r.untally(e)
	return true
}

func (r *routes) untally(e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count--
	if e.learned {
		r.learned--
	}
}

// sweep removes the routes that load round did not see, but not the learned
// ones: a cell vouched for them.
func (r *routes) sweep(round uint16) int {
	n := 0
	stale := func(e entry) bool { return e.round != round && !e.learned }
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		var gone []packedID
		for p, e := range s.m.each() {
			if stale(e) {
				gone = append(gone, p)
				r.untally(e)
			}
		}
		for _, p := range gone {
			s.m.drop(p)
		}
		n += len(gone)
		for ws, e := range s.odd {
			if stale(e) {
				delete(s.odd, ws)
				r.untally(e)
				n++
			}
		}
		s.mu.Unlock()
	}
	return n
}

func (r *routes) len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.count
}

// all yields every route once, shard by shard: each shard is copied while it is
// read-locked, so the consumer may be slow and may write to the table.
func (r *routes) all() iter.Seq[topology.Route] {
	return func(yield func(topology.Route) bool) {
		for i := range r.shards {
			for _, rt := range r.copyShard(&r.shards[i], func(entry) bool { return true }) {
				if !yield(rt) {
					return
				}
			}
		}
	}
}

func (r *routes) copyShard(s *routeShard, wanted func(entry) bool) []topology.Route {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]topology.Route, 0, s.m.used+len(s.odd))
	for p, e := range s.m.each() {
		if wanted(e) {
			out = append(out, topology.Route{Workspace: p.id(), Cell: r.cell(e.cell), Epoch: e.epoch})
		}
	}
	for ws, e := range s.odd {
		if wanted(e) {
			out = append(out, topology.Route{Workspace: ws, Cell: r.cell(e.cell), Epoch: e.epoch})
		}
	}
	return out
}

// unseen yields the routes whose round is not round.
func (r *routes) unseen(round uint16) iter.Seq[topology.Route] {
	return func(yield func(topology.Route) bool) {
		for i := range r.shards {
			for _, rt := range r.copyShard(&r.shards[i], func(e entry) bool { return e.round != round }) {
				if !yield(rt) {
					return
				}
			}
		}
	}
}
