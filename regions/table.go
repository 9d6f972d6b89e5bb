package regions

import (
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"parley/internal/token"
	"parley/internal/topology"
)

// Table is what is known of a region, in memory. Safe for concurrent use; reads
// don't wait for writers of other shards, and Route makes no garbage. The
// slices that reads return are shared: don't change them.
type Table struct {
	region topology.RegionID
	routes *routes
	view   atomic.Pointer[view]

	mu      sync.Mutex // guards what follows
	facts   map[string]fact
	round   uint16 // of the present or last load
	changed chan struct{}
	known   bool
	durable uint64 // counts changes that are worth a new disk copy
}

// fact is one small entry: anything but a route.
type fact struct {
	value any
	round uint16
	// silent is when the lease of a gateway or channel server ended without its
	// holder having left in order; zero while it lives.
	silent time.Time
}

// NewTable makes an empty table of a region.
func NewTable(region topology.RegionID) *Table {
	t := &Table{region: region, routes: newRoutes(), facts: map[string]fact{}, changed: make(chan struct{})}
	t.view.Store(&view{})
	return t
}

// Route is the best known route of a workspace.
func (t *Table) Route(ws topology.WorkspaceID) (topology.Route, bool) { return t.routes.get(ws) }

// Routes yields all routes, in no order.
func (t *Table) Routes() iter.Seq[topology.Route] { return t.routes.all() }

// Len is how many routes are known.
func (t *Table) Len() int { return t.routes.len() }

// Prefer takes a route that a cell told in an answer. If its epoch is higher
// than the known one's it wins, until etcd has caught up with it; else it is
// dropped. It reports whether the route changed.
func (t *Table) Prefer(r topology.Route) bool { return t.Merge([]topology.Route{r}) == 1 }

// Merge takes many routes as Prefer does, for an edge that started with an empty
// disk and no etcd and asked the cells of its config itself. It returns how many
// routes changed.
func (t *Table) Merge(rs []topology.Route) int {
	n := 0
	for _, r := range rs {
		if r.Workspace != "" && r.Cell != "" && t.routes.prefer(r) {
			n++
		}
	}
	if n > 0 {
		t.mu.Lock()
		t.known = true
		t.notify(true)
		t.mu.Unlock()
	}
	return n
}

// Gateways are the live gateways of a cell, draining ones included. If all of
// them fell silent, which looks the same as a cell that is cut off from etcd but
// not from its edges, they are those that were there last: silence is not death.
func (t *Table) Gateways(cell topology.CellID) []Gateway { return t.view.Load().gateways[cell] }

// Servers are the channel servers of a cell, in the same way.
func (t *Table) Servers(cell topology.CellID) []Server { return t.view.Load().servers[cell] }

// Edges are the edges of all regions: those of this region as they register
// themselves, the others as the control plane published them.
func (t *Table) Edges() []Edge { return t.view.Load().edges }

// LiveEdges are the edges that are registered in this region.
func (t *Table) LiveEdges() []Edge { return t.view.Load().all.Live }

// Keys are the public signing keys, past and coming ones included.
func (t *Table) Keys() []token.Key { return t.view.Load().all.Keys }

// Cells are the cells of all regions.
func (t *Table) Cells() []Cell { return t.view.Load().all.Cells }

// Loads are the last reports of this region's cells, each the sum of those of its
// processes. A cell without one is silent, which does not mean dead.
func (t *Table) Loads() []Load { return t.view.Load().loads }

// Index is the Raft index that the published entries reflect.
func (t *Table) Index() uint64 { return t.view.Load().all.Index }

// Known reports whether the table ever got anything: from disk, etcd or Merge.
func (t *Table) Known() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known
}

