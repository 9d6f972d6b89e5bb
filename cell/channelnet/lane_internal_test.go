package channelnet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
)

func ping() *cellv1.Call { return &cellv1.Call{Ask: &cellv1.Call_Ping{Ping: &cellv1.Ping{}}} }

// asking starts a request and gives its outcome.
func (l *lane) asking(ctx context.Context, changes bool) chan error {
	done := make(chan error, 1)
	go func() {
		_, err := l.ask(ctx, ping(), changes)
		done <- err
	}()
	synctest.Wait()
	return done
}

func want(t *testing.T, what string, err error, k problem.Kind) {
	t.Helper()
	if !problem.Is(err, k) {
		t.Errorf("%s: got %v, want kind %s", what, err, k)
	}
}

func TestLane_OneWhatACutMeans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane()
		read, change := l.asking(t.Context(), false), l.asking(t.Context(), true)
		if m := l.next(); len(m.GetCalls()) != 2 {
			t.Fatalf("%d calls in one message", len(m.GetCalls()))
		}
		unsent := l.asking(t.Context(), true)
		l.end(errors.New("cut"))
		want(t, "a reading that has left", <-read, problem.NotOwner)
		want(t, "a change that has left", <-change, problem.Unknown)
		want(t, "a change that has not left", <-unsent, problem.NotOwner)
		want(t, "one after the end", <-l.asking(t.Context(), true), problem.NotOwner)
	})
}

func TestLane_OneWhatGivingUpMeans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		read, change := l.asking(ctx, false), l.asking(ctx, true)
		m := l.next()
		if us := m.GetCalls()[0].GetWaitUs(); us != 1_000_000 {
			t.Errorf("the callee may take %d µs", us)
		}
		unsent := l.asking(ctx, true)
		want(t, "a reading that has left", <-read, problem.Unavailable)
		want(t, "a change that has left", <-change, problem.Unknown)
		want(t, "a change that has not left", <-unsent, problem.Unavailable)
		if m := l.next(); len(m.GetGivenUp()) != 2 || len(m.GetCalls()) != 0 {
			t.Errorf("the callee is told of %v, and asked %v", m.GetGivenUp(), m.GetCalls())
		}
		l.deliver([]*cellv1.Answer{{Number: 1}, {Number: 2}, {Number: 99}}) // too late: dropped
	})
}

func TestLane_ManyRemindersAreOne(t *testing.T) {
	l := newLane()
	for range 1000 {
		l.remind("cs-1")
	}
	l.remind("cs-2")
	if n := len(l.next().GetCalls()); n != 2 {
		t.Errorf("%d reminders", n)
	}
	if l.next() != nil {
		t.Error("there is more")
	}
}

func TestLane_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := newLane()
		var all []chan error
		for range waitingMax {
			done := make(chan error, 1)
			go func() { _, err := l.ask(ctx, ping(), true); done <- err }()
			all = append(all, done)
		}
		synctest.Wait()
		want(t, "one too many", <-l.asking(ctx, true), problem.Unavailable)
		big := ping()
		big.Server = make([]byte, requestBytesMax)
		_, err := l.ask(ctx, big, true)
		want(t, "one too large", err, problem.TooLarge)
		cancel()
		for _, done := range all {
			if err := <-done; err == nil {
				t.Error("a request to nobody was answered")
			}
		}
		if len(l.waiting) != 0 || l.bytes != 0 {
			t.Errorf("%d requests with %d bytes are left", len(l.waiting), l.bytes)
		}
	})
}
