//go:build engines

package cassandra_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"parley/cell/cassandra"
	"parley/cell/change"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/internal/ids"
	"parley/internal/problem"
	"parley/internal/topology"
)

var ref = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}

// posts are n messages from a rev on.
func posts(from topology.Rev, n int, at time.Time, text string) []change.Change {
	out := make([]change.Change, n)
	for i := range out {
		rev := from + topology.Rev(i)
		out[i] = change.Change{
			Rev: rev, Seq: topology.Seq(rev), HeadSeq: topology.Seq(rev), Kind: change.Message, TS: at.UnixMicro() + int64(i),
			ID: change.NewID(at.UnixMilli(), 1, topology.Seq(rev), 0), Author: "U1", Text: text, ClientMsgID: fmt.Sprint("k", rev),
		}
	}
	return out
}

func write(ch topology.ChannelRef, tok topology.Token, n uint64, cs []change.Change) []msglog.Write {
	rows := make([]msglog.Row, len(cs))
	for i, c := range cs {
		rows[i] = msglog.Row{Rev: c.Rev, Time: msglog.Time(tok, n), Blob: c.Append(nil)}
	}
	return []msglog.Write{{Channel: ch, Rows: rows}}
}

func raise(tb testing.TB, s msglog.Store, from topology.Token) topology.Token {
	tb.Helper()
	fs, err := s.Raise(tb.Context(), "me", []msglog.Claim{{Shard: ref.Shard(), From: from}})
	if err != nil || fs[0].Token != from+1 || fs[0].Owner != "me" {
		tb.Fatalf("Raise: %v, %v", fs, err)
	}
	return from + 1
}

// All 128 fences move in one call, and none of a call whose claims are all late.
func TestCassandra_Raise_AWholeCell(t *testing.T) {
	db := openTest(t, keyspace(t))
	claims := make([]msglog.Claim, topology.Shards)
	for i := range claims {
		claims[i].Shard = topology.Shard(i)
	}
	for _, owner := range []topology.ServerID{"a", "b"} { // b comes too late for all
		fs, err := db.Log().Raise(t.Context(), owner, claims)
		if err != nil || len(fs) != topology.Shards {
			t.Fatalf("Raise: %d fences, %v", len(fs), err)
		}
		for i, f := range fs {
			if f != (msglog.Fence{Shard: topology.Shard(i), Token: 1, Owner: "a"}) {
				t.Fatalf("%s: fence %v", owner, f)
			}
		}
	}
	for name, claims := range map[string][]msglog.Claim{
		"twice": {{Shard: 1, From: 1}, {Shard: 1, From: 2}}, "no shard": {{Shard: topology.Shards}}, "last token": {{From: 1 << 23}},
	} {
		if _, err := db.Log().Raise(t.Context(), "c", claims); !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: %v; want kind invalid", name, err)
		}
	}
}

