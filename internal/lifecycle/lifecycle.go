// Package lifecycle starts the parts of a role in order, each after the one before
// it is ready, and stops them in reverse.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"parley/internal/failpoint"
)

// Part is one thing with a life. Run acquires what it needs, calls ready once it
// serves, serves until ctx ends, and releases everything before it returns. Drain,
// if not nil, is called once before Run's ctx is ended in an orderly stop: it
// hands work over while everything still runs.
type Part struct {
	Name  string
	Run   func(ctx context.Context, ready func()) error
	Drain func(ctx context.Context) error
}

// stopMax bounds the stop of one part after its drain; a part that does not
// return by then is reported and left to the end of the process.
const stopMax = 15 * time.Second

type running struct {
	Part
	cancel context.CancelCauseFunc
	done   chan error
}

// Run starts parts in order, calls ready, and runs them until ctx ends or one of
// them fails or returns early; then it stops them in reverse, each drained within
// drainMax first. It returns the first failure, nil for an orderly stop.
func Run(ctx context.Context, ready func(), drainMax time.Duration, log *slog.Logger, parts ...Part) error {
	failed := make(chan error, len(parts)) // one slot each: nobody blocks
	var started []*running
	var err error
	for _, p := range parts {
		if err = start(ctx, p, failed, &started); err != nil {
			break
		}
	}
	if err == nil {
		ready()
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	if failpoint.Crashed(ctx) {
		for _, s := range started {
			s.cancel(failpoint.ErrCrash) // all at once: nobody has time to say anything
		}
	}
	orderly := err == nil && !failpoint.Crashed(ctx)
	for _, s := range slices.Backward(started) {
		err = errors.Join(err, stop(s, orderly, drainMax, log))
	}
	return err
}

// start runs a part on a context of its own, so that it ends when its turn comes
// and not with ctx, and waits until it is ready.
func start(ctx context.Context, p Part, failed chan<- error, started *[]*running) error {
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	r := &running{Part: p, cancel: cancel, done: make(chan error, 1)}
	isReady := make(chan struct{})
	early := make(chan error, 1)
	go func() {
		err := p.Run(own, func() { close(isReady) })
		if own.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			err = fmt.Errorf("%s: %w", p.Name, err)
			early <- err
			failed <- err
		}
		r.done <- err
	}()
	*started = append(*started, r)
	select {
	case <-isReady:
		return nil
	case err := <-early:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func stop(r *running, orderly bool, drainMax time.Duration, log *slog.Logger) error {
	if orderly && r.Drain != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainMax)
		if err := r.Drain(ctx); err != nil {
			log.Warn("drain cut short", "step", r.Name, "err", err)
		}
		cancel()
	}
	r.cancel(nil)
	timer := time.NewTimer(stopMax)
	defer timer.Stop()
	select {
	case err := <-r.done:
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("%s: did not stop within %s", r.Name, stopMax)
	}
}
