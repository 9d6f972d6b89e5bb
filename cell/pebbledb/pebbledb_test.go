package pebbledb_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/cell/change"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/internal/problem"
	"parley/internal/topology"
)

var ref = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}

func open(t *testing.T, dir string) *pebbledb.DB {
	t.Helper()
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func claim(t *testing.T, s msglog.Store, from topology.Token) {
	t.Helper()
	if fs, err := s.Raise(t.Context(), "me", []msglog.Claim{{Shard: ref.Shard(), From: from}}); err != nil || fs[0].Token != from+1 {
		t.Fatalf("Raise: %v, %v", fs, err)
	}
}

func appendRow(t *testing.T, s msglog.Store, tok topology.Token, rev topology.Rev) error {
	t.Helper()
	row := msglog.Row{Rev: rev, Time: msglog.Time(tok, uint64(rev)), Blob: fmt.Appendf(nil, "row %d", rev)}
	return s.Append(t.Context(), ref.Shard(), tok, []msglog.Write{{Channel: ref, Rows: []msglog.Row{row}}})
}

// On the real disk: what was written is there for the next process.
func TestOpen_FindsWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	for turn := range topology.Rev(3) {
		db := open(t, dir)
		claim(t, db.Log(), topology.Token(turn))
		if err := appendRow(t, db.Log(), topology.Token(turn+1), turn+1); err != nil {
			t.Fatal(err)
		}
		rows, err := db.Log().Tail(t.Context(), ref, 1, 10)
		if err != nil || len(rows) != int(turn+1) {
			t.Fatalf("turn %d: %v, %v", turn, rows, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpen_Refusals(t *testing.T) {
	if _, err := pebbledb.Open(pebbledb.Config{}); !problem.Is(err, problem.Invalid) {
		t.Errorf("without a directory: %v", err)
	}
	dir := t.TempDir()
	db := open(t, dir)
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := pebbledb.Open(pebbledb.Config{Dir: dir}); !problem.Is(err, problem.Unavailable) {
		t.Errorf("a directory that is open already: %v", err)
	}
}

func TestClose_LaterCallsAreRefused(t *testing.T) {
	in, err := newInstance()
	if err != nil {
		t.Fatal(err)
	}
	claim(t, in.Store(), 0)
	var wg sync.WaitGroup
	for range 4 { // Close waits for what is under way
		wg.Go(func() {
			for rev := topology.Rev(1); ; rev++ {
				if err := appendRow(t, in.Store(), 1, rev); err != nil {
					if !problem.Is(err, problem.Unavailable) {
						t.Errorf("Append while closing: %v", err)
					}
					return
				}
			}
		})
	}
	for range 2 {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if _, err := in.Store().Fences(t.Context()); !problem.Is(err, problem.Unavailable) {
		t.Errorf("Fences after Close: %v", err)
	}
}

// Invariants 1 and 2 of DB: a disk that fails under many writers leaves none of
// them hanging and none with a success that is not on disk; afterwards every call
// is refused, and what was acked is there after a restart.
func TestDB_I1_FailureIsLatched(t *testing.T) {
	for _, cause := range []error{errDisk, fmt.Errorf("sync: %w", syscall.EIO)} {
		in, err := newInstance()
		if err != nil {
			t.Fatal(err)
		}
		claim(t, in.Store(), 0)
		const writers = 8
		var wg sync.WaitGroup
		acked := make([]topology.Rev, writers)
		started := make(chan struct{}, writers)
		for i := range writers {
			ch := ref
			ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
			wg.Go(func() {
				for rev := topology.Rev(1); ; rev++ {
					row := msglog.Row{Rev: rev, Time: msglog.Time(1, uint64(rev)), Blob: []byte(strings.Repeat("x", 200))}
					err := in.Store().Append(t.Context(), ch.Shard(), 1, []msglog.Write{{Channel: ch, Rows: []msglog.Row{row}}})
					if err != nil {
						if k := problem.KindOf(err); k != problem.Unknown && k != problem.Unavailable {
							t.Errorf("Append on a failing disk: %v", err)
						}
						return
					}
					acked[i] = rev
					if rev == 20 {
						started <- struct{}{}
					}
				}
			})
		}
		for range writers {
			<-started
		}
		in.broken.Store(&cause)
		wg.Wait()
		<-in.db.Failed()
		if !errors.Is(in.db.Err(), cause) {
			t.Errorf("the database failed for %v; want %v", in.db.Err(), cause)
		}
		for name, err := range map[string]error{
			"Append": appendRow(t, in.Store(), 1, 1), "Clean": in.Store().Clean(t.Context(), ref.Shard(), 1, ref, 1),
		} {
			if !problem.Is(err, problem.Unavailable) {
				t.Errorf("%s after the failure: %v; want kind unavailable", name, err)
			}
		}
		if _, err := in.Store().Fences(t.Context()); !problem.Is(err, problem.Unavailable) {
			t.Errorf("Fences after the failure: %v; want kind unavailable", err)
		}
		if err := in.Crash(); err != nil {
			t.Fatal(err)
		}
		for i := range writers {
			ch := ref
			ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
			rows, err := in.Store().Tail(t.Context(), ch, 1, 1<<20)
			if err != nil || len(rows) < int(acked[i]) {
				t.Errorf("writer %d was acked up to rev %d; %d rows are left, %v", i, acked[i], len(rows), err)
			}
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Invariant 3 of DB: on a disk that is full writes wait, whatever Pebble was about
// to do; new posts are refused at once, reads go on. With room again all goes on
// where it was, and a crash in between costs nothing that was acked.
func TestDB_I3_FullDiskIsOutlasted(t *testing.T) {
	const writers, value, revs = 8, 50_000, 150 // some four memtables in all
	for _, crash := range []bool{false, true} {
		in, err := newInstance()
		if err != nil {
			t.Fatal(err)
		}
		claim(t, in.Store(), 0)
		var wg sync.WaitGroup
		acked := make([]atomic.Uint64, writers)
		var done atomic.Int64
		row := func(rev topology.Rev) []msglog.Row {
			return []msglog.Row{{Rev: rev, Time: msglog.Time(1, uint64(rev)), Blob: make([]byte, value)}}
		}
		for i := range writers {
			ch := ref
			ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
			wg.Go(func() {
				for rev := topology.Rev(1); rev <= revs; {
					switch err := in.Store().Append(t.Context(), ch.Shard(), 1, []msglog.Write{{Channel: ch, Rows: row(rev)}}); {
					case err == nil:
						acked[i].Store(uint64(rev))
						done.Add(1)
						rev++
					case problem.Is(err, problem.Full):
						runtime.Gosched()
					default:
						if !crash {
							t.Errorf("rev %d: %v", rev, err)
						}
						return
					}
				}
			})
		}
		await(t, "enough posts", func() bool { return done.Load() > 300 })
		in.full.Store(true)
		// All writers may wait by now: who comes later is refused.
		tries := 0
		await(t, "a refusal", func() bool {
			ch := ref
			ch.Workspace = topology.WorkspaceID(fmt.Sprint("late", tries))
			tries++
			answer := make(chan error, 1)
			wg.Go(func() {
				answer <- in.Store().Append(t.Context(), ch.Shard(), 1, []msglog.Write{{Channel: ch, Rows: row(1)}})
			})
			select {
			case err := <-answer:
				return problem.Is(err, problem.Full)
			case <-time.After(50 * time.Millisecond): // it waits, too
				return false
			}
		})
		if rows, err := in.Store().Tail(t.Context(), topology.ChannelRef{Place: topology.Place{Workspace: "W0", Generation: 1}, Channel: ref.Channel}, 1, 1000); err != nil || len(rows) == 0 {
			t.Errorf("reading while the disk is full: %d rows, %v", len(rows), err)
		}
		if in.db.Err() != nil {
			t.Errorf("the database failed: %v", in.db.Err())
		}
		left := make([]uint64, writers)
		for i := range acked {
			left[i] = acked[i].Load()
		}
		if crash {
			err = in.Crash()
		} else {
			in.full.Store(false)
		}
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		for i := range writers {
			ch := ref
			ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
			want := left[i]
			if !crash {
				want = revs
			}
			if rows, err := in.Store().Tail(t.Context(), ch, 1, 1<<20); err != nil || uint64(len(rows)) < want {
				t.Errorf("writer %d was acked up to rev %d; %d rows are left, %v", i, want, len(rows), err)
			}
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// A disk that is nearly full takes no more posts, before the database fails; it
// still changes owners, and takes posts again when there is room.
func TestLog_NearlyFullDisk(t *testing.T) {
	in, err := newInstance()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	claim(t, in.Store(), 0)
	usage := func(free uint64) {
		in.mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 40, UsedBytes: 1<<40 - free})
	}
	usage(100 << 20)
	rev := topology.Rev(1)
	for err == nil && rev < 1000 { // it looks once a MiB
		row := msglog.Row{Rev: rev, Time: msglog.Time(1, uint64(rev)), Blob: make([]byte, 10_000)}
		if err = in.Store().Append(t.Context(), ref.Shard(), 1, []msglog.Write{{Channel: ref, Rows: []msglog.Row{row}}}); err == nil {
			rev++
		}
	}
	if !problem.Is(err, problem.Full) || rev > 200 {
		t.Fatalf("after %d posts: %v; want kind full", rev-1, err)
	}
	claim(t, in.Store(), 1)
	seal := msglog.Seal{Channel: ref, Above: rev - 1, Time: msglog.Time(2, 0)}
	if err := in.Store().Repair(t.Context(), ref.Shard(), 2, []msglog.Seal{seal}); err != nil {
		t.Fatalf("Repair: %v", err)
	}
	usage(1 << 30)
	if err := appendRow(t, in.Store(), 2, rev); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if rows, err := in.Store().Tail(t.Context(), ref, rev, 10); err != nil || len(rows) != 1 {
		t.Fatalf("Tail: %v, %v", rows, err)
	}
}

// What is remembered of channels is bounded, and what was forgotten is found
// again: rows above the head, below it, and whether the channel is dirty.
func TestLog_ManyChannels(t *testing.T) {
	in, err := newInstance()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	claim(t, in.Store(), 0)
	const channels = 700 // more than a shard remembers
	put := func(i int, rev topology.Rev, n uint64) {
		t.Helper()
		ch := ref
		ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
		row := msglog.Row{Rev: rev, Time: msglog.Time(1, n), Blob: fmt.Appendf(nil, "%d %d %d", i, rev, n)}
		if err := in.Store().Append(t.Context(), ch.Shard(), 1, []msglog.Write{{Channel: ch, Rows: []msglog.Row{row}}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range channels {
		put(i, 1, 5)
	}
	for i := range channels {
		put(i, 1, 4) // late: must not count
		put(i, 2, 6)
		if i%2 == 0 {
			ch := ref
			ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
			if err := in.Store().Clean(t.Context(), ref.Shard(), 1, ch, 2); err != nil {
				t.Fatal(err)
			}
		}
		if i%4 == 0 {
			put(i, 3, 7)
		}
	}
	dirty, err := in.Store().Dirty(t.Context(), ref.Shard())
	if err != nil || len(dirty) != channels/2+channels/4 {
		t.Fatalf("%d channels are dirty, %v; want %d", len(dirty), err, channels/2+channels/4)
	}
	for i := range channels {
		ch := ref
		ch.Workspace = topology.WorkspaceID(fmt.Sprint("W", i))
		rows, err := in.Store().Tail(t.Context(), ch, 1, 10)
		if err != nil || string(rows[0].Blob) != fmt.Sprintf("%d 1 5", i) || string(rows[1].Blob) != fmt.Sprintf("%d 2 6", i) {
			t.Fatalf("channel %d: %v, %v", i, rows, err)
		}
	}
}

// Invariant 2 of DB: the write that Pebble could not take says so itself, also
// when it is not synced and Pebble finds out late, and panics. The database can't
// be closed then, so the test is a process of its own.
func TestDB_I2_TheFailedWriteSaysSo(t *testing.T) {
	if os.Getenv("PARLEY_TEST_CHILD") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDB_I2_TheFailedWriteSaysSo$")
		cmd.Env = append(os.Environ(), "PARLEY_TEST_CHILD=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "as it should") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	in, err := newInstance()
	if err != nil {
		t.Fatal(err)
	}
	claim(t, in.Store(), 0)
	if err := in.Break(); err != nil {
		t.Fatal(err)
	}
	for n := 0; err == nil; n++ {
		if n == 1_000_000 {
			t.Fatal("a million writes to a broken disk, and no error")
		}
		err = in.Store().Clean(t.Context(), ref.Shard(), 1, ref, 1)
	}
	if !problem.Is(err, problem.Unknown) || !errors.Is(err, errDisk) {
		t.Fatalf("the first error was %v; want kind unknown, from the write itself", err)
	}
	if err := appendRow(t, in.Store(), 1, 1); !problem.Is(err, problem.Unavailable) {
		t.Fatalf("Append afterwards: %v; want kind unavailable", err)
	}
	if err := in.Close(); !problem.Is(err, problem.Unavailable) {
		t.Fatalf("Close: %v; want kind unavailable", err)
	}
	fmt.Println("as it should") //nolint:forbidigo // to the parent
	os.Exit(0)
}

// A crash keeps a part of what was not synced, any part: what was acked must be
// in each.
func TestDB_TornCrash(t *testing.T) {
	in, err := newInstance()
	if err != nil {
		t.Fatal(err)
	}
	claim(t, in.Store(), 0)
	for rev := topology.Rev(1); rev <= 60; rev++ {
		if err := appendRow(t, in.Store(), 1, rev); err != nil {
			t.Fatal(err)
		}
		if rev%5 != 0 {
			continue
		}
		in.tear(t, uint64(rev))
		rows, err := in.Store().Tail(t.Context(), ref, 1, 1000)
		if err != nil || len(rows) != int(rev) {
			t.Fatalf("acked %d rows, %d are left, %v", rev, len(rows), err)
		}
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkLog compares commits through the driver, 64 writers at once, with
// what Pebble does with bare synced sets of the same bytes, on the real disk.
func BenchmarkLog(b *testing.B) {
	const writers = 64
	blob := []byte(strings.Repeat("x", 250))
	b.Run("driver", func(b *testing.B) {
		db, err := pebbledb.Open(pebbledb.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		claims := make([]msglog.Claim, topology.Shards)
		for i := range claims {
			claims[i].Shard = topology.Shard(i)
		}
		if _, err := db.Log().Raise(b.Context(), "me", claims); err != nil {
			b.Fatal(err)
		}
		parallel(b, writers, func(i, n int) error {
			ch := topology.ChannelRef{Place: ref.Place, Channel: topology.ChannelID(fmt.Sprint("C", i))}
			row := msglog.Row{Rev: topology.Rev(n), Time: msglog.Time(1, uint64(n)), Blob: blob}
			return db.Log().Append(b.Context(), ch.Shard(), 1, []msglog.Write{{Channel: ch, Rows: []msglog.Row{row}}})
		})
	})
	b.Run("protocol", func(b *testing.B) { // with the encoding, and the fence read after each
		db, err := pebbledb.Open(pebbledb.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		l := msglog.NewLog(db.Log(), "me")
		holds := make([]*msglog.Hold, writers)
		chs := make([]topology.ChannelRef, writers)
		for i := range holds {
			chs[i] = topology.ChannelRef{Place: ref.Place, Channel: topology.ChannelID(fmt.Sprint("C", i))}
			for _, h := range holds[:i] {
				if h.Shard() == chs[i].Shard() {
					holds[i] = h
				}
			}
			if holds[i] == nil {
				hs, err := l.Take(b.Context(), []topology.Shard{chs[i].Shard()})
				if err != nil {
					b.Fatal(err)
				}
				holds[i] = hs[0]
			}
			if _, err := holds[i].Recover(b.Context(), chs[i], 1); err != nil {
				b.Fatal(err)
			}
		}
		parallel(b, writers, func(i, n int) error {
			c := change.Change{Rev: topology.Rev(n), Kind: change.Message, Seq: topology.Seq(n), Author: "U1", Text: string(blob)}
			return holds[i].Commit(b.Context(), []msglog.Batch{{Channel: chs[i], Changes: []change.Change{c}}})
		})
	})
	b.Run("barePebble", func(b *testing.B) {
		p, set := barePebble(b, vfs.Default)
		defer func() { _ = p.Close() }()
		parallel(b, writers, func(i, n int) error { return set(fmt.Appendf(nil, "l%08d%08d", i, n), blob) })
	})
}

// parallel runs b.N calls over so many writers; n counts from 1 in each.
func parallel(b *testing.B, writers int, do func(writer, n int) error) {
	b.Helper()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for n := 1; (n-1)*writers+i < b.N; n++ {
				if err := do(i, n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
