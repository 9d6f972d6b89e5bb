//nolint:thelper,gosec // clauses are tests, whose lines should be told; the numbers are small
package historytest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

// conversation is a log with messages, threads, members and keys in it.
func conversation(ch topology.ChannelRef, n int) *channelLog {
	l := newLog(ch, 7)
	l.joined("Uann", "outbox-1")
	var roots []topology.MessageID
	for i := range n {
		author := topology.UserID(fmt.Sprintf("U%d", i%3))
		if i%3 == 2 {
			l.reply(roots[i/2%len(roots)], author, fmt.Sprintf("reply %d", i), fmt.Sprintf("k%d", i))
			continue
		}
		roots = append(roots, l.message(author, fmt.Sprintf("message %d é", i), fmt.Sprintf("k%d", i)).ID)
	}
	l.message("Uimport", "without a key", "")
	return l
}

func applyIsRepeatable(t *testing.T, in Instance) {
	l := conversation(general(), 20)
	s := in.Store()
	apply(t, s, l.batch(1, 10))
	apply(t, s, l.batch(1, 10))
	wantView(t, s, l.ref, derive(l.changes[:10]))
	apply(t, s, l.batch(3, 8)) // wholly below the mark
	apply(t, s, l.batch(5, 15))
	wantView(t, s, l.ref, derive(l.changes[:15]))
	apply(t, s, l.all(), l.all())
	apply(t, s, history.Batch{Channel: l.ref})
	apply(t, s)
	wantView(t, s, l.ref, derive(l.changes))
}

func gapIsRefused(t *testing.T, in Instance) {
	l := conversation(general(), 12)
	s := in.Store()
	holed := l.all()
	holed.Changes = append(holed.Changes[:5:5], holed.Changes[6:]...)
	for name, b := range map[string]history.Batch{"first rev is not 1": l.batch(2, 5), "hole inside": holed} {
		if err := s.Apply(context.Background(), []history.Batch{b}); !problem.Is(err, problem.Conflict) {
			t.Fatalf("%s: err = %v, want kind conflict", name, err)
		}
		wantView(t, s, l.ref, derive(nil))
	}
	apply(t, s, l.batch(1, 4))
	if err := s.Apply(context.Background(), []history.Batch{l.batch(6, 9)}); !problem.Is(err, problem.Conflict) {
		t.Fatalf("gap after the mark: err = %v, want kind conflict", err)
	}
	wantView(t, s, l.ref, derive(l.changes[:4]))
}

func manyChannels(t *testing.T, in Instance) {
	var logs []*channelLog
	var bs []history.Batch
	for i := range 20 {
		l := conversation(ref("Wacme", 1, topology.ChannelID(fmt.Sprintf("C%d", i))), 6+i)
		logs, bs = append(logs, l), append(bs, l.batch(1, 4))
	}
	for _, l := range logs { // a channel may come twice in a call
		bs = append(bs, l.batch(5, topology.Rev(len(l.changes))))
	}
	apply(t, in.Store(), bs...)
	for _, l := range logs {
		wantView(t, in.Store(), l.ref, derive(l.changes))
	}
}

// concurrentOverlaps has an old and a new owner derive the same channel at once.
func concurrentOverlaps(t *testing.T, in Instance) {
	l := conversation(general(), 60)
	s := in.Store()
	head := topology.Rev(len(l.changes))
	var wg sync.WaitGroup
	for step := topology.Rev(1); step <= 5; step++ {
		wg.Go(func() {
			for from := topology.Rev(1); from <= head; from += step {
				b := l.batch(from, min(head, from+2*step))
				if err := s.Apply(context.Background(), []history.Batch{b}); err != nil {
					t.Errorf("Apply from %d: %v", from, err)
				}
			}
		})
		wg.Go(func() {
			for rev := topology.Rev(1); rev <= head; rev += step {
				if err := s.SetEmitted(context.Background(), l.ref, rev); err != nil {
					t.Errorf("SetEmitted(%d): %v", rev, err)
				}
			}
		})
	}
	wg.Wait()
	wantView(t, s, l.ref, derive(l.changes))
	if got := mark(t, s, l.ref).Emitted; got != head {
		t.Errorf("emitted = %d, want %d", got, head)
	}
}

