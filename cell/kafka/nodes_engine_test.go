//go:build engines

package kafka_test

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"parley/cell/eventlog"
	"parley/cell/kafka"
	"parley/cell/worker"
	"parley/internal/problem"
	"parley/internal/topology"
)

// engines breaks and mends nodes of the set under test.
func engines(t *testing.T, verb, node string) {
	t.Helper()
	script, set := os.Getenv("PARLEY_TEST_ENGINES"), os.Getenv("PARLEY_TEST_SET")
	if script == "" || set == "" {
		t.Fatal("PARLEY_TEST_ENGINES and PARLEY_TEST_SET are not set: run make test-engines")
	}
	out, err := exec.CommandContext(context.Background(), script, verb, set, node).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s %s: %v\n%s", script, verb, node, err, out)
	}
}

// threeNodes is a log on three brokers.
func threeNodes(t *testing.T) (kafka.Config, *kafka.DB) {
	t.Helper()
	cfg := newPrefix(t)
	if len(cfg.Brokers) < 3 {
		t.Fatalf("%s names %d brokers, 3 are needed: run make test-engines", addressVariable, len(cfg.Brokers))
	}
	cfg.AppendMax = 20 * time.Second
	return cfg, open(t, cfg)
}

// feeder appends to one partition without a pause, and again what failed.
type feeder struct {
	p        topology.Shard
	acked    topology.Rev
	failures []error
	worst    time.Duration
}

func (f *feeder) run(ctx context.Context, l eventlog.Log) {
	for ctx.Err() == nil {
		es := make([]eventlog.Event, 3)
		for i := range es {
			es[i] = eventlog.Event{Channel: channelOf(f.p), Rev: f.acked + topology.Rev(i+1), Kind: 1}
		}
		began := time.Now()
		err := l.Append(context.WithoutCancel(ctx), f.p, es)
		f.worst = max(f.worst, time.Since(began))
		if err != nil {
			f.failures = append(f.failures, err)
			continue
		}
		f.acked += topology.Rev(len(es))
	}
}

// had is what a worker was given; it fails when something is skipped.
type had struct {
	t  *testing.T
	mu sync.Mutex
	to map[topology.ChannelRef]topology.Rev
}

func (h *had) handle(_ context.Context, es []eventlog.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range es {
		if last := h.to[e.Channel]; e.Rev > last+1 {
			h.t.Errorf("%s: rev %d was handled after %d", e.Channel.Channel, e.Rev, last)
		}
		h.to[e.Channel] = max(h.to[e.Channel], e.Rev)
	}
	return nil
}

func (h *had) upTo(p topology.Shard) topology.Rev {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.to[channelOf(p)]
}

