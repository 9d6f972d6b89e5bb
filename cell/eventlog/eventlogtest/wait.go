//nolint:thelper // clauses are tests, whose lines should be told
package eventlogtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"parley/cell/eventlog"
)

// patience bounds waits that should end at once.
const patience = 20 * time.Second

func waitReturnsOnAppend(t *testing.T, in Instance) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	const waiters = 10
	for round := range eventlog.Position(20) {
		errs := make(chan error, waiters)
		for range waiters {
			go func() { errs <- in.Log().Wait(ctx, 8, round) }()
		}
		add(t, in.Log(), 8, events(int(round), 1))
		for range waiters {
			if err := <-errs; err != nil {
				t.Fatalf("Wait: %v", err)
			}
		}
		if es, _ := read(t, in.Log(), 8, round, 1); len(es) != 1 {
			t.Fatalf("nothing to read after Wait")
		}
	}
}

func waitReturnsAtOnce(t *testing.T, in Instance) {
	add(t, in.Log(), 8, events(0, 3))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for after := range eventlog.Position(3) {
		if err := in.Log().Wait(ctx, 8, after); err != nil {
			t.Fatalf("Wait(after %d): %v", after, err)
		}
	}
}

func waitEndsWithContext(t *testing.T, in Instance) {
	add(t, in.Log(), 7, events(0, 3)) // another partition
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, 1)
	go func() { errs <- in.Log().Wait(ctx, 8, 0) }()
	cancel()
	select {
	case err := <-errs:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("Wait = %v, want context canceled", err)
		}
	case <-time.After(patience):
		t.Fatal("Wait goes on after its context ended")
	}
}
