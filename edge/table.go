package edge

import (
	"slices"
	"sync/atomic"

	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

// table is the routes, with the cells of the config standing in for those whose
// gateways nobody has named yet.
type table struct {
	Routes
	seeds []CellSeed
	// learned are the signing keys that a cell told: an edge that starts without
	// a table must let people in, too.
	learned atomic.Pointer[[]token.Key]
}

// keys are all signing keys that are known.
func (t *table) keys() []token.Key {
	keys := t.Keys()
	if more := t.learned.Load(); more != nil {
		keys = append(slices.Clip(keys), *more...)
	}
	return keys
}

func newTable(r Routes, seeds []CellSeed) *table { return &table{Routes: r, seeds: seeds} }

// gateways are the known gateways of a cell, or those of the config.
func (t *table) gateways(cell topology.CellID) []regions.Gateway {
	if gs := t.Gateways(cell); len(gs) > 0 {
		return gs
	}
	for _, s := range t.seeds {
		if s.Cell == cell {
			return s.gateways()
		}
	}
	return nil
}

// cellIDs are all cells that can be asked something.
func (t *table) cellIDs() []topology.CellID {
	var ids []topology.CellID
	for _, c := range t.Cells() {
		ids = append(ids, c.ID)
	}
	for _, s := range t.seeds {
		ids = append(ids, s.Cell)
	}
	return ids
}

// gateways of a seed are named by their addresses: their ids are not known.
func (s CellSeed) gateways() []regions.Gateway {
	gs := make([]regions.Gateway, len(s.APIAddrs))
	for i, api := range s.APIAddrs {
		gs[i] = regions.Gateway{ID: topology.GatewayID(s.LinkAddrs[i]), Cell: s.Cell, APIAddr: api, LinkAddr: s.LinkAddrs[i]}
	}
	return gs
}

// rank orders gateways for a user by rendezvous hashing: each user has its own
// order, and a gateway's going moves only its own users. Those that avoid names
// come last, draining ones before them.
func rank(gs []regions.Gateway, user topology.UserID, avoid func(regions.Gateway) bool) []regions.Gateway {
	type scored struct {
		g     regions.Gateway
		class int
		score uint64
	}
	all := make([]scored, 0, len(gs))
	for _, g := range gs {
		s := scored{g: g, score: scoreOf(g.ID, user)}
		if g.Draining {
			s.class = 1
		}
		if avoid(g) {
			s.class = 2
		}
		i := len(all)
		all = append(all, s)
		for ; i > 0 && (all[i-1].class > s.class || all[i-1].class == s.class && all[i-1].score < s.score); i-- {
			all[i] = all[i-1]
		}
		all[i] = s
	}
	out := make([]regions.Gateway, len(all))
	for i, s := range all {
		out[i] = s.g
	}
	return out
}

// scoreOf is FNV-1a over both names, with a final mix: FNV alone hardly spreads
// a change in the last characters.
func scoreOf(g topology.GatewayID, u topology.UserID) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for _, s := range []string{string(g), "\x00", string(u)} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}
