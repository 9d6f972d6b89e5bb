// Package eventlogtest runs the contract of eventlog.Log, clause by clause,
// against a driver.
//
//nolint:thelper,gosec // clauses are tests, whose lines should be told; the numbers are small
package eventlogtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/internal/topology"
)

// Instance is one log under test, empty at first.
type Instance interface {
	// Log is the driver; after Crash it is another one.
	Log() eventlog.Log
	// Crash ends the driver's process without warning, as kill -9 or the
	// loss of power would, and opens again what is left.
	Crash() error
	// Age lets d pass as far as retention is concerned, and lets the driver
	// clean up. A driver that can't be aged returns errors.ErrUnsupported.
	Age(ctx context.Context, d time.Duration) error
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
		{"C1_AppendKeepsOrder", appendKeepsOrder},
		{"C1_AppendAgain", appendAgain},
		{"C1_PartitionsApart", partitionsApart},
		{"C1_ConcurrentAppends", concurrentAppends},
		{"C1_CrashLosesASuffix", crashLosesSuffix},
		{"C2_ReadLimits", readLimits},
		{"C2_ReadOfNothing", readOfNothing},
		{"C2_Retention", retention},
		{"C3_CommitIsDurable", commitIsDurable},
		{"C3_CommittedEventsAreDurable", committedEventsAreDurable},
		{"C3_GroupsApart", groupsApart},
		{"C4_WaitReturnsOnAppend", waitReturnsOnAppend},
		{"C4_WaitReturnsAtOnce", waitReturnsAtOnce},
		{"C4_WaitEndsWithContext", waitEndsWithContext},
		{"C5_EndIsTheNewest", endIsTheNewest},
	} {
		t.Run(s.name, func(t *testing.T) {
			in, err := h()
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			t.Cleanup(func() {
				if err := in.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			s.run(t, in)
		})
	}
	t.Run("Model", func(t *testing.T) { runModel(t, h) })
}

// tb is the part of testing.TB that rapid.T has, too.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// limit is above what any test appends.
const limit = 10_000

func channel(i int) topology.ChannelRef {
	return topology.ChannelRef{
		Place:   topology.Place{Workspace: "Wacme", Generation: topology.Generation(i % 2)},
		Channel: topology.ChannelID(fmt.Sprintf("C%d", i)),
	}
}

// events are n events of a few channels, from revs above from on.
func events(from, n int) []eventlog.Event {
	out := make([]eventlog.Event, n)
	for i := range out {
		out[i] = eventlog.Event{Channel: channel((from + i) % 5), Rev: topology.Rev(from + i + 1), Kind: change.Kind(i%5 + 1), Plain: i%3 == 0}
	}
	return out
}

func add(t tb, l eventlog.Log, p topology.Shard, es []eventlog.Event) {
	t.Helper()
	if err := l.Append(context.Background(), p, es); err != nil {
		t.Fatalf("Append: %v", err)
	}
}

func read(t tb, l eventlog.Log, p topology.Shard, after eventlog.Position, n int) ([]eventlog.Event, eventlog.Position) {
	t.Helper()
	es, last, err := l.Read(context.Background(), p, after, n)
	if err != nil {
		t.Fatalf("Read(%d, after %d): %v", p, after, err)
	}
	return es, last
}

// wantAll reads a partition in pages of n and wants these events, at positions
// 1, 2, 3 and so on.
func wantAll(t tb, l eventlog.Log, p topology.Shard, n int, want []eventlog.Event) {
	t.Helper()
	var got []eventlog.Event
	for after := eventlog.Position(0); ; {
		es, last := read(t, l, p, after, n)
		if len(es) == 0 {
			break
		}
		got = append(got, es...)
		if last != eventlog.Position(len(got)) {
			t.Fatalf("position after %d events = %d", len(got), last)
		}
		after = last
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("events of partition %d (-want +got):\n%s", p, d)
	}
}

func commit(t tb, l eventlog.Log, group string, p topology.Shard, pos eventlog.Position) {
	t.Helper()
	if err := l.Commit(context.Background(), group, p, pos); err != nil {
		t.Fatalf("Commit: %v", err)
	}
}

func wantCommitted(t tb, l eventlog.Log, group string, p topology.Shard, want eventlog.Position) {
	t.Helper()
	got, err := l.Committed(context.Background(), group, p)
	if err != nil {
		t.Fatalf("Committed: %v", err)
	}
	if got != want {
		t.Fatalf("committed of %s in %d = %d, want %d", group, p, got, want)
	}
}

func crash(t tb, in Instance) {
	t.Helper()
	if err := in.Crash(); err != nil {
		t.Fatalf("crash: %v", err)
	}
}

func appendKeepsOrder(t *testing.T, in Instance) {
	var want []eventlog.Event
	for _, n := range []int{1, 3, 0, 1500, 2} {
		es := events(len(want), n)
		add(t, in.Log(), 3, es)
		want = append(want, es...)
	}
	for _, n := range []int{1, 7, 512, limit} {
		wantAll(t, in.Log(), 3, n, want)
	}
}

func appendAgain(t *testing.T, in Instance) {
	es := events(0, 10)
	add(t, in.Log(), 0, es)
	add(t, in.Log(), 0, es[5:])
	wantAll(t, in.Log(), 0, 4, append(append([]eventlog.Event{}, es...), es[5:]...))
}

func partitionsApart(t *testing.T, in Instance) {
	for p := range topology.Shard(topology.Shards) {
		add(t, in.Log(), p, events(int(p), 3))
	}
	for p := range topology.Shard(topology.Shards) {
		wantAll(t, in.Log(), p, 2, events(int(p), 3))
	}
}

// concurrentAppends wants each call's events together and in order.
func concurrentAppends(t *testing.T, in Instance) {
	const writers, calls, each = 4, 25, 3
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for c := range calls {
				es := make([]eventlog.Event, each)
				for i := range es {
					es[i] = eventlog.Event{Channel: channel(w), Rev: topology.Rev(c*each + i + 1), Kind: change.Message}
				}
				if err := in.Log().Append(context.Background(), 9, es); err != nil {
					t.Errorf("Append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	es, last := read(t, in.Log(), 9, 0, limit)
	if len(es) != writers*calls*each || last != eventlog.Position(len(es)) {
		t.Fatalf("read %d events up to %d, want %d", len(es), last, writers*calls*each)
	}
	next := map[topology.ChannelRef]topology.Rev{}
	for i, e := range es {
		next[e.Channel]++
		if e.Rev != next[e.Channel] {
			t.Fatalf("event %d of %s has rev %d, want %d", i+1, e.Channel.Channel, e.Rev, next[e.Channel])
		}
		if i%each != 0 && e.Channel != es[i-1].Channel {
			t.Fatalf("event %d: another call's event stands within a call's", i+1)
		}
	}
}

// crashLosesSuffix wants whole calls, up to one of them, and fresh positions
// after those that are left.
func crashLosesSuffix(t *testing.T, in Instance) {
	const each = 4
	want := []eventlog.Event{}
	for range 10 {
		for range 3 {
			es := events(len(want), each)
			add(t, in.Log(), 1, es)
			want = append(want, es...)
		}
		crash(t, in)
		got, last := read(t, in.Log(), 1, 0, limit)
		if len(got)%each != 0 || len(got) > len(want) {
			t.Fatalf("%d events are left of %d, in calls of %d", len(got), len(want), each)
		}
		if int(last) != len(got) {
			t.Fatalf("position of the last of %d = %d", len(got), last)
		}
		want = want[:len(got)]
		wantAll(t, in.Log(), 1, 5, want)
	}
}

func readLimits(t *testing.T, in Instance) {
	want := events(0, 20)
	add(t, in.Log(), 2, want[:12])
	add(t, in.Log(), 2, want[12:])
	for after := range 22 {
		for _, n := range []int{-1, 0, 1, 5, limit} {
			es, last := read(t, in.Log(), 2, eventlog.Position(after), n)
			from := min(after, len(want))
			to := max(from, min(from+n, len(want)))
			if d := cmp.Diff(want[from:to], es, cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("Read(after %d, limit %d) (-want +got):\n%s", after, n, d)
			}
			if len(es) > 0 && last != eventlog.Position(to) {
				t.Fatalf("Read(after %d, limit %d): last = %d, want %d", after, n, last, to)
			}
			if len(es) == 0 && last != eventlog.Position(after) {
				t.Fatalf("Read(after %d, limit %d) of nothing: last = %d", after, n, last)
			}
		}
	}
}

func readOfNothing(t *testing.T, in Instance) {
	es, last := read(t, in.Log(), 7, 0, 10)
	if len(es) != 0 || last != 0 {
		t.Fatalf("an empty partition: %d events, last %d", len(es), last)
	}
	wantCommitted(t, in.Log(), "nobody", 7, 0)
}

func retention(t *testing.T, in Instance) {
	old, young := events(0, 700), events(700, 30)
	add(t, in.Log(), 5, old)
	add(t, in.Log(), 6, old) // nothing follows here
	commit(t, in.Log(), "g", 5, 3)
	switch err := in.Age(context.Background(), eventlog.Retention-time.Hour); {
	case errors.Is(err, errors.ErrUnsupported):
		t.Skip("the driver's clock can't be moved")
	case err != nil:
		t.Fatalf("Age: %v", err)
	}
	wantAll(t, in.Log(), 5, 100, old) // within the retention nothing goes
	add(t, in.Log(), 5, young)
	if err := in.Age(context.Background(), 2*time.Hour); err != nil {
		t.Fatalf("Age: %v", err)
	}
	// Old ones may be gone, young ones not, and positions stay what they were.
	es, last := read(t, in.Log(), 5, 0, limit)
	if len(es) < len(young) || int(last) != len(old)+len(young) {
		t.Fatalf("read %d events up to %d; want at least %d up to %d", len(es), last, len(young), len(old)+len(young))
	}
	if d := cmp.Diff(young, es[len(es)-len(young):]); d != "" {
		t.Fatalf("young events (-want +got):\n%s", d)
	}
	wantCommitted(t, in.Log(), "g", 5, 3)
	// Positions never go back, also where all events are too old, and after a restart.
	commit(t, in.Log(), "g", 6, 3) // what was cleaned up is durable with it
	crash(t, in)
	for range 2 {
		_, before := read(t, in.Log(), 6, 0, limit)
		add(t, in.Log(), 6, young[:1])
		if _, after := read(t, in.Log(), 6, eventlog.Position(len(old)), limit); before != 0 && after <= before {
			t.Fatalf("position went from %d to %d", before, after)
		}
	}
	if _, last := read(t, in.Log(), 6, 0, limit); int(last) != len(old)+2 {
		t.Fatalf("last position = %d, want %d", last, len(old)+2)
	}
}

func commitIsDurable(t *testing.T, in Instance) {
	add(t, in.Log(), 4, events(0, 50))
	for p := eventlog.Position(10); p <= 50; p += 10 {
		commit(t, in.Log(), "g", 4, p)
		crash(t, in)
		wantCommitted(t, in.Log(), "g", 4, p)
	}
}

// committedEventsAreDurable: were they lost, new events would take positions that
// the group believes to have had.
func committedEventsAreDurable(t *testing.T, in Instance) {
	want := events(0, 30)
	add(t, in.Log(), 4, want)
	commit(t, in.Log(), "g", 4, 30)
	crash(t, in)
	wantAll(t, in.Log(), 4, 7, want)
}

func groupsApart(t *testing.T, in Instance) {
	groups := []string{"a", "aa", "b"}
	add(t, in.Log(), 0, events(0, 9))
	add(t, in.Log(), 1, events(0, 9))
	for i, g := range groups {
		commit(t, in.Log(), g, 0, eventlog.Position(i+1))
		commit(t, in.Log(), g, 1, eventlog.Position(i+4))
	}
	for i, g := range groups {
		wantCommitted(t, in.Log(), g, 0, eventlog.Position(i+1))
		wantCommitted(t, in.Log(), g, 1, eventlog.Position(i+4))
		wantCommitted(t, in.Log(), g, 2, 0)
	}
}
