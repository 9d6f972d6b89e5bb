package pace_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"parley/bench/floor/pace"
)

func TestRun_HoldsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, perS := range []int{1, 300, 1000, 12_345} {
			sent, most := 0, 0
			err := pace.Run(t.Context(), time.Millisecond, perS, 2*time.Second, func(n int) error {
				sent, most = sent+n, max(most, n)
				return nil
			})
			if err != nil || sent < 2*perS-perS/500-1 || sent > 2*perS {
				t.Errorf("%d/s: %d sent in 2 s, %v", perS, sent, err)
			}
			if most > perS/1000+1 {
				t.Errorf("%d/s: %d at once", perS, most)
			}
		}
	})
}

// A send that takes long is followed by what has become due.
func TestRun_CatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent, calls := 0, 0
		err := pace.Run(t.Context(), time.Millisecond, 1000, time.Second, func(n int) error {
			if calls++; calls == 1 {
				<-time.After(500 * time.Millisecond)
			}
			sent += n
			return nil
		})
		if err != nil || sent < 998 {
			t.Errorf("%d sent, %v", sent, err)
		}
	})
}

func TestRun_EndsWithItsContextAndWithErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := pace.Run(ctx, time.Millisecond, 10, time.Hour, func(int) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		broken := errors.New("broken")
		if err := pace.Run(t.Context(), time.Millisecond, 10, time.Hour, func(int) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}
