package regions

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"parley/internal/token"
	"parley/internal/topology"
)

// view is the small entries, sorted and grouped, rebuilt at each change.
type view struct {
	all Contents

	gateways map[topology.CellID][]Gateway
	servers  map[topology.CellID][]Server
	edges    []Edge
	loads    []Load // of whole cells
}

// rebuild makes the view of the facts. Callers hold t.mu.
func (t *Table) rebuild() {
	v := &view{gateways: map[topology.CellID][]Gateway{}, servers: map[topology.CellID][]Server{}}
	alive := t.alive()
	now := time.Now()
	for key, f := range t.facts {
		group := liveGroup(key)
		switch {
		case f.silent.IsZero() || !alive[group]:
			v.add(f.value)
		case now.Sub(f.silent) > silentMax:
			delete(t.facts, key)
		}
	}
	slices.SortFunc(v.all.Gateways, func(a, b Gateway) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.all.Servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.all.Keys, func(a, b token.Key) int { return cmp.Compare(a.KID, b.KID) })
	slices.SortFunc(v.all.Cells, func(a, b Cell) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(v.all.Loads, func(a, b Load) int {
		return cmp.Or(cmp.Compare(a.Cell, b.Cell), cmp.Compare(a.Process, b.Process))
	})
	v.loads = sumLoads(v.all.Loads)
	byID := func(a, b Edge) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(v.all.Live, byID)
	for _, g := range v.all.Gateways {
		v.gateways[g.Cell] = append(v.gateways[g.Cell], g)
	}
	for _, c := range v.all.Cells {
		if c.Region != t.region && len(v.gateways[c.ID]) == 0 {
			v.gateways[c.ID] = c.Gateways
		}
	}
	for _, s := range v.all.Servers {
		v.servers[s.Cell] = append(v.servers[s.Cell], s)
	}
	v.edges = append(v.edges, v.all.Live...)
	for _, e := range v.all.Edges {
		// Of its own region the registrations are fresher than the union.
		if e.Region != t.region || len(v.all.Live) == 0 {
			v.edges = append(v.edges, e)
		}
	}
	slices.SortFunc(v.edges, byID)
	t.view.Store(v)
}

// remember keeps a cell's gateways when the control plane, or its view of that
// region, knows none: silence is not death.
func remember(old, now any) any {
	was, _ := old.(Cell)
	is, ok := now.(Cell)
	if ok && len(is.Gateways) == 0 {
		is.Gateways = was.Gateways
		return is
	}
	return now
}

// silentMax is how long a silent gateway or channel server is remembered while
// others of its cell live: if those fall silent soon after, all are shown again.
const silentMax = time.Minute

// alive tells which groups have an entry that is not silent. Callers hold t.mu.
func (t *Table) alive() map[string]bool {
	groups := map[string]bool{}
	for key, f := range t.facts {
		if g := liveGroup(key); g != "" && f.silent.IsZero() {
			groups[g] = true
		}
	}
	return groups
}

// liveGroup is what a gateway or channel server stands in for the others of: its
// kind and cell. "" for every other key.
func liveGroup(key string) string {
	if !strings.HasPrefix(key, underGateways) && !strings.HasPrefix(key, underServers) {
		return ""
	}
	return key[:strings.LastIndexByte(key, '/')]
}

// lose takes an entry away, or marks it as silent. Callers hold t.mu.
func (t *Table) lose(key string) {
	f, ok := t.facts[key]
	switch {
	case !ok:
	case liveGroup(key) == "":
		delete(t.facts, key)
	case f.silent.IsZero():
		f.silent = time.Now()
		t.facts[key] = f
	}
}

func (v *view) add(value any) {
	switch f := value.(type) {
	case meta:
		v.all.Index = f.Index
	case []Edge:
		v.all.Edges = f
	case Cell:
		v.all.Cells = append(v.all.Cells, f)
	case token.Key:
		v.all.Keys = append(v.all.Keys, f)
	case Gateway:
		v.all.Gateways = append(v.all.Gateways, f)
	case Server:
		v.all.Servers = append(v.all.Servers, f)
	case Edge:
		v.all.Live = append(v.all.Live, f)
	case Load:
		v.all.Loads = append(v.all.Loads, f)
	}
}