// Old buckets go once they are derived and out of the retention, not before, and
// nothing that comes late is stored there.
func TestCassandra_Trim(t *testing.T) {
	const rows = 4
	cfg := keyspace(t)
	now := time.Now()
	db, err := cassandra.Connect(t.Context(), cfg, "cell", rows, nil, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tok := raise(t, db.Log(), 0)
	n := uint64(0)
	post := func(from topology.Rev, count int, at time.Time) []change.Change {
		t.Helper()
		n++
		cs := posts(from, count, at, "text")
		if err := db.Log().Append(t.Context(), ref.Shard(), tok, write(ref, tok, n, cs)); err != nil {
			t.Fatal(err)
		}
		return cs
	}
	left := func() (revs []int64) {
		t.Helper()
		it := db.Session().Query("SELECT rev FROM log").Iter()
		for rev := int64(0); it.Scan(&rev); {
			revs = append(revs, rev)
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
		return revs
	}
	derive := func(cs []change.Change, emitted topology.Rev) {
		t.Helper()
		if err := db.History().Apply(t.Context(), []history.Batch{{Channel: ref, Changes: cs}}); err != nil {
			t.Fatal(err)
		}
		if err := db.History().SetEmitted(t.Context(), ref, emitted); err != nil {
			t.Fatal(err)
		}
	}
	old := now.Add(-31 * 24 * time.Hour)
	cs := post(1, 10, old)
	cs = append(cs, post(11, 4, now.Add(-29*24*time.Hour))...) // buckets 2 and 3
	derive(cs, 5)                                              // bucket 0 may go, bucket 1 is not emitted
	post(15, 1, now)                                           // the last of bucket 3: looks for old ones
	await(t, func() bool { return len(left()) == 12 }, "bucket 0 to go")
	derive(posts(15, 1, now, "text"), 15)
	post(16, 4, now) // bucket 1 may go; bucket 2 has young changes
	await(t, func() bool { return len(left()) == 12 }, "bucket 1 to go")
	if err := db.Log().Append(t.Context(), ref.Shard(), tok, write(ref, tok, 1, posts(1, 3, old, "late"))); err != nil {
		t.Fatal(err)
	}
	for _, rev := range left() {
		if rev < 8 {
			t.Errorf("rev %d is in a bucket that was dropped", rev)
		}
	}
	oldest, err := db.Log().Oldest(t.Context(), ref)
	if err != nil || oldest != 8 {
		t.Errorf("the log begins with rev %d, %v", oldest, err)
	}
	if got, err := db.Log().Tail(t.Context(), ref, oldest, 100); err != nil || len(got) != 12 || got[0].Rev != oldest {
		t.Errorf("Tail of what is left: %d rows, %v", len(got), err)
	}
}

// An import's changes are old when they come.
func TestCassandra_TrimLeavesAnImport(t *testing.T) {
	const rows = 4
	cfg := keyspace(t)
	db, err := cassandra.Connect(t.Context(), cfg, "cell", rows, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	imported, other := ref, ref
	imported.Channel, other.Channel = topology.ChannelID(ids.New(ids.Channel)), "C2"
	tokens := map[topology.Shard]topology.Token{}
	long := time.Now().Add(-20 * 365 * 24 * time.Hour)
	for _, ch := range []topology.ChannelRef{imported, other} { // the trimmer looks at one after the other
		fs, err := db.Log().Raise(t.Context(), "me", []msglog.Claim{{Shard: ch.Shard(), From: tokens[ch.Shard()]}})
		if err != nil {
			t.Fatal(err)
		}
		tok := fs[0].Token
		tokens[ch.Shard()] = tok
		cs := posts(1, 10, long, "text")
		if err := db.Log().Append(t.Context(), ch.Shard(), tok, write(ch, tok, 1, cs)); err != nil {
			t.Fatal(err)
		}
		if err := db.History().Apply(t.Context(), []history.Batch{{Channel: ch, Changes: cs}}); err != nil {
			t.Fatal(err)
		}
		if err := db.History().SetEmitted(t.Context(), ch, 10); err != nil {
			t.Fatal(err)
		}
		if err := db.Log().Append(t.Context(), ch.Shard(), tok, write(ch, tok, 2, posts(11, 4, long, "text"))); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool {
		got, err := db.Log().Tail(t.Context(), other, 1, 1)
		return err == nil && len(got) == 0
	}, "an old channel's first bucket to go")
	if got, err := db.Log().Tail(t.Context(), imported, 1, 100); err != nil || len(got) != 14 {
		t.Errorf("of 14 changes of an import %d are left, %v", len(got), err)
	}
}

// await waits for what happens in the background.
func await(t *testing.T, ok func() bool, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A write of an owner that was cut off is dead in whatever later bucket it comes to
// lie, also when the log reaches that bucket long after.
func TestCassandra_LateWritesInLaterBuckets(t *testing.T) {
	const rows = 4
	cfg := keyspace(t)
	db, err := cassandra.Connect(t.Context(), cfg, "cell", rows, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, now := db.Log(), time.Now()
	t1 := raise(t, s, 0)
	late := func() {
		t.Helper()
		if err := s.Append(t.Context(), ref.Shard(), t1, write(ref, t1, 9, posts(3, 30, now, "late"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Append(t.Context(), ref.Shard(), t1, write(ref, t1, 1, posts(1, 2, now, "kept"))); err != nil {
		t.Fatal(err)
	}
	late()
	t2 := raise(t, s, t1)
	seal := msglog.Seal{Channel: ref, Rows: write(ref, t2, 1, posts(1, 2, now, "kept"))[0].Rows, Above: 2, Time: msglog.Time(t2, 0)}
	if err := s.Repair(t.Context(), ref.Shard(), t2, []msglog.Seal{seal}); err != nil {
		t.Fatal(err)
	}
	for rev := topology.Rev(3); rev <= 40; rev++ {
		if rev%3 == 0 {
			late()
		}
		if err := s.Append(t.Context(), ref.Shard(), t2, write(ref, t2, uint64(rev), posts(rev, 1, now, "kept"))); err != nil {
			t.Fatal(err)
		}
		got, err := s.Tail(t.Context(), ref, 1, 100)
		if err != nil || len(got) != int(rev) {
			t.Fatalf("after rev %d the log has %d rows, %v", rev, len(got), err)
		}
		for _, r := range got {
			if c, err := change.Decode(r.Blob); err != nil || c.Text != "kept" {
				t.Fatalf("rev %d is %q, %v", r.Rev, c.Text, err)
			}
		}
	}
}

// The longest change there may be is stored, many of them in one call, and what is
// longer is refused before anything is written.
func TestCassandra_LongChanges(t *testing.T) {
	db := openTest(t, keyspace(t))
	s := db.Log()
	tok := raise(t, s, 0)
	row := func(rev topology.Rev, size int) msglog.Row {
		return msglog.Row{Rev: rev, Time: msglog.Time(tok, uint64(rev)), Blob: []byte(strings.Repeat("x", size))}
	}
	rows := []msglog.Row{row(1, 3<<20), row(2, 400<<10), row(3, 400<<10), row(4, 10), row(5, 3<<20)}
	if err := s.Append(t.Context(), ref.Shard(), tok, []msglog.Write{{Channel: ref, Rows: rows}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Tail(t.Context(), ref, 1, 10)
	if err != nil || len(got) != len(rows) || len(got[4].Blob) != 3<<20 {
		t.Fatalf("%d rows, %v", len(got), err)
	}
	err = s.Append(t.Context(), ref.Shard(), tok, []msglog.Write{{Channel: ref, Rows: []msglog.Row{row(6, 10), row(7, 3<<20+1)}}})
	if !problem.Is(err, problem.TooLarge) {
		t.Errorf("a longer one: %v; want kind too_large", err)
	}
	if got, err := s.Tail(t.Context(), ref, 6, 10); err != nil || len(got) != 0 {
		t.Errorf("something of the refused call is there: %d rows, %v", len(got), err)
	}
}

// A page for which everything is asked: pages over many buckets, from any end.
func TestCassandra_Page_ManyBuckets(t *testing.T) {
	const n = 150
	cfg := keyspace(t)
	db, err := cassandra.Connect(t.Context(), cfg, "cell", 8, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	h := db.History()
	if err := h.Apply(t.Context(), []history.Batch{{Channel: ref, Changes: posts(1, n, time.Now(), "text")}}); err != nil {
		t.Fatal(err)
	}
	for _, q := range []history.PageQuery{
		{Limit: 50},
		{Limit: 1000},
		{Before: 77, Limit: 50},
		{Before: 8, Limit: 50},
		{Before: math.MaxUint64, Limit: 50},
		{Before: 160, Limit: 50},
		{Forward: true, Limit: 50},
		{Forward: true, After: 77, Limit: 50},
		{Forward: true, After: 7, Limit: 1000},
		{Forward: true, After: math.MaxUint64, Limit: 3},
	} {
		got, err := h.Page(t.Context(), ref, q)
		if err != nil {
			t.Fatalf("Page(%+v): %v", q, err)
		}
		var want []topology.Seq
		if q.Forward {
			for seq := q.After + 1; seq > q.After && seq <= n && len(want) < q.Limit; seq++ {
				want = append(want, seq)
			}
		} else {
			end := topology.Seq(n + 1)
			if q.Before > 0 {
				end = min(end, q.Before)
			}
			for seq := end - 1; seq > 0 && len(want) < q.Limit; seq-- {
				want = append(want, seq)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("Page(%+v) has %d messages, want %d", q, len(got), len(want))
		}
		for i, m := range got {
			if m.Seq != want[i] {
				t.Fatalf("Page(%+v) has message %d at %d, want %d", q, m.Seq, i, want[i])
			}
		}
	}
}
