package kafka

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// slowMax is how long a leader may take before the others are asked whether it
	// still is the leader, and how often they are asked then.
	slowMax = 500 * time.Millisecond
	// askMax is how long one broker may take to say who leads: it has that in memory.
	askMax = time.Second
	// silentFor is how long a broker that did not say it is asked last.
	silentFor = 10 * time.Second
)

// led is ctx for as long as a broker leads a partition. One that stands still, or
// whose host is gone, answers nothing and refuses nothing: that it is no longer the
// leader is known to the others well before a request to it has had its time.
func (t *topic) led(ctx context.Context, p, broker int32) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(slowMax, func() {
		t.db.spawn(func() { t.watch(ctx, cancel, p, broker) }) // false: all ends anyway
	})
	return ctx, func() { slow.Stop(); cancel() }
}

// watch cancels when another broker leads the partition.
func (t *topic) watch(ctx context.Context, cancel context.CancelFunc, p, broker int32) {
	for {
		now, err := t.loading.get(ctx)
		if err == nil && now.of[p] >= 0 && now.of[p] != broker {
			cancel()
			return
		}
		if !pause(ctx, slowMax) {
			return
		}
	}
}

// metadata asks one broker after the other who leads, in any order, for each may know
// something old; those last that were silent lately. The client library would give
// each the time of any request.
func (t *topic) metadata(ctx context.Context, req *kmsg.MetadataRequest) (*kmsg.MetadataResponse, error) {
	for _, id := range t.toAsk(time.Now()) {
		try, cancel := context.WithTimeout(ctx, askMax)
		resp, err := req.RequestWith(try, t.db.client.Broker(int(id)))
		cancel()
		if err == nil {
			t.answered(resp)
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		t.mu.Lock()
		t.silent[id] = time.Now()
		t.mu.Unlock()
	}
	resp, err := req.RequestWith(ctx, t.db.client) // it begins anew with the config's brokers
	if err == nil {
		t.answered(resp)
	}
	return resp, err
}

func (t *topic) toAsk(now time.Time) []int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := slices.Clone(t.brokers)
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	silent := func(id int32) int {
		if at, ok := t.silent[id]; ok && now.Sub(at) < silentFor {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return silent(a) - silent(b) })
	return ids
}

// answered notes which brokers there are, and forgets the silence of those that are
// gone.
func (t *topic) answered(resp *kmsg.MetadataResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.brokers = t.brokers[:0]
	for _, b := range resp.Brokers {
		t.brokers = append(t.brokers, b.NodeID)
	}
	maps.DeleteFunc(t.silent, func(id int32, _ time.Time) bool { return !slices.Contains(t.brokers, id) })
}
