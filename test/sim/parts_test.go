//go:build failpoints

package sim_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// parts are what runs in a simulation.
type parts struct {
	t  *testing.T
	mu sync.Mutex

	running map[string]*part
}

func newParts(t *testing.T) *parts {
	t.Helper()
	return &parts{t: t, running: map[string]*part{}}
}

// part is something that runs and can be stopped, or fall dead.
type part struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	drain  func(context.Context) error
}

// start runs all of a part until it is stopped; it waits until they are ready.
func (w *parts) start(name string, runs ...func(context.Context, func()) error) *part {
	ctx, cancel := context.WithCancelCause(context.Background())
	p := &part{cancel: cancel, done: make(chan struct{})}
	var all sync.WaitGroup
	for _, run := range runs {
		ready := make(chan struct{})
		all.Go(func() {
			if err := run(ctx, sync.OnceFunc(func() { close(ready) })); err != nil && ctx.Err() == nil {
				w.t.Errorf("%s: %v", name, err)
			}
		})
		select {
		case <-ready:
		case <-time.After(stateMax):
			w.t.Errorf("%s is not ready", name)
		}
	}
	go func() {
		all.Wait()
		close(p.done)
	}()
	w.mu.Lock()
	w.running[name] = p
	w.mu.Unlock()
	return p
}

// stop ends a part in order, or, with failpoint.ErrCrash, lets it fall dead.
func (w *parts) stop(name string, why error) {
	w.mu.Lock()
	p := w.running[name]
	delete(w.running, name)
	w.mu.Unlock()
	if p == nil {
		return
	}
	if why == nil && p.drain != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_ = p.drain(ctx) // who does not leave in time is cut off
		cancel()
	}
	p.cancel(why)
	<-p.done
}

func (w *parts) stopAll() {
	w.mu.Lock()
	names := slices.Collect(maps.Keys(w.running))
	w.mu.Unlock()
	for _, n := range names {
		w.stop(n, nil)
	}
}