// consume runs a worker for as long as the test.
func consume(t *testing.T, l eventlog.Log) *had {
	t.Helper()
	h := &had{t: t, to: map[topology.ChannelRef]topology.Rev{}}
	w, err := worker.New(worker.Config{Group: testGroup}, worker.Deps{Events: l, Handle: h.handle})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(90 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// during lets load run for a while.
func during(d time.Duration) { <-time.After(d) }

// wantOnce wants a partition's events each once, in order.
func wantOnce(t *testing.T, l eventlog.Log, f *feeder) {
	t.Helper()
	var at eventlog.Position
	var last topology.Rev
	for {
		es, next, err := l.Read(t.Context(), f.p, at, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			break
		}
		at = next
		for _, e := range es {
			if e.Rev != last+1 {
				t.Fatalf("partition %d: rev %d follows %d", f.p, e.Rev, last)
			}
			last = e.Rev
		}
	}
	if last != f.acked {
		t.Errorf("partition %d ends at rev %d, %d were acknowledged", f.p, last, f.acked)
	}
}

// TestKafka_ThreeNodes_OneDies: no append fails, nothing is lost or there twice, and
// none waits much longer than the brokers take to choose other leaders. That is their
// session, and as long again and an election if the dead one led the controllers.
func TestKafka_ThreeNodes_OneDies(t *testing.T) {
	withoutOne(t, func() { engines(t, "kill", "kafka-2") }, func() { engines(t, "start", "kafka-2") })
}

// TestKafka_ThreeNodes_OneStandsStill: the same of one that takes requests and
// answers none.
func TestKafka_ThreeNodes_OneStandsStill(t *testing.T) {
	withoutOne(t, func() { engines(t, "stop", "kafka-3") }, func() { engines(t, "cont", "kafka-3") })
}

// stallMax is what the set's brokers need, 3 s of session and 3 s to elect a controller
// included, and what a busy machine adds.
const stallMax = 10 * time.Second

// withoutOne feeds partitions while a broker is away.
func withoutOne(t *testing.T, away, back func()) {
	t.Helper()
	_, db := threeNodes(t)
	l := db.Events()
	h := consume(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	var feeders []*feeder
	var all sync.WaitGroup
	for p := range topology.Shard(12) {
		f := &feeder{p: p}
		feeders = append(feeders, f)
		all.Go(func() { f.run(ctx, l) })
	}
	await(t, "something is handled", func() bool { return h.upTo(0) > 0 })
	away()
	during(15 * time.Second)
	back()
	during(3 * time.Second)
	cancel()
	all.Wait()
	var worst time.Duration
	events := topology.Rev(0)
	for _, f := range feeders {
		for _, err := range f.failures {
			t.Errorf("an append to partition %d failed: %v", f.p, err)
		}
		worst, events = max(worst, f.worst), events+f.acked
		await(t, "all is handled", func() bool { return h.upTo(f.p) == f.acked })
		wantOnce(t, l, f)
	}
	t.Logf("%d events; the longest append took %v", events, worst.Round(time.Millisecond))
	if worst > stallMax {
		t.Errorf("an append took %v", worst)
	}
}

// TestKafka_ThreeNodes_AllHang: every call ends in time, with the right kind, and
// all goes on by itself when the brokers do.
func TestKafka_ThreeNodes_AllHang(t *testing.T) {
	_, db := threeNodes(t)
	l := db.Events()
	h := consume(t, l)
	f := &feeder{p: 7}
	feed := func(want bool, limit time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		began := time.Now()
		es := []eventlog.Event{{Channel: channelOf(f.p), Rev: f.acked + 1, Kind: 1}}
		err := l.Append(ctx, f.p, es)
		if d := time.Since(began); d > limit+time.Second {
			t.Errorf("an append took %v, its deadline was after %v", d, limit)
		}
		if err == nil {
			f.acked++
		}
		if got := err == nil; got != want {
			t.Errorf("Append = %v", err)
		}
		if err != nil && !problem.Is(err, problem.Unknown) && !problem.Is(err, problem.Unavailable) {
			t.Errorf("Append = %v, want kind unknown or unavailable", err)
		}
	}
	for range 10 {
		feed(true, 10*time.Second)
	}
	await(t, "all is handled", func() bool { return h.upTo(f.p) == f.acked })
	t.Cleanup(func() { engines(t, "cont", "kafka") })
	engines(t, "stop", "kafka")
	for range 3 {
		feed(false, 2*time.Second)
	}
	for name, call := range map[string]func(context.Context) error{
		"Read":      func(ctx context.Context) error { _, _, err := l.Read(ctx, 9, 0, 10); return err },
		"End":       func(ctx context.Context) error { _, err := l.End(ctx, 9); return err },
		"Committed": func(ctx context.Context) error { _, err := l.Committed(ctx, "other", 9); return err },
		"Commit":    func(ctx context.Context) error { return l.Commit(ctx, "other", 9, 1) },
		"Wait":      func(ctx context.Context) error { return l.Wait(ctx, 9, 0) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		began := time.Now()
		err := call(ctx)
		cancel()
		if d := time.Since(began); !problem.Is(err, problem.Unavailable) || d > 3*time.Second {
			t.Errorf("%s = %v after %v, want kind unavailable after 2 s", name, err, d)
		}
	}
	engines(t, "cont", "kafka")
	began := time.Now()
	await(t, "appends succeed", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return l.Append(ctx, f.p, []eventlog.Event{{Channel: channelOf(f.p), Rev: f.acked + 1, Kind: 1}}) == nil
	})
	f.acked++
	t.Logf("the first append succeeded %v after the brokers went on", time.Since(began).Round(time.Millisecond))
	for range 10 {
		feed(true, 10*time.Second)
	}
	await(t, "all is handled", func() bool { return h.upTo(f.p) == f.acked })
	t.Logf("all was handled %v after the brokers went on", time.Since(began).Round(time.Millisecond))
}
