package msglogtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

func raiseMovesOrRefuses(t *testing.T, in Instance) {
	t.Helper()
	s := in.Store()
	raise := func(owner topology.ServerID, claims []msglog.Claim, want []msglog.Fence) {
		t.Helper()
		got, err := s.Raise(testContext(t), owner, claims)
		if err != nil || !cmp.Equal(got, want) {
			t.Fatalf("Raise(%s, %v) = %v, %v; want %v", owner, claims, got, err, want)
		}
	}
	raise("a", []msglog.Claim{{Shard: 5}, {Shard: 3}}, []msglog.Fence{{Shard: 5, Token: 1, Owner: "a"}, {Shard: 3, Token: 1, Owner: "a"}})
	// One claim is too late, the others of the call count.
	raise("b", []msglog.Claim{{Shard: 3, From: 1}, {Shard: 5, From: 0}, {Shard: 127, From: 0}},
		[]msglog.Fence{{Shard: 3, Token: 2, Owner: "b"}, {Shard: 5, Token: 1, Owner: "a"}, {Shard: 127, Token: 1, Owner: "b"}})
	// The same call again finds its claims won.
	raise("b", []msglog.Claim{{Shard: 3, From: 1}}, []msglog.Fence{{Shard: 3, Token: 2, Owner: "b"}})
	// A token from the future is not the present one.
	raise("c", []msglog.Claim{{Shard: 5, From: 7}}, []msglog.Fence{{Shard: 5, Token: 1, Owner: "a"}})
	// The holder may raise its own.
	raise("a", []msglog.Claim{{Shard: 5, From: 1}}, []msglog.Fence{{Shard: 5, Token: 2, Owner: "a"}})
}

func oneOfManyRaisesWins(t *testing.T, in Instance) {
	t.Helper()
	for turn := range topology.Token(20) {
		told := raceFor(t, in.Store(), turn)
		for _, sh := range []topology.Shard{1, 2} {
			present := fence(t, in.Store(), sh)
			if present.Token != turn+1 {
				t.Fatalf("shard %d is at token %d after all claimed it from %d", sh, present.Token, turn)
			}
			for _, f := range told {
				if f.Shard == sh && f != present {
					t.Fatalf("an owner was told %v, the fence is %v", f, present)
				}
			}
		}
	}
}