// Changed gives a channel that is closed at the next change of anything in the
// table. Take it before reading, so that no change is missed.
func (t *Table) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// notify wakes the waiters of Changed; durable says whether the change is worth
// a new disk copy. Callers hold t.mu.
func (t *Table) notify(durable bool) {
	if durable {
		t.durable++
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// Fill replaces everything but the routes.
func (t *Table) Fill(c Contents) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.facts)
	put := func(key string, v any) { t.facts[key] = fact{value: v, round: t.round} }
	if c.Index > 0 {
		put(keyMeta, meta{Index: c.Index, Complete: true})
	}
	for _, g := range c.Gateways {
		put(gatewayKey(g), g)
	}
	for _, s := range c.Servers {
		put(serverKey(s), s)
	}
	for _, e := range c.Live {
		put(underLiveEdges+string(e.ID), e)
	}
	if len(c.Edges) > 0 {
		put(keyEdges, c.Edges)
	}
	for _, k := range c.Keys {
		put(underKeys+k.KID, k)
	}
	for _, cell := range c.Cells {
		put(underCells+string(cell.ID), cell)
	}
	for _, l := range c.Loads {
		put(loadKey(l), l)
	}
	t.known = true
	t.rebuild()
	t.notify(true)
}

// Contents is everything but the routes.
func (t *Table) Contents() Contents { return t.view.Load().all }

// update is one key of etcd, without the prefix, that was put or deleted.
type update struct {
	key     string
	value   []byte
	deleted bool
}

// begin starts a load: entries seen from now on carry its round.
func (t *Table) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.round++
}

// apply takes a page or a batch of watch events. It returns the keys whose
// values it could not read; what was known of those stays.
func (t *Table) apply(us []update) (bad []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed, small, durable := false, false, false
	for _, u := range us {
		ws, isRoute := strings.CutPrefix(u.key, underRoutes)
		switch {
		case isRoute && u.deleted:
			changed = t.routes.remove(topology.WorkspaceID(ws)) || changed
		case isRoute:
			r, err := parseRoute(ws, u.value)
			if err != nil {
				bad = append(bad, u.key)
				t.keep(u.key)
				continue
			}
			changed = t.routes.published(r, t.round) || changed
		case u.deleted:
			t.lose(u.key)
			small, durable = true, true
		case isFarewell(u.key, u.value):
			delete(t.facts, u.key)
			small, durable = true, true
		default:
			v, err := parseFact(u.key, u.value)
			if err != nil {
				bad = append(bad, u.key)
				t.keep(u.key)
				continue
			}
			if v != nil {
				t.facts[u.key] = fact{value: remember(t.facts[u.key].value, v), round: t.round}
				small = true
				// Reports come every few seconds from every cell, and age as fast.
				durable = durable || !strings.HasPrefix(u.key, underLoads)
			}
		}
	}
	if small {
		t.rebuild()
	}
	if small || changed {
		t.known = true
		t.notify(durable || changed)
	}
	return bad
}

// keep marks what is known of a key with an unreadable value as seen, so that
// the sweep after a load spares it. Callers hold t.mu.
func (t *Table) keep(key string) {
	if f, ok := t.facts[key]; ok {
		f.round = t.round
		t.facts[key] = f
		return
	}
	if ws, ok := strings.CutPrefix(key, underRoutes); ok {
		if r, ok := t.routes.get(topology.WorkspaceID(ws)); ok {
			t.routes.published(r, t.round)
		}
	}
}

// sweepPublished ends a load: published entries that it did not see are gone.
// If etcd holds no complete publication (it is new, or was wiped and is being
// filled again) its lack of an entry says nothing, and all stay. It reports
// whether it swept.
func (t *Table) sweepPublished(withRoutes bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.facts[keyMeta]
	if !ok || m.round != t.round || !m.value.(meta).Complete {
		return false
	}
	n := t.sweep(func(key string) bool { return !strings.HasPrefix(key, underLive) })
	if withRoutes {
		n += t.routes.sweep(t.round)
	}
	if n > 0 {
		t.rebuild()
		t.notify(true)
	}
	return true
}

// sweepLive drops the leased entries that neither the last load nor the watch
// since has seen. It is called some time after the load, so that holders whose
// leases were lost with etcd's data can register again first.
func (t *Table) sweepLive() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sweep(func(key string) bool { return strings.HasPrefix(key, underLive) }) > 0 {
		t.rebuild()
		t.notify(true)
	}
}

func (t *Table) sweep(mine func(key string) bool) int {
	n := 0
	for key, f := range t.facts {
		if f.round != t.round && f.silent.IsZero() && mine(key) {
			t.lose(key)
			n++
		}
	}
	return n
}

// durableChanges counts the changes so far that are worth a new disk copy.
func (t *Table) durableChanges() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.durable
}
