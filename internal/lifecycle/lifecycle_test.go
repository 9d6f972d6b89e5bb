package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/internal/lifecycle"
)

func recorded(log *[]string, name string) lifecycle.Part {
	return lifecycle.Part{
		Name: name,
		Run: func(ctx context.Context, ready func()) error {
			*log = append(*log, "start "+name)
			ready()
			<-ctx.Done()
			*log = append(*log, "stop "+name)
			return nil
		},
		Drain: func(context.Context) error {
			*log = append(*log, "drain "+name)
			return nil
		},
	}
}

func TestRun_StartsInOrderAndStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		ctx, cancel := context.WithCancel(t.Context())
		err := lifecycle.Run(ctx, func() { log = append(log, "ready"); cancel() }, time.Second, slog.New(slog.DiscardHandler),
			recorded(&log, "a"), recorded(&log, "b"))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"start a", "start b", "ready", "drain b", "stop b", "drain a", "stop a"}
		if d := cmp.Diff(want, log); d != "" {
			t.Error(d)
		}
	})
}

func TestRun_AFailureStopsTheOthersWithoutDrain(t *testing.T) {
	for _, when := range []string{"before ready", "after ready"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log []string
				boom := lifecycle.Part{Name: "boom", Run: func(_ context.Context, ready func()) error {
					if when == "after ready" {
						ready()
						<-time.After(time.Minute)
					}
					return errors.New("disk on fire")
				}}
				err := lifecycle.Run(t.Context(), func() {}, time.Second, slog.New(slog.DiscardHandler), recorded(&log, "a"), boom)
				if err == nil || !strings.Contains(err.Error(), "boom: disk on fire") {
					t.Errorf("error does not name the part and the cause: %v", err)
				}
				if d := cmp.Diff([]string{"start a", "stop a"}, log); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

func TestRun_APartThatDoesNotStopIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := lifecycle.Part{Name: "stuck", Run: func(_ context.Context, ready func()) error {
			ready()
			<-release
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		err := lifecycle.Run(ctx, cancel, time.Second, slog.New(slog.DiscardHandler), stuck)
		if err == nil || !strings.Contains(err.Error(), "stuck: did not stop within") {
			t.Errorf("want a report, got %v", err)
		}
		close(release)
	})
}
