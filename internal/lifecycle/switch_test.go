package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/internal/lifecycle"
	"parley/internal/problem"
)

func TestSwitch_StopsAndStartsWhileTheRoleRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		quiet := slog.New(slog.DiscardHandler)
		sw := lifecycle.NewSwitch("s", time.Second, quiet, func() ([]lifecycle.Part, error) {
			return []lifecycle.Part{recorded(&log, "a"), recorded(&log, "b")}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- lifecycle.Run(ctx, func() {}, time.Second, quiet, recorded(&log, "base"), sw.Part()) }()
		synctest.Wait()
		for _, do := range []func(context.Context) error{sw.Start, sw.Stop, sw.Stop, sw.Start} { // twice is once
			if err := do(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if sw.State() != lifecycle.Serving {
			t.Errorf("the switch is %s", sw.State())
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		once := []string{"start a", "start b", "drain b", "stop b", "drain a", "stop a"}
		want := append(append([]string{"start base"}, once...), append(once, "drain base", "stop base")...)
		if d := cmp.Diff(want, log); d != "" {
			t.Error(d)
		}
		if sw.State() != lifecycle.Stopped {
			t.Errorf("the switch is %s", sw.State())
		}
	})
}

func TestSwitch_APartThatFailsEndsTheRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := make(chan struct{})
		boom := lifecycle.Part{Name: "boom", Run: func(_ context.Context, ready func()) error {
			ready()
			<-fail
			return errors.New("disk on fire")
		}}
		quiet := slog.New(slog.DiscardHandler)
		sw := lifecycle.NewSwitch("s", time.Second, quiet, func() ([]lifecycle.Part, error) { return []lifecycle.Part{boom}, nil })
		done := make(chan error, 1)
		go func() { done <- lifecycle.Run(t.Context(), func() {}, time.Second, quiet, sw.Part()) }()
		synctest.Wait()
		close(fail)
		if err := <-done; err == nil {
			t.Error("the role ended without an error")
		}
	})
}

func TestSwitch_AFailedStartLeavesItOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		var log []string
		quiet := slog.New(slog.DiscardHandler)
		sw := lifecycle.NewSwitch("s", time.Second, quiet, func() ([]lifecycle.Part, error) {
			if tries++; tries == 2 {
				return nil, errors.New("port in use")
			}
			return []lifecycle.Part{recorded(&log, "a")}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- lifecycle.Run(ctx, func() {}, time.Second, quiet, sw.Part()) }()
		synctest.Wait()
		if err := sw.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if err := sw.Start(ctx); err == nil || sw.State() != lifecycle.Stopped {
			t.Errorf("%v; the switch is %s", err, sw.State())
		}
		if err := sw.Start(ctx); err != nil || sw.State() != lifecycle.Serving {
			t.Errorf("%v; the switch is %s", err, sw.State())
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := sw.Stop(t.Context()); !problem.Is(err, problem.Unavailable) {
			t.Error(err)
		}
	})
}