func crashKeepsUpToMark(t *testing.T, in Instance) {
	l := conversation(general(), 40)
	head := topology.Rev(len(l.changes))
	for applied := topology.Rev(0); applied < head; {
		to := min(head, applied+7)
		apply(t, in.Store(), l.batch(applied+1, to))
		if err := in.Crash(); err != nil {
			t.Fatalf("crash: %v", err)
		}
		m := mark(t, in.Store(), l.ref)
		if m.Applied > to {
			t.Fatalf("applied = %d after a crash, never above %d before", m.Applied, to)
		}
		wantView(t, in.Store(), l.ref, derive(l.changes[:m.Applied]))
		apply(t, in.Store(), l.batch(m.Applied+1, to)) // the rest again
		applied = to
	}
	wantView(t, in.Store(), l.ref, derive(l.changes))
}

func emittedOnlyRises(t *testing.T, in Instance) {
	s := in.Store()
	wantMark(t, s, general(), history.Mark{})
	for _, rev := range []topology.Rev{5, 3, 9, 0, 9, 1} {
		if err := s.SetEmitted(context.Background(), general(), rev); err != nil {
			t.Fatalf("SetEmitted(%d): %v", rev, err)
		}
	}
	wantMark(t, s, general(), history.Mark{Emitted: 9})
}

func emittedAndApply(t *testing.T, in Instance) {
	l := conversation(general(), 9)
	s := in.Store()
	if err := s.SetEmitted(context.Background(), l.ref, 4); err != nil {
		t.Fatalf("SetEmitted: %v", err)
	}
	apply(t, s, l.all())
	want := derive(l.changes).mark
	want.Emitted = 4
	wantMark(t, s, l.ref, want)
	if err := s.SetEmitted(context.Background(), l.ref, 8); err != nil {
		t.Fatalf("SetEmitted: %v", err)
	}
	want.Emitted = 8
	wantMark(t, s, l.ref, want)
}

func pages(t *testing.T, in Instance) {
	l := conversation(general(), 60)
	s := in.Store()
	v := derive(nil)
	wantPage(t, s, l.ref, history.PageQuery{Limit: 10}, v)
	apply(t, s, l.all())
	v = derive(l.changes)
	n := topology.Seq(len(v.messages))
	for _, limit := range []int{-1, 0, 1, 2, 7, 1000} {
		wantPage(t, s, l.ref, history.PageQuery{Limit: limit}, v)
		for _, seq := range []topology.Seq{0, 1, 2, n - 1, n, n + 1, n + 100, 1 << 60} {
			wantPage(t, s, l.ref, history.PageQuery{Before: seq, Limit: limit}, v)
			wantPage(t, s, l.ref, history.PageQuery{Forward: true, After: seq, Limit: limit}, v)
		}
	}
}

