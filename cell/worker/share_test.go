package worker_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/cell/eventlog"
	"parley/cell/worker"
	"parley/internal/topology"
)

// shared is an event log that gives partitions as the test says.
type shared struct {
	eventlog.Log
	members chan eventlog.Member
}

func (s shared) Assign(ctx context.Context, _ string, m eventlog.Member) error {
	s.members <- m
	<-ctx.Done()
	m.Release([]topology.Shard{3, 4})
	return nil
}

func wantCommitted(t *testing.T, l eventlog.Log, p topology.Shard, want eventlog.Position) {
	t.Helper()
	if at, err := l.Committed(t.Context(), "g", p); err != nil || at != want {
		t.Fatalf("committed of %d = %d, %v; want %d", p, at, err, want)
	}
}

// TestShare_ConsumesWhatItIsGiven: what is released is committed when Release
// returns, what is lost is not, and what comes back goes on there.
func TestShare_ConsumesWhatItIsGiven(t *testing.T) {
	l := shared{openEvents(t), make(chan eventlog.Member)}
	var r record
	w := newWorker(t, worker.Config{Group: "g", CommitEvery: 1 << 40}, worker.Deps{Events: l, Handle: r.handle})
	stop := start(t, w)
	m := <-l.members
	add(t, l, 3, revs(1, 10))
	add(t, l, 5, revs(1, 10)) // nobody gave it
	m.Gain([]topology.Shard{3, 4})
	eventually(t, "10 are handled", func() bool { return w.Handled() == 10 })
	if lag, err := w.Lag(t.Context()); err != nil || lag != 0 {
		t.Errorf("lag = %d, %v; want that of its own partitions, 0", lag, err)
	}
	wantCommitted(t, l, 3, 0)
	m.Release([]topology.Shard{3})
	wantCommitted(t, l, 3, 10)

	add(t, l, 3, revs(11, 20))
	m.Gain([]topology.Shard{3})
	eventually(t, "20 are handled", func() bool { return w.Handled() == 20 })
	m.Lose([]topology.Shard{3})
	wantCommitted(t, l, 3, 10)
	add(t, l, 3, revs(21, 22))
	m.Gain([]topology.Shard{3})
	eventually(t, "10 come again, and 2 more", func() bool { return w.Handled() == 32 })
	stop()
	wantCommitted(t, l, 3, 22)
	want := append(revs(1, 20), revs(11, 22)...)
	if d := cmp.Diff(want, r.all()); d != "" {
		t.Errorf("handled (-want +got):\n%s", d)
	}
}

// TestShare_FixedPartitionsAreNotShared: who says which it wants gets those.
func TestShare_FixedPartitionsAreNotShared(t *testing.T) {
	l := shared{openEvents(t), make(chan eventlog.Member)}
	var r record
	add(t, l, 5, revs(1, 3))
	w := newWorker(t, worker.Config{Group: "g", Partitions: []topology.Shard{5}}, worker.Deps{Events: l, Handle: r.handle})
	defer start(t, w)()
	eventually(t, "3 are handled", func() bool { return w.Handled() == 3 })
}

// shut is an event log that lets nobody in at first.
type shut struct {
	shared
	refusals chan error
}

func (r shut) Assign(ctx context.Context, group string, m eventlog.Member) error {
	select {
	case err := <-r.refusals:
		return err
	default:
		return r.shared.Assign(ctx, group, m)
	}
}

// TestShare_JoinsAgain: a member that is thrown out comes back.
func TestShare_JoinsAgain(t *testing.T) {
	l := shut{shared{openEvents(t), make(chan eventlog.Member)}, make(chan error, 2)}
	l.refusals <- context.DeadlineExceeded
	l.refusals <- nil
	var r record
	w := newWorker(t, worker.Config{Group: "g"}, worker.Deps{Events: l, Handle: r.handle})
	defer start(t, w)()
	m := <-l.members
	add(t, l, 3, revs(1, 3))
	m.Gain([]topology.Shard{3})
	eventually(t, "3 are handled", func() bool { return w.Handled() == 3 })
	if w.Retries() != 2 {
		t.Errorf("%d retries, want 2", w.Retries())
	}
}
