package regions

import (
	"math/bits"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"parley/internal/topology"
)

// Ring picks a user's gateway among a cell's: rendezvous hashing, so that a
// gateway's coming or going moves only the users that it gains or loses. It
// remembers which gateways did not answer of late. Safe for concurrent use.
type Ring struct {
	now func() time.Time

	mu       sync.RWMutex
	suspects map[topology.GatewayID]time.Time
}

// maxSuspects bounds the suspects; beyond it the ended ones are dropped.
const maxSuspects = 1024

// NewRing makes a Ring with no suspects; now is the clock, nil = time.Now.
func NewRing(now func() time.Time) *Ring {
	if now == nil {
		now = time.Now
	}
	return &Ring{now: now, suspects: map[topology.GatewayID]time.Time{}}
}

// Suspect skips a gateway until then: it did not answer, though it may still be
// registered.
func (r *Ring) Suspect(id topology.GatewayID, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.suspects) >= maxSuspects {
		now := r.now()
		for k, t := range r.suspects {
			if !now.Before(t) {
				delete(r.suspects, k)
			}
		}
		if len(r.suspects) >= maxSuspects {
			return // a suspicion is an optimization
		}
	}
	r.suspects[id] = until
}

// Trust ends a suspicion: the gateway answered.
func (r *Ring) Trust(id topology.GatewayID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.suspects, id)
}

// Pick is the user's gateway among gs: the one of highest weight that neither
// drains nor is suspected. If there is none, suspects are better than nobody, and
// draining ones are the last resort. False only if gs is empty.
func (r *Ring) Pick(user topology.UserID, gs []Gateway) (Gateway, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	now := time.Time{}
	if len(r.suspects) > 0 {
		now = r.now()
	}
	u := xxhash.Sum64String(string(user))
	best, bestClass, bestWeight := -1, 0, uint64(0)
	for i := range gs {
		class := 2
		if gs[i].Draining {
			class = 0
		} else if until, ok := r.suspects[gs[i].ID]; ok && now.Before(until) {
			class = 1
		}
		w := weight(u, gs[i].ID)
		switch {
		case best < 0, class > bestClass, class == bestClass && w > bestWeight,
			class == bestClass && w == bestWeight && gs[i].ID < gs[best].ID:
			best, bestClass, bestWeight = i, class, w
		}
	}
	if best < 0 {
		return Gateway{}, false
	}
	return gs[best], true
}

// weight mixes a user's hash with a gateway's (the finalizer of splitmix64).
func weight(user uint64, id topology.GatewayID) uint64 {
	x := user ^ bits.RotateLeft64(xxhash.Sum64String(string(id)), 31)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