// pageSeesWholeBatches reads while batches of a message with its replies go in: a
// reader finds a message with all of a batch's replies counted, or none.
func pageSeesWholeBatches(t *testing.T, in Instance) {
	const messages, replies = 30, 4
	l := newLog(general(), 7)
	s := in.Store()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(done)
		for range messages {
			m := l.message("Uann", "root", "")
			for range replies {
				l.reply(m.ID, "Ubob", "reply", "")
			}
			b := l.batch(m.Rev, m.Rev+replies)
			if err := s.Apply(context.Background(), []history.Batch{b}); err != nil {
				t.Errorf("Apply: %v", err)
				return
			}
		}
	})
	for {
		ms, err := s.Page(context.Background(), l.ref, history.PageQuery{Limit: messages + 1})
		if err != nil {
			t.Fatalf("Page: %v", err)
		}
		for i, m := range ms {
			if m.ReplyCount != replies || m.Seq != topology.Seq(len(ms)-i) {
				t.Fatalf("message %d at place %d of %d has %d replies, want %d", m.Seq, i, len(ms), m.ReplyCount, replies)
			}
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func threads(t *testing.T, in Instance) {
	l := newLog(general(), 7)
	root, quiet := l.message("Uann", "root", ""), l.message("Uann", "quiet", "")
	for i := range 25 {
		l.reply(root.ID, "Ubob", fmt.Sprintf("reply %d", i), "")
	}
	apply(t, in.Store(), l.all())
	v := derive(l.changes)
	for _, after := range []topology.Seq{0, 1, 24, 25, 26, 1 << 60} {
		for _, limit := range []int{-1, 0, 1, 10, 100} {
			wantThread(t, in.Store(), l.ref, root.Seq, after, limit, v)
		}
	}
	wantThread(t, in.Store(), l.ref, quiet.Seq, 0, 10, v)
	wantThread(t, in.Store(), l.ref, quiet.Seq+1, 0, 10, v)
}

func get(t *testing.T, in Instance) {
	l := conversation(general(), 12)
	wantGet(t, in.Store(), l.ref, 1, derive(nil))
	apply(t, in.Store(), l.all())
	v := derive(l.changes)
	for seq := range topology.Seq(len(v.messages) + 3) {
		wantGet(t, in.Store(), l.ref, seq, v)
	}
}

func dedupeWindow(t *testing.T, in Instance) {
	l := newLog(general(), 7)
	s := in.Store()
	k := dedupeKey{"Uann", "key"}
	wantDeduped(t, s, l.ref, k, at(startTS), history.Deduped{}, false)
	first := l.message(k.author, "one", k.key)
	apply(t, s, l.all())
	want := derive(l.changes).keys[k]
	wantDeduped(t, s, l.ref, k, at(first.TS), want, true)
	wantDeduped(t, s, l.ref, k, at(first.TS).Add(-time.Hour), want, true) // the channel's clock is ahead
	wantDeduped(t, s, l.ref, k, at(first.TS).Add(-1000*time.Hour), want, true)
	wantDeduped(t, s, l.ref, k, at(first.TS).Add(history.Window-time.Microsecond), want, true)
	wantDeduped(t, s, l.ref, k, at(first.TS).Add(history.Window), history.Deduped{}, false)

	// The key is free again after the window, and names the later message then.
	l.ts += history.Window.Microseconds()
	again := l.reply(first.ID, k.author, "two", k.key)
	apply(t, s, l.all())
	want = derive(l.changes).keys[k]
	wantDeduped(t, s, l.ref, k, at(again.TS), want, true)
	if want.Kind != change.Reply || want.Hash != history.HashBody(first.ID, "two") {
		t.Fatalf("the model is wrong: %+v", want)
	}
}

func dedupeScope(t *testing.T, in Instance) {
	l, other := newLog(general(), 7), newLog(ref("Wacme", 1, "Cother"), 8)
	c := l.message("Uann", "one", "key")
	l.message("Uann", "two", "")
	other.message("Ubob", "three", "key")
	apply(t, in.Store(), l.all(), other.all())
	now := at(c.TS)
	wantDeduped(t, in.Store(), l.ref, dedupeKey{"Uann", "key"}, now, derive(l.changes).keys[dedupeKey{"Uann", "key"}], true)
	for _, k := range []dedupeKey{{"Ubob", "key"}, {"Uann", "ke"}, {"Uann", "key1"}, {"Uannk", "ey"}, {"Uann", ""}} {
		wantDeduped(t, in.Store(), l.ref, k, now, history.Deduped{}, false)
	}
	wantDeduped(t, in.Store(), other.ref, dedupeKey{"Uann", "key"}, now, history.Deduped{}, false)
}

func sweepKeepsWindow(t *testing.T, in Instance) {
	l := newLog(general(), 7)
	for i := range 100 { // an hour apart: over four windows
		l.ts += time.Hour.Microseconds()
		l.message("Uann", "text", fmt.Sprintf("k%d", i))
	}
	apply(t, in.Store(), l.all())
	v := derive(l.changes)
	for _, hours := range []int{0, 30, 60, 90, 130, 1000} {
		now := at(startTS).Add(time.Duration(hours) * time.Hour)
		if err := in.Sweep(context.Background(), now); err != nil {
			t.Fatalf("Sweep: %v", err)
		}
		for k, d := range v.keys {
			wantDeduped(t, in.Store(), l.ref, k, now, d, now.Sub(at(d.TS)) < history.Window)
		}
	}
	wantPage(t, in.Store(), l.ref, history.PageQuery{Limit: 200}, v) // messages stay for good
}

// partitionsApart uses ids of which one begins like the other, and generations
// and numbers at the edges of their encodings.
func partitionsApart(t *testing.T, in Instance) {
	var logs []*channelLog
	for i, r := range []topology.ChannelRef{
		ref("W", 1, "C"), ref("W", 2, "C"), ref("W", 256, "C"), ref("W", 1<<63, "C"),
		ref("W1", 1, "C"), ref("W", 1, "C1"), ref("W1", 1, "C1"), ref("WC", 1, "C"), ref("W", 1, "CC"),
		general(),
	} {
		logs = append(logs, conversation(r, 5+i))
	}
	for i, l := range logs {
		wantView(t, in.Store(), l.ref, derive(nil))
		apply(t, in.Store(), l.all())
		if i%3 == 0 {
			if err := in.Sweep(context.Background(), at(startTS)); err != nil {
				t.Fatalf("Sweep: %v", err)
			}
		}
	}
	for _, l := range logs {
		wantView(t, in.Store(), l.ref, derive(l.changes))
	}
}
