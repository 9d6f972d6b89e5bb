// Package historytest runs the contract of history.Store, clause by clause,
// against a driver.
//
//nolint:gosec // the numbers are small
package historytest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Instance is one store under test, empty at first.
type Instance interface {
	// Store is the driver; after Crash it is another one.
	Store() history.Store
	// Crash ends the driver's process without warning, as kill -9 or the
	// loss of power would, and opens again what is left.
	Crash() error
	// Sweep lets the driver forget what it may at now.
	Sweep(ctx context.Context, now time.Time) error
	// Close releases everything.
	Close() error
}

// Harness makes instances.
type Harness func() (Instance, error)

// Run runs the contract. Each subtest is named after its clause.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, s := range []struct {
		name string
		run  func(*testing.T, Instance)
	}{
		{"C1_ApplyIsRepeatable", applyIsRepeatable},
		{"C1_GapIsRefused", gapIsRefused},
		{"C1_ManyChannelsInOneCall", manyChannels},
		{"C1_ConcurrentOverlaps", concurrentOverlaps},
		{"C2_CrashLosesOnlyWhatIsAboveTheMark", crashKeepsUpToMark},
		{"C3_EmittedOnlyRises", emittedOnlyRises},
		{"C3_EmittedAndApplyAreIndependent", emittedAndApply},
		{"C4_Pages", pages},
		{"C4_PageSeesWholeBatchesOnly", pageSeesWholeBatches},
		{"C5_Threads", threads},
		{"C6_Get", get},
		{"C7_DedupeWindow", dedupeWindow},
		{"C7_DedupeKeyIsPerAuthorAndChannel", dedupeScope},
		{"C7_SweepKeepsTheWindow", sweepKeepsWindow},
		{"NoLeakBetweenPartitions", partitionsApart},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, open(t, h)) })
	}
	t.Run("Model", func(t *testing.T) { runModel(t, h) })
}

func open(t *testing.T, h Harness) Instance { //nolint:ireturn // it is the harness that knows the type
	t.Helper()
	in, err := h()
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return in
}

// tb is the part of testing.TB that rapid.T has, too.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func ref(ws topology.WorkspaceID, g topology.Generation, ch topology.ChannelID) topology.ChannelRef {
	return topology.ChannelRef{Place: topology.Place{Workspace: ws, Generation: g}, Channel: ch}
}

// general is the channel that most tests use.
func general() topology.ChannelRef {
	return ref("W01ARZ3NDEKTSV4RRFFQ69G5FAV", 1, "C01ARZ3NDEKTSV4RRFFQ69G5FAV")
}

func apply(t tb, s history.Store, bs ...history.Batch) {
	t.Helper()
	if err := s.Apply(context.Background(), bs); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func mark(t tb, s history.Store, ch topology.ChannelRef) history.Mark {
	t.Helper()
	m, err := s.Mark(context.Background(), ch)
	if err != nil {
		t.Fatalf("Mark: %v", err)
	}
	return m
}

func wantMark(t tb, s history.Store, ch topology.ChannelRef, want history.Mark) {
	t.Helper()
	if d := cmp.Diff(want, mark(t, s, ch)); d != "" {
		t.Fatalf("mark (-want +got):\n%s", d)
	}
}

func wantPage(t tb, s history.Store, ch topology.ChannelRef, q history.PageQuery, v view) {
	t.Helper()
	got, err := s.Page(context.Background(), ch, q)
	if err != nil {
		t.Fatalf("Page(%+v): %v", q, err)
	}
	if d := cmp.Diff(v.page(q), got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("Page(%+v) (-want +got):\n%s", q, d)
	}
}

func wantThread(t tb, s history.Store, ch topology.ChannelRef, root, after topology.Seq, limit int, v view) {
	t.Helper()
	got, err := s.Thread(context.Background(), ch, root, after, limit)
	if err != nil {
		t.Fatalf("Thread(%d, after %d): %v", root, after, err)
	}
	if d := cmp.Diff(v.thread(root, after, limit), got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("Thread(%d, after %d, limit %d) (-want +got):\n%s", root, after, limit, d)
	}
}

func wantGet(t tb, s history.Store, ch topology.ChannelRef, seq topology.Seq, v view) {
	t.Helper()
	got, err := s.Get(context.Background(), ch, seq)
	if seq == 0 || int(seq) > len(v.messages) {
		if !problem.Is(err, problem.NotFound) {
			t.Fatalf("Get(%d) = %v, %v; want kind not_found", seq, got, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("Get(%d): %v", seq, err)
	}
	if d := cmp.Diff(v.messages[seq-1], got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("Get(%d) (-want +got):\n%s", seq, d)
	}
}

func wantDeduped(t tb, s history.Store, ch topology.ChannelRef, k dedupeKey, now time.Time, want history.Deduped, found bool) {
	t.Helper()
	got, ok, err := s.Deduped(context.Background(), ch, k.author, k.key, now)
	if err != nil {
		t.Fatalf("Deduped(%v): %v", k, err)
	}
	if ok != found {
		t.Fatalf("Deduped(%v) at %v: found = %v, want %v", k, now, ok, found)
	}
	if d := cmp.Diff(want, got); found && d != "" {
		t.Fatalf("Deduped(%v) (-want +got):\n%s", k, d)
	}
}

// wantView compares everything a store says of a channel with the model. Emitted
// is no part of it.
func wantView(t tb, s history.Store, ch topology.ChannelRef, v view) {
	t.Helper()
	got := mark(t, s, ch)
	got.Emitted = 0
	if d := cmp.Diff(v.mark, got); d != "" {
		t.Fatalf("mark (-want +got):\n%s", d)
	}
	all := len(v.messages) + 1
	wantPage(t, s, ch, history.PageQuery{Limit: all}, v)
	wantPage(t, s, ch, history.PageQuery{Forward: true, Limit: all}, v)
	for seq := topology.Seq(0); seq <= topology.Seq(all); seq++ {
		wantGet(t, s, ch, seq, v)
		wantThread(t, s, ch, seq, 0, len(v.threads[seq])+1, v)
	}
	for k, d := range v.keys {
		wantDeduped(t, s, ch, k, at(d.TS), d, true)
	}
}

// at is the moment of a timestamp.
func at(us int64) time.Time { return time.UnixMicro(us) }
