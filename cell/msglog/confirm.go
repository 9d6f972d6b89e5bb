package msglog

import (
	"context"
	"slices"
	"sync"

	"parley/internal/problem"
	"parley/internal/topology"
)

// confirmer reads the fences for all that wait at once: one read at a time, of their
// shards only, and each serves exactly those that joined before it began. With all
// shards' rows it would be by far the dearest read of a post: in Cassandra, some ten
// times one row's. Rejected: a goroutine
// that reads in a loop (a lifecycle for nothing), and letting a caller share a
// read that is under way already (it may have passed the fence row before the
// caller's write was done: invariant 3).
type confirmer struct {
	reading chan struct{} // capacity 1: held while reading

	mu   sync.Mutex
	next *round // what a caller joins now; nil = none waits
}

// round is one read and those whom it serves.
type round struct {
	of     []topology.Shard // whose fences they want, each once; the leader's after joining is over
	done   chan struct{}    // closed after the two below are set
	fences []Fence
	err    error
}

// readFences reads the fences of some shards.
type readFences func(ctx context.Context, of ...topology.Shard) ([]Fence, error)

// fences returns the result of a read that began after the call, of the shard and maybe
// others. An error may be that of another caller's context, who led the read: the
// caller tries again while its own lasts.
func (c *confirmer) fences(ctx context.Context, of topology.Shard, read readFences) ([]Fence, error) {
	r := c.join(of)
	select {
	case <-r.done:
	case c.reading <- struct{}{}:
		c.lead(ctx, r, read)
		<-c.reading
	case <-ctx.Done():
		return nil, problem.Wrap(ctx.Err(), problem.Unavailable, "the shard's owner could not be confirmed in time")
	}
	return r.fences, r.err
}

func (c *confirmer) join(of topology.Shard) *round {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = &round{done: make(chan struct{})}
	}
	if !slices.Contains(c.next.of, of) {
		c.next.of = append(c.next.of, of)
	}
	return c.next
}

// lead closes the round and reads for it, unless another leader has. Who holds
// reading finds r either done or still open for joining: a leader takes the open
// round and finishes it before it lets go.
func (c *confirmer) lead(ctx context.Context, r *round, read readFences) {
	c.mu.Lock()
	if c.next != r {
		c.mu.Unlock()
		return
	}
	c.next = nil
	c.mu.Unlock()
	r.fences, r.err = read(ctx, r.of...)
	close(r.done)
}
