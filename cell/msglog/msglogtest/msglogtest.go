// Package msglogtest runs the contract of msglog.Store, clause by clause, against
// a driver, and the protocol of msglog.Log on that driver with its owners killed,
// paused and cut off at every call they make.
package msglogtest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Instance is one store under test, empty at first.
type Instance interface {
	// Store is the driver; after Crash it is another one.
	Store() msglog.Store
	// Crash ends the driver's process without warning, as kill -9 or the loss of
	// power would, and opens again what is left. Of an engine that is not in this
	// process, it ends the client and may restart the engine.
	Crash() error
	// Break makes the engine fail from now on (a disk that takes no more writes,
	// nodes that are gone) until the next Crash.
	Break() error
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
		{"C1_RaiseMovesOrRefuses", raiseMovesOrRefuses},
		{"C1_OneOfManyRaisesWins", oneOfManyRaisesWins},
		{"C1_RaiseOutlivesACrash", raiseOutlivesACrash},
		{"C2_FencesSeeEveryRaise", fencesSeeEveryRaise},
		{"C3_AppendOutlivesACrash", appendOutlivesACrash},
		{"C3_HigherTimeWins", higherTimeWins},
		{"C3_RepeatChangesNothing", repeatChangesNothing},
		{"C3_VisibleInPrefixOrder", visibleInPrefixOrder},
		{"C3_ManyAtOnce", manyAtOnce},
		{"C3_FailedAppendIsAllOrNothing", failedAppend},
		{"C3_BadCallsAreRefused", badCallsAreRefused},
		{"C4_TailPages", tailPages},
		{"C4_PartitionsAreApart", partitionsApart},
		{"C5_RepairSealsForGood", repairSealsForGood},
		{"C5_RepairKeepsItsOwn", repairKeepsItsOwn},
		{"C5_LateWritesAreBornDead", lateWritesAreBornDead},
		{"C6_DirtyNamesWhatWasWritten", dirtyNames},
		{"C6_CleanRespectsNewRows", cleanRespectsNewRows},
		{"C7_OldestIsTheFirst", oldestIsTheFirst},
		{"EndedContext", endedContext},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, open(t, h)) })
	}
	t.Run("Protocol", func(t *testing.T) { runProtocol(t, h) })
}

func open(t *testing.T, h Harness) Instance { //nolint:ireturn // drivers differ
	t.Helper()
	in, err := h()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return in
}

// callMax bounds a call of the store in these tests, so that one that hangs fails
// its test and not the whole run.
const callMax = 20 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callMax)
	t.Cleanup(cancel)
	return ctx
}

func crash(t *testing.T, in Instance) {
	t.Helper()
	if err := in.Crash(); err != nil {
		t.Fatalf("Crash: %v", err)
	}
}

// testShard is the shard of the tests' channels.
const testShard topology.Shard = 42

// channel gives channels that all lie in testShard.
func channel(i int) topology.ChannelRef {
	ref := topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 7}}
	for k := 0; ; k++ {
		ref.Channel = topology.ChannelID("C" + strconv.Itoa(k))
		if ref.Shard() != testShard {
			continue
		}
		if i == 0 {
			return ref
		}
		i--
	}
}

// raised takes the test shard for owner, and gives its token.
func raised(t *testing.T, s msglog.Store, owner topology.ServerID) topology.Token {
	t.Helper()
	from := fence(t, s, testShard).Token
	got, err := s.Raise(testContext(t), owner, []msglog.Claim{{Shard: testShard, From: from}})
	want := []msglog.Fence{{Shard: testShard, Token: from + 1, Owner: owner}}
	if err != nil || !cmp.Equal(got, want) {
		t.Fatalf("Raise: %v, %v; want %v", got, err, want)
	}
	return from + 1
}

func fence(t *testing.T, s msglog.Store, sh topology.Shard) msglog.Fence {
	t.Helper()
	all, err := s.Fences(testContext(t))
	if err != nil {
		t.Fatalf("Fences: %v", err)
	}
	for _, f := range all {
		if f.Shard == sh {
			return f
		}
	}
	return msglog.Fence{Shard: sh}
}

// rows makes rows with revs first … first+len(texts)-1, all of one write.
func rows(first topology.Rev, tok topology.Token, n uint64, texts ...string) []msglog.Row {
	var rs []msglog.Row
	for i, s := range texts {
		rs = append(rs, msglog.Row{Rev: first + topology.Rev(i), Time: msglog.Time(tok, n), Blob: []byte(s)})
	}
	return rs
}

func write(ch topology.ChannelRef, rs []msglog.Row) []msglog.Write {
	return []msglog.Write{{Channel: ch, Rows: rs}}
}

func mustAppend(t *testing.T, s msglog.Store, tok topology.Token, ws ...msglog.Write) {
	t.Helper()
	if err := s.Append(testContext(t), testShard, tok, ws); err != nil {
		t.Fatalf("Append: %v", err)
	}
}

func mustRepair(t *testing.T, s msglog.Store, tok topology.Token, seals ...msglog.Seal) {
	t.Helper()
	if err := s.Repair(testContext(t), testShard, tok, seals); err != nil {
		t.Fatalf("Repair: %v", err)
	}
}

// late makes a write of an owner that was cut off: refused or not, it must not
// count, which the caller looks at afterwards.
func late(t *testing.T, s msglog.Store, tok topology.Token, ch topology.ChannelRef, rs []msglog.Row) {
	t.Helper()
	if err := s.Append(testContext(t), testShard, tok, write(ch, rs)); err != nil && !problem.Is(err, problem.Fenced) {
		t.Fatalf("late Append: %v; want none, or kind fenced", err)
	}
}

func wantTail(t *testing.T, s msglog.Store, ch topology.ChannelRef, want []msglog.Row) {
	t.Helper()
	got, err := s.Tail(testContext(t), ch, 1, 1000)
	if err != nil {
		t.Fatalf("Tail: %v", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("Tail of %s (-want +got):\n%s", ch.Channel, d)
	}
}

func mustDirty(t *testing.T, s msglog.Store) map[topology.ChannelRef]bool {
	t.Helper()
	refs, err := s.Dirty(testContext(t), testShard)
	if err != nil {
		t.Fatalf("Dirty: %v", err)
	}
	set := make(map[topology.ChannelRef]bool)
	for _, r := range refs {
		set[r] = true
	}
	return set
}
