//go:build engines

package redisdb

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"parley/cell/readstate"
	"parley/internal/topology"
)

// TestLanes_R3_LayoutChanges: a bucket that changes its server changes its lane under
// way, and still the journal ends with the highest mark that was acknowledged.
func TestLanes_R3_LayoutChanges(t *testing.T) {
	cfg := Config{Addrs: testAddrs(t, "PARLEY_TEST_REDIS"), Mode: modeSingle, KeyPrefix: testPrefix()}
	t.Cleanup(func() { wipe(t, cfg) })
	j := &journal{}
	d := open(t, cfg, Deps{Name: "s1", Journal: j})
	was := d.layout.Load()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var next [4]topology.Seq
	var acked [4]topology.Seq
	var mu sync.Mutex
	for i := range 64 {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				next[i%4]++
				seq := next[i%4]
				mu.Unlock()
				got, err := d.ReadState().Put(t.Context(), user(topology.UserID("U"+strconv.Itoa(i%4))), "C", readstate.Mark{Seq: seq})
				if err != nil || got.Seq < seq {
					t.Errorf("put %d: %v, %v", seq, got, err)
				}
				mu.Lock()
				acked[i%4] = max(acked[i%4], got.Seq)
				mu.Unlock()
			}
		})
	}
	for i := 0; ctx.Err() == nil; i++ {
		d.layout.Store(&layout{nodes: []string{"node-" + strconv.Itoa(i%3)}})
		pause(ctx, time.Millisecond)
	}
	wg.Wait()
	d.layout.Store(was)
	j.mu.Lock()
	defer j.mu.Unlock()
	last := map[topology.UserID]string{}
	for _, e := range j.entries {
		u, _, mark, _ := decodeEntry(e)
		last[u.ID] = mark
	}
	for i, want := range acked {
		m, err := decodeMark(last[topology.UserID("U"+strconv.Itoa(i))])
		if err != nil || m.Seq != want {
			t.Errorf("user %d: the journal ends with %d, acknowledged was %d (%v)", i, m.Seq, want, err)
		}
	}
}
