package cassandra

import (
	"errors"
	"testing"
	"time"

	"github.com/gocql/gocql"
)

func TestHedge_WaitsLongerWhenAllAreSlow(t *testing.T) {
	h := hedge{metrics: newMetrics(nil)}
	reads := func(n int, took time.Duration, err error) {
		now := time.Now()
		for range n {
			h.ObserveQuery(t.Context(), gocql.ObservedQuery{Start: now, End: now.Add(took), Err: err})
		}
	}
	for _, c := range []struct {
		name     string
		took     time.Duration
		err      error
		min, max time.Duration
	}{
		{"at rest", 3 * time.Millisecond, nil, hedgeMin, hedgeMin},
		{"a node hangs", 2 * time.Second, errors.New("no answer"), hedgeMin, hedgeMin},
		{"busy", 60 * time.Millisecond, nil, 200 * time.Millisecond, 240 * time.Millisecond},
		{"far too busy", 2 * time.Second, nil, hedgeMax, hedgeMax},
		{"at rest again", time.Millisecond, nil, hedgeMin, hedgeMin},
	} {
		reads(10*hedgeWeight, c.took, c.err)
		if got := h.after(); got < c.min || got > c.max {
			t.Errorf("%s: a second node is asked after %v, want %v to %v", c.name, got, c.min, c.max)
		}
	}
}
