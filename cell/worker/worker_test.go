package worker_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/cell/pebbledb"
	"parley/cell/worker"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits for what should come soon.
const patience = 20 * time.Second

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// start runs a worker; stop ends it and waits for that.
func start(t *testing.T, w *worker.Worker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() { close(ready) }) }()
	<-ready
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func openEvents(t *testing.T) eventlog.Log {
	t.Helper()
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db.Events()
}

var general = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}

func revs(from, to topology.Rev) []eventlog.Event {
	var es []eventlog.Event
	for rev := from; rev <= to; rev++ {
		es = append(es, eventlog.Event{Channel: general, Rev: rev, Kind: change.Message})
	}
	return es
}

func add(t *testing.T, l eventlog.Log, p topology.Shard, es []eventlog.Event) {
	t.Helper()
	if err := l.Append(t.Context(), p, es); err != nil {
		t.Fatal(err)
	}
}

// record keeps what a worker handled.
type record struct {
	mu     sync.Mutex
	events []eventlog.Event
}

func (r *record) handle(_ context.Context, es []eventlog.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, es...)
	return nil
}

func (r *record) all() []eventlog.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]eventlog.Event(nil), r.events...)
}

func newWorker(t *testing.T, cfg worker.Config, deps worker.Deps) *worker.Worker {
	t.Helper()
	w, err := worker.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestNew_RefusesFaults(t *testing.T) {
	ok := worker.Deps{Events: openEvents(t), Handle: (&record{}).handle}
	for name, c := range map[string]struct {
		cfg  worker.Config
		deps worker.Deps
	}{
		"no group":         {worker.Config{}, ok},
		"batch":            {worker.Config{Group: "g", Batch: 10_001}, ok},
		"negative batch":   {worker.Config{Group: "g", Batch: -1}, ok},
		"active":           {worker.Config{Group: "g", Active: 129}, ok},
		"retry":            {worker.Config{Group: "g", RetryMax: time.Millisecond}, ok},
		"commit":           {worker.Config{Group: "g", CommitEvery: -1}, ok},
		"no such shard":    {worker.Config{Group: "g", Partitions: []topology.Shard{128}}, ok},
		"twice":            {worker.Config{Group: "g", Partitions: []topology.Shard{1, 2, 1}}, ok},
		"no log":           {worker.Config{Group: "g"}, worker.Deps{Handle: ok.Handle}},
		"nothing to do it": {worker.Config{Group: "g"}, worker.Deps{Events: ok.Events}},
	} {
		if _, err := worker.New(c.cfg, c.deps); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestRun_OnceInOrder: batches, repeats by the feeder, and a restart.
func TestRun_OnceInOrder(t *testing.T) {
	l := openEvents(t)
	var r record
	add(t, l, 3, revs(1, 10))
	add(t, l, 3, revs(4, 12))
	cfg := worker.Config{Group: "g", Batch: 7, CommitEvery: time.Hour}
	w := newWorker(t, cfg, worker.Deps{Events: l, Handle: r.handle})
	stop := start(t, w)
	eventually(t, "12 are handled", func() bool { return w.Handled() == 12 })
	add(t, l, 3, revs(9, 20))
	eventually(t, "20 are handled", func() bool { return w.Handled() == 20 })
	stop()
	if d := cmp.Diff(revs(1, 20), r.all()); d != "" {
		t.Fatalf("handled (-want +got):\n%s", d)
	}
	if at, err := l.Committed(t.Context(), "g", 3); err != nil || at != 31 {
		t.Fatalf("committed = %d, %v; want 31, by the stop", at, err)
	}

	add(t, l, 3, revs(21, 25))
	w = newWorker(t, cfg, worker.Deps{Events: l, Handle: r.handle})
	if lag, err := w.Lag(t.Context()); err != nil || lag != 5 {
		t.Fatalf("lag before the start = %d, %v; want 5", lag, err)
	}
	defer start(t, w)()
	eventually(t, "the rest is handled", func() bool { return w.Handled() == 5 })
	if d := cmp.Diff(revs(1, 25), r.all()); d != "" {
		t.Fatalf("handled (-want +got):\n%s", d)
	}
}

// TestRun_CommitsWhileIdle: a position is stored in time though nothing follows,
// and never before its effects.
func TestRun_CommitsWhileIdle(t *testing.T) {
	l := openEvents(t)
	var r record
	early := errors.New("committed before its effects")
	handle := func(ctx context.Context, es []eventlog.Event) error {
		at, err := l.Committed(ctx, "g", 3)
		if err != nil || int(at) > len(r.all()) {
			return errors.Join(err, early)
		}
		return r.handle(ctx, es)
	}
	w := newWorker(t, worker.Config{Group: "g", Batch: 3, CommitEvery: time.Millisecond}, worker.Deps{Events: l, Handle: handle})
	defer start(t, w)()
	for upTo := topology.Rev(10); upTo <= 50; upTo += 10 {
		add(t, l, 3, revs(upTo-9, upTo))
		eventually(t, "the position is stored", func() bool {
			at, err := l.Committed(t.Context(), "g", 3)
			return err == nil && topology.Rev(at) == upTo
		})
	}
	if n := w.Retries(); n != 0 {
		t.Errorf("%d batches failed", n)
	}
}

// TestRun_TriesAgain: a batch that fails comes again, whole, and others go on.
func TestRun_TriesAgain(t *testing.T) {
	l := openEvents(t)
	var r, other record
	var fails atomic.Int32
	fails.Store(4)
	handle := func(ctx context.Context, es []eventlog.Event) error {
		if es[0].Channel != general {
			return other.handle(ctx, es)
		}
		if fails.Add(-1) >= 0 {
			return problem.New(problem.Unavailable, "not now")
		}
		return r.handle(ctx, es)
	}
	w := newWorker(t, worker.Config{Group: "g", RetryMax: 50 * time.Millisecond}, worker.Deps{Events: l, Handle: handle})
	defer start(t, w)()
	add(t, l, 3, revs(1, 10))
	elsewhere := general
	elsewhere.Channel = "C2"
	add(t, l, 4, []eventlog.Event{{Channel: elsewhere, Rev: 1, Kind: change.Message}})
	eventually(t, "all is handled", func() bool { return w.Handled() == 11 })
	if d := cmp.Diff(revs(1, 10), r.all()); d != "" {
		t.Fatalf("handled (-want +got):\n%s", d)
	}
	if w.Retries() != 4 {
		t.Errorf("%d retries, want 4", w.Retries())
	}
}

// TestRun_ActiveBoundsTheWork: no more than Active batches at a time, but that many.
func TestRun_ActiveBoundsTheWork(t *testing.T) {
	const active = 3
	l := openEvents(t)
	for p := range topology.Shard(20) {
		add(t, l, p, revs(1, 2))
	}
	begun, let := make(chan struct{}, 20), make(chan struct{})
	var now, most atomic.Int32
	handle := func(ctx context.Context, _ []eventlog.Event) error {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		begun <- struct{}{}
		select {
		case <-let:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w := newWorker(t, worker.Config{Group: "g", Active: active}, worker.Deps{Events: l, Handle: handle})
	defer start(t, w)()
	for range active {
		<-begun
	}
	close(let)
	eventually(t, "all is handled", func() bool { return w.Handled() == 40 })
	if most.Load() != active {
		t.Errorf("%d batches at a time, want %d", most.Load(), active)
	}
}

// TestRun_StopsWithinAHandler: a stop reaches a handler that waits.
func TestRun_StopsWithinAHandler(t *testing.T) {
	l := openEvents(t)
	begun := make(chan struct{})
	w := newWorker(t, worker.Config{Group: "g"}, worker.Deps{Events: l, Handle: func(ctx context.Context, _ []eventlog.Event) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}})
	stop := start(t, w)
	add(t, l, 9, revs(1, 1))
	<-begun
	stop()
	if at, err := l.Committed(t.Context(), "g", 9); err != nil || at != 0 {
		t.Fatalf("committed = %d, %v; want 0", at, err)
	}
}

func TestCollect(t *testing.T) {
	l := openEvents(t)
	add(t, l, 3, revs(1, 9))
	var r record
	w := newWorker(t, worker.Config{Group: "g", Partitions: []topology.Shard{3}}, worker.Deps{Events: l, Handle: r.handle})
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(w); err != nil {
		t.Fatal(err)
	}
	values := func() map[string]float64 {
		fs, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range fs {
			m := f.GetMetric()[0]
			out[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return out
	}
	want := map[string]float64{"parley_worker_handled_total": 0, "parley_worker_retries_total": 0, "parley_worker_lag_events": 9}
	if d := cmp.Diff(want, values()); d != "" {
		t.Errorf("before (-want +got):\n%s", d)
	}
	defer start(t, w)()
	eventually(t, "all is handled", func() bool { return w.Handled() == 9 })
	want["parley_worker_handled_total"], want["parley_worker_lag_events"] = 9, 0
	eventually(t, "the lag is nothing", func() bool { return cmp.Equal(want, values()) })
}
