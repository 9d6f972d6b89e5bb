package channel

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"parley/internal/problem"
	"parley/internal/topology"
)

// quotas keeps how many posts each workspace may make, so that one that posts
// without measure is slowed down and its neighbours are not.
type quotas struct {
	perS  float64 // 0 = no limit
	burst int

	mu  sync.Mutex
	all map[topology.WorkspaceID]*rate.Limiter
}

// quotasMax bounds the workspaces that are remembered. Beyond it those that have
// their whole burst again, which says all there is to know of them, are forgotten.
const quotasMax = 10_000

func newQuotas(perS float64, burst int) *quotas {
	return &quotas{perS: perS, burst: burst, all: map[topology.WorkspaceID]*rate.Limiter{}}
}

// take takes one post off the workspace's quota; kind Exhausted when none is left.
func (q *quotas) take(ws topology.WorkspaceID, now time.Time) error {
	if q.perS == 0 {
		return nil
	}
	r := q.of(ws, now).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	r.CancelAt(now)
	return &problem.Error{Kind: problem.Exhausted, Msg: "the workspace posts more than its quota allows; try again a little later", RetryAfter: wait}
}

func (q *quotas) of(ws topology.WorkspaceID, now time.Time) *rate.Limiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.all[ws]
	if l == nil {
		if len(q.all) >= quotasMax {
			q.forgetIdle(now)
		}
		l = rate.NewLimiter(rate.Limit(q.perS), q.burst)
		q.all[ws] = l
	}
	return l
}

// forgetIdle forgets those that are at rest, or all, should none be.
func (q *quotas) forgetIdle(now time.Time) {
	for ws, l := range q.all {
		if l.TokensAt(now) >= float64(q.burst) {
			delete(q.all, ws)
		}
	}
	if len(q.all) >= quotasMax {
		clear(q.all)
	}
}
