package msglogtest

import (
	"slices"
	"testing"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

func repairSealsForGood(t *testing.T, in Instance) {
	t.Helper()
	s := in.Store()
	t1 := raised(t, s, "a")
	mustAppend(t, s, t1, write(channel(0), rows(1, t1, 1, "a", "b", "c", "d"))...)
	mustAppend(t, s, t1, write(channel(1), rows(1, t1, 2, "e"))...)
	t2 := raised(t, s, "b")
	seals := []msglog.Seal{
		{Channel: channel(0), Rows: rows(2, t2, 1, "b"), Above: 2, Time: msglog.Time(t2, 0)},
		{Channel: channel(1), Rows: nil, Above: 0, Time: msglog.Time(t2, 0)},
	}
	want := slices.Concat(rows(1, t1, 1, "a"), rows(2, t2, 1, "b"))
	for range 2 { // repeatable, before and after a crash
		mustRepair(t, in.Store(), t2, seals...)
		wantTail(t, in.Store(), channel(0), want)
		wantTail(t, in.Store(), channel(1), nil)
		crash(t, in)
		wantTail(t, in.Store(), channel(0), want)
		wantTail(t, in.Store(), channel(1), nil)
	}
	// The log goes on above the seal.
	mustAppend(t, in.Store(), t2, write(channel(0), rows(3, t2, 2, "C"))...)
	wantTail(t, in.Store(), channel(0), append(want, rows(3, t2, 2, "C")...))
}

func repairKeepsItsOwn(t *testing.T, in Instance) {
	t.Helper()
	s := in.Store()
	t1 := raised(t, s, "a")
	mustAppend(t, s, t1, write(channel(0), rows(1, t1, 1, "a", "b"))...)
	t2 := raised(t, s, "b")
	seal := msglog.Seal{Channel: channel(0), Rows: rows(1, t2, 1, "a"), Above: 1, Time: msglog.Time(t2, 0)}
	mustRepair(t, s, t2, seal)
	mustAppend(t, s, t2, write(channel(0), rows(2, t2, 2, "B", "C"))...)
	mustRepair(t, s, t2, seal) // the first call's duplicate, late
	want := slices.Concat(rows(1, t2, 1, "a"), rows(2, t2, 2, "B", "C"))
	wantTail(t, s, channel(0), want)
	crash(t, in)
	wantTail(t, in.Store(), channel(0), want)
}

func lateWritesAreBornDead(t *testing.T, in Instance) {
	t.Helper()
	t1 := raised(t, in.Store(), "a")
	mustAppend(t, in.Store(), t1, write(channel(0), rows(1, t1, 1, "a", "b"))...)
	t2 := raised(t, in.Store(), "b")
	mustRepair(t, in.Store(), t2, msglog.Seal{Channel: channel(0), Rows: rows(1, t2, 1, "a", "b"), Above: 2, Time: msglog.Time(t2, 0)})
	want := rows(1, t2, 1, "a", "b")
	for range 2 {
		late(t, in.Store(), t1, channel(0), rows(3, t1, 2, "x", "y"))          // above the seal
		late(t, in.Store(), t1, channel(0), rows(2, t1, 9, "X", "Y"))          // across it
		late(t, in.Store(), t1, channel(0), rows(1, t1, 99, "Z"))              // below it
		err := in.Store().Repair(testContext(t), testShard, t1, []msglog.Seal{ // and an old takeover
			{Channel: channel(0), Rows: nil, Above: 0, Time: msglog.Time(t1, 0)},
		})
		if err != nil && !problem.Is(err, problem.Fenced) {
			t.Fatalf("late Repair: %v; want none, or kind fenced", err)
		}
		wantTail(t, in.Store(), channel(0), want)
		crash(t, in)
		wantTail(t, in.Store(), channel(0), want)
	}
	t3 := raised(t, in.Store(), "c") // a second seal above the first
	mustRepair(t, in.Store(), t3, msglog.Seal{Channel: channel(0), Rows: rows(2, t3, 1, "b"), Above: 2, Time: msglog.Time(t3, 0)})
	late(t, in.Store(), t2, channel(0), rows(3, t2, 3, "x"))
	late(t, in.Store(), t1, channel(0), rows(3, t1, 3, "y"))
	wantTail(t, in.Store(), channel(0), slices.Concat(rows(1, t2, 1, "a"), rows(2, t3, 1, "b")))
}

func dirtyNames(t *testing.T, in Instance) {
	t.Helper()
	tok := raised(t, in.Store(), "a")
	mustAppend(t, in.Store(), tok, write(channel(0), rows(1, tok, 1, "a"))...)
	mustAppend(t, in.Store(), tok, write(channel(1), rows(1, tok, 2, "b"))...)
	crash(t, in)
	dirty := mustDirty(t, in.Store())
	for i := range 2 {
		if !dirty[channel(i)] {
			t.Fatalf("channel %d was written to and is not on the list: %v", i, dirty)
		}
	}
	others, err := in.Store().Dirty(testContext(t), (testShard+1)%topology.Shards)
	if err != nil || len(others) != 0 {
		t.Fatalf("Dirty of a shard without writes: %v, %v", others, err)
	}
}

func cleanRespectsNewRows(t *testing.T, in Instance) {
	t.Helper()
	s, ctx := in.Store(), testContext(t)
	t1 := raised(t, s, "a")
	clean := func(tok topology.Token, upTo topology.Rev, kinds ...problem.Kind) {
		t.Helper()
		err := in.Store().Clean(ctx, testShard, tok, channel(0), upTo)
		if err != nil && !slices.Contains(kinds, problem.KindOf(err)) {
			t.Fatalf("Clean up to %d: %v", upTo, err)
		}
	}
	mustAppend(t, s, t1, write(channel(0), rows(1, t1, 1, "a", "b"))...)
	clean(t1, 1)
	if !mustDirty(t, s)[channel(0)] {
		t.Fatal("cleaned up to rev 1, rev 2 is forgotten")
	}
	t2 := raised(t, s, "b")
	clean(t1, 2, problem.Fenced)
	if !mustDirty(t, s)[channel(0)] {
		t.Fatal("an owner that was cut off cleaned a channel")
	}
	clean(t2, 2)
	if mustDirty(t, s)[channel(0)] {
		t.Fatal("cleaned up to its last rev, and still on the list")
	}
	mustAppend(t, s, t2, write(channel(0), rows(3, t2, 1, "c"))...)
	crash(t, in)
	if !mustDirty(t, in.Store())[channel(0)] {
		t.Fatal("written to after it was cleaned, and not on the list")
	}
}
