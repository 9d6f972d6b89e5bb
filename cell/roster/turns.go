package roster

import (
	"context"
	"sync"

	"parley/internal/problem"
	"parley/internal/topology"
)

// turns lets one goroutine at a time into a channel. It holds the channels that
// somebody is in or waits for, no others: as many as there are calls under way.
type turns struct {
	mu    sync.Mutex
	taken map[topology.ChannelRef]*turn
}

type turn struct {
	free  chan struct{} // holds one while nobody is in
	users int           // in it, or waiting
}

// take waits for the channel; leave is to be called once.
func (t *turns) take(ctx context.Context, ref topology.ChannelRef) (leave func(), err error) {
	t.mu.Lock()
	one := t.taken[ref]
	if one == nil {
		if t.taken == nil {
			t.taken = make(map[topology.ChannelRef]*turn)
		}
		one = &turn{free: make(chan struct{}, 1)}
		one.free <- struct{}{}
		t.taken[ref] = one
	}
	one.users++
	t.mu.Unlock()
	select {
	case <-one.free:
		return func() {
			one.free <- struct{}{}
			t.forget(ref, one)
		}, nil
	case <-ctx.Done():
		t.forget(ref, one)
		return nil, problem.Wrap(ctx.Err(), problem.Unavailable, "other changes of this channel's members are under way; try again")
	}
}

func (t *turns) forget(ref topology.ChannelRef, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(t.taken, ref)
	}
}
