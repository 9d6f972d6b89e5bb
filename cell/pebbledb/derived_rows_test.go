package pebbledb_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/pebbledb"
	"parley/internal/topology"
)

func busy(i int) topology.ChannelRef {
	return topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: topology.ChannelID(fmt.Sprintf("C%d", i))}
}

// posts are n messages of one author from a rev on, with one key each from key on.
func posts(from topology.Rev, n, key int, at time.Time, text string) []change.Change {
	out := make([]change.Change, n)
	for i := range out {
		rev := from + topology.Rev(i)
		out[i] = change.Change{
			Rev: rev, Seq: topology.Seq(rev), HeadSeq: topology.Seq(rev), Kind: change.Message, TS: at.UnixMicro() + int64(i),
			ID: change.NewID(at.UnixMilli(), 1, topology.Seq(rev), 0), Author: "U1", Text: text,
		}
		if key >= 0 {
			out[i].ClientMsgID = fmt.Sprintf("k%d", key+i)
		}
	}
	return out
}

func found(t *testing.T, db *pebbledb.DB, ch topology.ChannelRef, key int, now time.Time) bool {
	t.Helper()
	_, ok, err := db.History().Deduped(t.Context(), ch, "U1", fmt.Sprintf("k%d", key), now)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// TestHistory_ForgetsKeysAsNewOnesCome: nobody has to call Sweep.
func TestHistory_ForgetsKeysAsNewOnesCome(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d, err := newDerived(func() time.Time { return begin })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	ch := busy(1)
	rev := topology.Rev(1)
	apply := func(n, key int, at time.Time) {
		t.Helper()
		if err := d.db.History().Apply(t.Context(), []history.Batch{{Channel: ch, Changes: posts(rev, n, key, at, "text")}}); err != nil {
			t.Fatal(err)
		}
		rev += topology.Rev(n)
	}
	apply(500, 0, begin)
	if !found(t, d.db, ch, 0, begin) {
		t.Fatal("a young key is not there")
	}
	d.age = history.Window + time.Hour
	apply(3000, 1000, begin.Add(d.age))
	// Asked as of the past, a key that is still stored would be found.
	for key := range 500 {
		if found(t, d.db, ch, key, begin) {
			t.Fatalf("key %d is kept after its window", key)
		}
	}
	for key := 1000; key < 4000; key++ {
		if !found(t, d.db, ch, key, begin.Add(d.age)) {
			t.Fatalf("key %d is not there in its window", key)
		}
	}
}

// TestHistory_SweepBesideReuse: a key that is used again while a sweep forgets its
// first use is there afterwards.
func TestHistory_SweepBesideReuse(t *testing.T) {
	const channels, keys = 4, 300
	first := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	again := first.Add(2 * history.Window)
	d, err := newDerived(func() time.Time { return first })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	apply := func(ch topology.ChannelRef, cs []change.Change) {
		if err := d.db.History().Apply(context.Background(), []history.Batch{{Channel: ch, Changes: cs}}); err != nil {
			t.Errorf("Apply: %v", err)
		}
	}
	for i := range channels {
		apply(busy(i), posts(1, keys, 0, first, "once"))
	}
	var wg sync.WaitGroup
	for i := range channels {
		wg.Go(func() {
			cs := posts(keys+1, keys, 0, again, "again")
			for n := range cs {
				apply(busy(i), cs[n:n+1])
			}
		})
	}
	s, _ := d.db.History().(sweeper)
	for range 50 {
		if _, err := s.Sweep(t.Context(), again); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for i := range channels {
		for key := range keys {
			if !found(t, d.db, busy(i), key, again) {
				t.Fatalf("channel %d: key %d is forgotten in its window", i, key)
			}
		}
	}
}

// TestDerived_CrashKeepsTheFeedersOrder: a mark of what was emitted never outlives
// the events that it names.
func TestDerived_CrashKeepsTheFeedersOrder(t *testing.T) {
	d, err := newDerived(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	ch := busy(1)
	rev := topology.Rev(0)
	for range 24 {
		for range 5 {
			rev++
			at := time.Now()
			if err := d.db.History().Apply(t.Context(), []history.Batch{{Channel: ch, Changes: posts(rev, 1, 0, at, "text")}}); err != nil {
				t.Fatal(err)
			}
			if err := d.db.Events().Append(t.Context(), 1, []eventlog.Event{{Channel: ch, Rev: rev, Kind: change.Message}}); err != nil {
				t.Fatal(err)
			}
			if err := d.db.History().SetEmitted(t.Context(), ch, rev); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Crash(); err != nil {
			t.Fatal(err)
		}
		m, err := d.db.History().Mark(t.Context(), ch)
		if err != nil {
			t.Fatal(err)
		}
		es, _, err := d.db.Events().Read(t.Context(), 1, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var last topology.Rev
		for _, e := range es {
			last = max(last, e.Rev)
		}
		if m.Emitted > last || last > m.Applied {
			t.Fatalf("after a crash: applied %d, event %d, emitted mark %d", m.Applied, last, m.Emitted)
		}
		rev = max(m.Emitted, m.Applied)
	}
}

// TestEvents_TrimsAsItGrows: nobody has to call Trim, and one append trims a
// bounded number.
func TestEvents_TrimsAsItGrows(t *testing.T) {
	d, err := newDerived(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	add := func(n int) {
		t.Helper()
		es := make([]eventlog.Event, n)
		for i := range es {
			es[i] = eventlog.Event{Channel: busy(1), Rev: topology.Rev(i + 1), Kind: change.Message}
		}
		if err := d.db.Events().Append(t.Context(), 1, es); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int {
		t.Helper()
		es, _, err := d.db.Events().Read(t.Context(), 1, 0, 100_000)
		if err != nil {
			t.Fatal(err)
		}
		return len(es)
	}
	add(9000)
	if n := left(); n != 9000 {
		t.Fatalf("%d events are left of 9000 young ones", n)
	}
	d.age = eventlog.Retention + time.Minute
	for _, want := range []int{6000, 3000, 3000} {
		add(1000)
		if n := left(); n != want {
			t.Fatalf("%d events are left, want %d", n, want)
		}
	}
}

// BenchmarkHistory_Import applies batches as an import does.
func BenchmarkHistory_Import(b *testing.B) {
	const batch = 2000
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(b.TempDir(), "db"), FS: vfs.Default})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	text := "a message of ordinary length, as people write them: neither a word nor a page"
	rev := topology.Rev(1)
	for b.Loop() {
		cs := posts(rev, batch, -1, time.UnixMilli(1767225600000), text)
		if err := db.History().Apply(b.Context(), []history.Batch{{Channel: busy(1), Changes: cs}}); err != nil {
			b.Fatal(err)
		}
		rev += batch
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "messages/s")
}

// TestDerived_EmittedMarksOutliveAClose: they wait for a batch to go with, and are
// written in the end if none comes. One that overlaps takes none along.
func TestDerived_EmittedMarksOutliveAClose(t *testing.T) {
	d, err := newDerived(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	changes := posts(1, 3, 0, time.Now(), "text")
	for i := range 3 {
		batch := []history.Batch{{Channel: busy(i), Changes: changes}}
		if err := d.db.History().Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if err := d.db.History().SetEmitted(t.Context(), busy(i), 2); err != nil {
			t.Fatal(err)
		}
		if err := d.db.History().Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if m, err := d.db.History().Mark(t.Context(), busy(i)); err != nil || m.Applied != 3 || m.Emitted != 2 {
			t.Errorf("channel %d: %+v %v", i, m, err)
		}
	}
}
