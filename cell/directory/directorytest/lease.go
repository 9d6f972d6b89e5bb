//nolint:thelper // clauses are tests, whose lines should be told
package directorytest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func lease(t *testing.T, w *world) {
	for _, c := range []struct {
		name, holder string
		after        time.Duration
		mine         bool
	}{
		{"sweep", "a", 0, true},
		{"sweep", "b", 0, false},
		{"other", "b", 0, true},
		{"sweep", "a", 9 * time.Second, true}, // renewed
		{"sweep", "b", 10 * time.Second, false},
		{"sweep", "b", 19*time.Second - time.Microsecond, false},
		{"sweep", "b", 19 * time.Second, true},
		{"sweep", "a", 20 * time.Second, false},
	} {
		mine, err := w.Directory().Lease(bg(), c.name, c.holder, start.Add(c.after), 10*time.Second)
		if err != nil || mine != c.mine {
			t.Fatalf("%s for %s after %v: %v, %v", c.name, c.holder, c.after, mine, err)
		}
	}
	if err := w.Crash(); err != nil {
		t.Fatal(err)
	}
	if mine, err := w.Directory().Lease(bg(), "sweep", "a", start.Add(20*time.Second), time.Second); mine || err != nil {
		t.Errorf("after a crash another has it: %v, %v", mine, err)
	}
}

func leaseIsOnes(t *testing.T, w *world) {
	for round := range 5 {
		var holders atomic.Int32
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				mine, err := w.Directory().Lease(bg(), fmt.Sprintf("round %d", round), fmt.Sprintf("holder %d", g), start, time.Minute)
				if err != nil {
					t.Error(err)
				}
				if mine {
					holders.Add(1)
				}
			})
		}
		wg.Wait()
		if n := holders.Load(); n != 1 {
			t.Fatalf("round %d: %d have it", round, n)
		}
	}
}
