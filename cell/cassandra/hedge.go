package cassandra

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"
)

// A read is asked at a second node, too, when it takes hedgeTimes as long as reads take
// of late, within these bounds: on a cluster at rest, where one takes a few ms, after
// hedgeMin; never later than hedgeMax, so that a node that stands still delays nobody
// for long.
const (
	hedgeTimes = 4
	hedgeMin   = 50 * time.Millisecond
	hedgeMax   = time.Second
	// hedgeWeight is how many reads the mean is of, about.
	hedgeWeight = 32
)

// hedge knows how long reads take.
//
// Rejected: a fixed time. When all nodes are busy many reads take longer than
// that, and is asked twice, which keeps them busy: in a drill on two cores, one in three.
type hedge struct{ mean atomic.Int64 }

// after is when to ask a second node.
func (h *hedge) after() time.Duration {
	return min(max(hedgeTimes*time.Duration(h.mean.Load()), hedgeMin), hedgeMax)
}

// ObserveQuery implements gocql.QueryObserver. Reads that failed tell nothing: a node
// that is gone has no time.
func (h *hedge) ObserveQuery(_ context.Context, q gocql.ObservedQuery) {
	if q.Err != nil {
		return
	}
	mean := h.mean.Load()
	h.mean.Store(mean + (int64(q.End.Sub(q.Start))-mean)/hedgeWeight) // of two at once one may count for nothing
}
