package cassandra

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"
)

// A second node is asked, too, when a read takes hedgeTimes as long as reads take of
// late, or a write as writes do, within these bounds: on a cluster at rest, where one
// takes a few ms, after hedgeMin; never later than hedgeMax, so that a node that stands
// still delays nobody for long.
const (
	hedgeTimes = 4
	hedgeMin   = 50 * time.Millisecond
	hedgeMax   = time.Second
	// hedgeWeight is how many calls the mean is of, about.
	hedgeWeight = 32
)

// hedge knows how long calls take, and tells the metrics of each. It implements
// gocql's observers of queries and of batches.
//
// Rejected: a fixed time. When all nodes are busy many reads take longer than
// that, and are asked twice, which keeps them busy: in a drill on two cores, one in three.
type hedge struct {
	metrics *metrics
	mean    atomic.Int64
}

// after is when to ask a second node.
func (h *hedge) after() time.Duration {
	return min(max(hedgeTimes*time.Duration(h.mean.Load()), hedgeMin), hedgeMax)
}

// policy asks one more node, in time.
func (h *hedge) policy() *gocql.SimpleSpeculativeExecution {
	return &gocql.SimpleSpeculativeExecution{NumAttempts: 1, TimeoutDelay: h.after()}
}

// ObserveQuery implements gocql.QueryObserver.
func (h *hedge) ObserveQuery(ctx context.Context, q gocql.ObservedQuery) {
	h.metrics.ObserveQuery(ctx, q)
	h.took(q.End.Sub(q.Start), q.Err)
}

// ObserveBatch implements gocql.BatchObserver.
func (h *hedge) ObserveBatch(ctx context.Context, b gocql.ObservedBatch) {
	h.metrics.ObserveBatch(ctx, b)
	h.took(b.End.Sub(b.Start), b.Err)
}

// took learns from an attempt. One that failed tells nothing: a node that is gone has
// no time.
func (h *hedge) took(d time.Duration, err error) {
	if err != nil {
		return
	}
	mean := h.mean.Load()
	h.mean.Store(mean + (int64(d)-mean)/hedgeWeight) // of two at once one may count for nothing
}