// raceFor lets four owners claim two shards at once, half of them in the other
// order, and gives all that they were told.
func raceFor(t *testing.T, s msglog.Store, from topology.Token) []msglog.Fence {
	t.Helper()
	ctx := testContext(t)
	var mu sync.Mutex
	var told []msglog.Fence
	var wg sync.WaitGroup
	for o := range 4 {
		wg.Go(func() {
			claims := []msglog.Claim{{Shard: 1, From: from}, {Shard: 2, From: from}}
			if o%2 == 1 {
				slices.Reverse(claims)
			}
			fs, err := s.Raise(ctx, topology.ServerID(fmt.Sprint("o", o)), claims)
			if err != nil {
				t.Errorf("Raise: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fs...)
		})
	}
	wg.Wait()
	return told
}

func raiseOutlivesACrash(t *testing.T, in Instance) {
	t.Helper()
	tok := raised(t, in.Store(), "a")
	crash(t, in)
	if f := fence(t, in.Store(), testShard); f.Token != tok || f.Owner != "a" {
		t.Fatalf("after a crash the fence is %v, not token %d of a", f, tok)
	}
}

// named is how a shard's fence is asked for the nth time: among all, by itself, or with
// others, of which many were never raised.
func named(sh topology.Shard, nth topology.Token) []topology.Shard {
	switch nth % 4 {
	case 0:
		return nil
	case 1:
		return []topology.Shard{sh}
	case 2:
		return []topology.Shard{topology.Shards - 1, sh, (sh + 1) % 4}
	default:
		many := make([]topology.Shard, topology.Shards)
		for i := range many {
			many[i] = topology.Shard(i)
		}
		return many
	}
}

func fencesSeeEveryRaise(t *testing.T, in Instance) {
	t.Helper()
	s, ctx := in.Store(), testContext(t)
	if fs, err := s.Fences(ctx); err != nil || len(fs) != 0 && slices.ContainsFunc(fs, func(f msglog.Fence) bool { return f.Token != 0 }) {
		t.Fatalf("Fences of an empty store: %v, %v", fs, err)
	}
	var wg sync.WaitGroup
	for sh := range topology.Shard(4) { // each raises its own and must see it at once
		wg.Go(func() {
			for from := range topology.Token(25) {
				if _, err := s.Raise(ctx, "a", []msglog.Claim{{Shard: sh, From: from}}); err != nil {
					t.Errorf("Raise: %v", err)
					return
				}
				fs, err := s.Fences(ctx, named(sh, from)...)
				i := slices.IndexFunc(fs, func(f msglog.Fence) bool { return f.Shard == sh })
				if err != nil || i < 0 || fs[i].Token != from+1 {
					t.Errorf("shard %d was raised to %d, Fences says %v, %v", sh, from+1, fs, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func appendOutlivesACrash(t *testing.T, in Instance) {
	t.Helper()
	tok := raised(t, in.Store(), "a")
	var a, b []msglog.Row
	for n := uint64(1); n <= 20; n++ {
		ra, rb := rows(topology.Rev(2*n-1), tok, n, fmt.Sprint("x", n), fmt.Sprint("y", n)), rows(topology.Rev(n), tok, n, fmt.Sprint("z", n))
		mustAppend(t, in.Store(), tok, msglog.Write{Channel: channel(0), Rows: ra}, msglog.Write{Channel: channel(1), Rows: rb})
		a, b = append(a, ra...), append(b, rb...)
		if n%5 == 0 {
			crash(t, in)
		}
	}
	wantTail(t, in.Store(), channel(0), a)
	wantTail(t, in.Store(), channel(1), b)
}

func higherTimeWins(t *testing.T, in Instance) {
	t.Helper()
	s := in.Store()
	tok := raised(t, s, "a")
	mustAppend(t, s, tok, write(channel(0), rows(1, tok, 1, "a1", "a2"))...)
	mustAppend(t, s, tok, write(channel(0), rows(1, tok, 3, "b1", "b2"))...)
	mustAppend(t, s, tok, write(channel(0), rows(2, tok, 2, "c2", "c3"))...)
	want := slices.Concat(rows(1, tok, 3, "b1", "b2"), rows(3, tok, 2, "c3"))
	wantTail(t, s, channel(0), want)
	crash(t, in)
	wantTail(t, in.Store(), channel(0), want)
	// Nor does a repair replace what is younger.
	mustRepair(t, in.Store(), tok, msglog.Seal{Channel: channel(0), Rows: rows(1, tok, 2, "d1", "d2", "d3"), Above: 3, Time: msglog.Time(tok, 0)})
	wantTail(t, in.Store(), channel(0), want)
}

func repeatChangesNothing(t *testing.T, in Instance) {
	t.Helper()
	tok := raised(t, in.Store(), "a")
	w := write(channel(0), rows(1, tok, 1, "a1", "a2"))
	for range 3 {
		mustAppend(t, in.Store(), tok, w...)
		crash(t, in)
	}
	wantTail(t, in.Store(), channel(0), w[0].Rows)
}

func visibleInPrefixOrder(t *testing.T, in Instance) {
	t.Helper()
	s, ctx := in.Store(), testContext(t)
	tok := raised(t, s, "a")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for seen := 0; ; {
			select {
			case <-done:
				return
			default:
			}
			rs, err := s.Tail(ctx, channel(0), 1, 1000)
			if err != nil || len(rs) < seen {
				t.Errorf("Tail: %d rows after %d, %v", len(rs), seen, err)
				return
			}
			for i, r := range rs {
				if r.Rev != topology.Rev(i+1) {
					t.Errorf("Tail has rev %d in place %d", r.Rev, i+1)
					return
				}
			}
			seen = len(rs)
		}
	})
	for n := range uint64(50) {
		mustAppend(t, s, tok, write(channel(0), rows(topology.Rev(4*n+1), tok, n+1, "a", "b", "c", "d"))...)
	}
	close(done)
	wg.Wait()
}

func manyAtOnce(t *testing.T, in Instance) {
	t.Helper()
	const writers, each = 8, 25
	s, ctx := in.Store(), testContext(t)
	tok := raised(t, s, "a")
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for k := range each {
				if err := s.Append(ctx, testShard, tok, write(channel(i), rows(topology.Rev(k+1), tok, uint64(k+1), fmt.Sprint(i, k)))); err != nil {
					t.Errorf("Append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	crash(t, in)
	for i := range writers {
		rs, err := in.Store().Tail(ctx, channel(i), 1, 1000)
		if err != nil || len(rs) != each {
			t.Fatalf("channel %d has %d rows, %v; want %d", i, len(rs), err, each)
		}
		for k, r := range rs {
			if string(r.Blob) != fmt.Sprint(i, k) {
				t.Fatalf("channel %d rev %d is %q", i, r.Rev, r.Blob)
			}
		}
	}
}

func failedAppend(t *testing.T, in Instance) {
	t.Helper()
	tok := raised(t, in.Store(), "a")
	mustAppend(t, in.Store(), tok, write(channel(0), rows(1, tok, 1, "kept"))...)
	if err := in.Break(); err != nil {
		t.Fatal(err)
	}
	w := write(channel(0), rows(2, tok, 2, "x", "y", "z"))
	for range 3 { // the store must not hang, nor call it done
		if err := in.Store().Append(testContext(t), testShard, tok, w); err == nil {
			t.Fatal("Append on a broken engine: no error")
		}
	}
	if _, err := in.Store().Raise(testContext(t), "b", []msglog.Claim{{Shard: testShard, From: tok}}); err == nil {
		t.Fatal("Raise on a broken engine: no error")
	}
	crash(t, in)
	rs, err := in.Store().Tail(testContext(t), channel(0), 1, 10)
	if err != nil || len(rs) == 0 || string(rs[0].Blob) != "kept" {
		t.Fatalf("after a failure the log has %v, %v", rs, err)
	}
	for i, r := range rs {
		if r.Rev != topology.Rev(i+1) {
			t.Fatalf("a failed write left a gap: %v", rs)
		}
	}
	if f := fence(t, in.Store(), testShard); f.Token != tok { // the failed Raise may count: then it is b's
		if f.Token != tok+1 || f.Owner != "b" {
			t.Fatalf("after a failure the fence is %v", f)
		}
		return
	}
	mustAppend(t, in.Store(), tok, w...)
	wantTail(t, in.Store(), channel(0), slices.Concat(rows(1, tok, 1, "kept"), w[0].Rows))
}

func badCallsAreRefused(t *testing.T, in Instance) {
	t.Helper()
	s, ctx := in.Store(), testContext(t)
	tok := raised(t, s, "a")
	other := topology.ChannelRef{Place: channel(0).Place, Channel: "C1"}
	for i := 2; other.Shard() == testShard; i++ {
		other.Channel = topology.ChannelID(fmt.Sprint("C", i))
	}
	for name, err := range map[string]error{
		"a channel of another shard": s.Append(ctx, testShard, tok, write(other, rows(1, tok, 1, "x"))),
		"a gap":                      s.Append(ctx, testShard, tok, write(channel(0), append(rows(1, tok, 1, "x"), rows(3, tok, 1, "y")...))),
		"rev 0":                      s.Append(ctx, testShard, tok, write(channel(0), rows(0, tok, 1, "x"))),
		"another token's time":       s.Append(ctx, testShard, tok, write(channel(0), rows(1, tok+1, 1, "x"))),
	} {
		if !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: %v; want kind invalid", name, err)
		}
	}
	wantTail(t, s, channel(0), nil)
}

func tailPages(t *testing.T, in Instance) {
	t.Helper()
	s, ctx := in.Store(), testContext(t)
	tok := raised(t, s, "a")
	all := rows(1, tok, 1, "1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
	mustAppend(t, s, tok, write(channel(0), all)...)
	for from := topology.Rev(1); from <= 12; from++ {
		for limit := -1; limit <= 12; limit++ {
			got, err := s.Tail(ctx, channel(0), from, limit)
			want := all[min(int(from)-1, len(all)):]
			want = want[:max(0, min(limit, len(want)))]
			if err != nil || !slices.EqualFunc(got, want, func(a, b msglog.Row) bool { return cmp.Equal(a, b) }) {
				t.Fatalf("Tail from %d limit %d = %v, %v", from, limit, got, err)
			}
		}
	}
	if got, err := s.Tail(ctx, channel(0), ^topology.Rev(0), 5); err != nil || len(got) != 0 {
		t.Fatalf("Tail from the last rev there can be: %v, %v", got, err)
	}
}

func oldestIsTheFirst(t *testing.T, in Instance) {
	t.Helper()
	s, ctx := in.Store(), testContext(t)
	tok := raised(t, s, "a")
	for _, blobs := range [][]string{nil, {"1"}, {"1", "2", "3"}} {
		if len(blobs) > 0 {
			mustAppend(t, s, tok, write(channel(0), rows(1, tok, 1, blobs...))...)
		}
		if rev, err := s.Oldest(ctx, channel(0)); err != nil || rev != 1 {
			t.Fatalf("of a log of %d rows the oldest is rev %d, %v", len(blobs), rev, err)
		}
	}
}

// partitionsApart uses names that run together, and numbers that lie next to
// each other, in keys.
func partitionsApart(t *testing.T, in Instance) {
	t.Helper()
	s := in.Store()
	tok := raised(t, s, "a")
	id := channel(0).Channel
	refs := []topology.ChannelRef{
		{Place: topology.Place{Workspace: "W", Generation: 1}, Channel: id},
		{Place: topology.Place{Workspace: "W", Generation: 2}, Channel: id},
		{Place: topology.Place{Workspace: "W\x00", Generation: 1}, Channel: id},
		{Place: topology.Place{Workspace: "WW", Generation: 1}, Channel: id},
		{Place: topology.Place{Workspace: "W", Generation: 1 << 56}, Channel: id},
		{Place: topology.Place{Workspace: "W", Generation: ^topology.Generation(0)}, Channel: id},
	}
	for i, ref := range refs {
		mustAppend(t, s, tok, write(ref, rows(1, tok, uint64(i+1), fmt.Sprint(i, "a"), fmt.Sprint(i, "b")))...)
	}
	for i, ref := range refs {
		wantTail(t, s, ref, rows(1, tok, uint64(i+1), fmt.Sprint(i, "a"), fmt.Sprint(i, "b")))
	}
	mustRepair(t, s, tok+0, msglog.Seal{Channel: refs[0], Above: 0, Time: msglog.Time(tok, 0)}) // deletes nothing: the rows are younger
	tok2 := raised(t, s, "b")
	mustRepair(t, s, tok2, msglog.Seal{Channel: refs[0], Above: 0, Time: msglog.Time(tok2, 0)})
	wantTail(t, s, refs[0], nil)
	for i, ref := range refs[1:] {
		wantTail(t, s, ref, rows(1, tok, uint64(i+2), fmt.Sprint(i+1, "a"), fmt.Sprint(i+1, "b")))
	}
}

func endedContext(t *testing.T, in Instance) {
	t.Helper()
	s := in.Store()
	tok := raised(t, s, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, testShard, tok, write(channel(0), rows(1, tok, 1, "x"))); err == nil {
		t.Error("Append under an ended context: no error")
	}
	if _, err := s.Fences(ctx); err == nil {
		t.Error("Fences under an ended context: no error")
	}
}
