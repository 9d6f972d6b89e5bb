package msglog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	place  = topology.Place{Workspace: "W1", Generation: 1}
	chA    = topology.ChannelRef{Place: place, Channel: "A"}
	shardA = chA.Shard()
)

// double is a store that does what the test tells it, and keeps what it was asked.
type double struct {
	mu      sync.Mutex
	fences  map[topology.Shard]msglog.Fence
	rows    map[topology.ChannelRef][]msglog.Row
	appends [][]msglog.Write
	seals   []msglog.Seal
	reads   int

	onRaise  func(n int) error // of call n, from 1; after it was done
	onAppend func(ctx context.Context, n int) error
	onFences func(ctx context.Context, n int) error
	onRepair func(n int) error
	raises   int
}

func newDouble() *double {
	return &double{fences: make(map[topology.Shard]msglog.Fence), rows: make(map[topology.ChannelRef][]msglog.Row)}
}

func (d *double) Raise(_ context.Context, owner topology.ServerID, claims []msglog.Claim) ([]msglog.Fence, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var now []msglog.Fence
	for _, c := range claims {
		f := d.fences[c.Shard]
		f.Shard = c.Shard
		if f.Token == c.From {
			f.Token, f.Owner = c.From+1, owner
			d.fences[c.Shard] = f
		}
		now = append(now, f)
	}
	d.raises++
	if d.onRaise != nil {
		if err := d.onRaise(d.raises); err != nil {
			return nil, err
		}
	}
	return now, nil
}

// steal gives a shard to another owner.
func (d *double) steal(s topology.Shard) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fences[s] = msglog.Fence{Shard: s, Token: d.fences[s].Token + 1, Owner: "thief"}
}

func (d *double) Fences(ctx context.Context, _ ...topology.Shard) ([]msglog.Fence, error) {
	d.mu.Lock()
	d.reads++
	n := d.reads
	var all []msglog.Fence
	for _, f := range d.fences {
		all = append(all, f)
	}
	d.mu.Unlock()
	if d.onFences != nil {
		if err := d.onFences(ctx, n); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (d *double) Append(ctx context.Context, _ topology.Shard, _ topology.Token, ws []msglog.Write) error {
	d.mu.Lock()
	d.appends = append(d.appends, ws)
	n := len(d.appends)
	d.mu.Unlock()
	if d.onAppend != nil {
		return d.onAppend(ctx, n)
	}
	return nil
}

func (d *double) Tail(_ context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var rows []msglog.Row
	for _, r := range d.rows[ch] {
		if r.Rev >= from && len(rows) < limit {
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func (d *double) Repair(_ context.Context, _ topology.Shard, _ topology.Token, seals []msglog.Seal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seals = append(d.seals, seals...)
	if d.onRepair != nil {
		return d.onRepair(len(d.seals))
	}
	return nil
}

func (d *double) Oldest(context.Context, topology.ChannelRef) (topology.Rev, error) { return 1, nil }

func (d *double) Dirty(context.Context, topology.Shard) ([]topology.ChannelRef, error) {
	return nil, nil
}

func (d *double) Clean(context.Context, topology.Shard, topology.Token, topology.ChannelRef, topology.Rev) error {
	return nil
}

func (d *double) fill(ch topology.ChannelRef, revs ...topology.Rev) {
	for _, r := range revs {
		d.rows[ch] = append(d.rows[ch], msglog.Row{Rev: r, Time: msglog.Time(1, 1), Blob: post(r, fmt.Sprint("m", r)).Append(nil)})
	}
}

func post(rev topology.Rev, text string) change.Change {
	return change.Change{Rev: rev, Kind: change.Message, Text: text}
}

func batch(ch topology.ChannelRef, revs ...topology.Rev) []msglog.Batch {
	b := msglog.Batch{Channel: ch}
	for _, r := range revs {
		b.Changes = append(b.Changes, post(r, fmt.Sprint("m", r)))
	}
	return []msglog.Batch{b}
}

func take(t *testing.T, l *msglog.Log, s topology.Shard) *msglog.Hold {
	t.Helper()
	hs, err := l.Take(t.Context(), []topology.Shard{s})
	if err != nil || len(hs) != 1 || hs[0].Shard() != s {
		t.Fatalf("Take(%d) = %v, %v", s, hs, err)
	}
	return hs[0]
}

func wantLost(t *testing.T, h *msglog.Hold, kind problem.Kind) {
	t.Helper()
	select {
	case <-h.Lost():
		if !problem.Is(h.Err(), kind) {
			t.Fatalf("the hold was lost for %v; want kind %s", h.Err(), kind)
		}
	default:
		t.Fatal("the hold lives on")
	}
	if err := h.Commit(t.Context(), batch(chA, 1)); !problem.Is(err, problem.NotOwner) {
		t.Fatalf("Commit on a lost hold: %v; want kind not_owner", err)
	}
}

func wantLives(t *testing.T, h *msglog.Hold) {
	t.Helper()
	if err := h.Err(); err != nil {
		t.Fatalf("the hold was lost: %v", err)
	}
}

var errBlip = problem.New(problem.Unknown, "no answer")

func TestTake_OnlyWhatWasWon(t *testing.T) {
	d := newDouble()
	l := msglog.NewLog(d, "me")
	d.onFences = func(context.Context, int) error { // between my read and my claim, another comes
		d.onFences = nil
		d.steal(7)
		return nil
	}
	hs, err := l.Take(t.Context(), []topology.Shard{5, 7, 5})
	if err != nil || len(hs) != 1 || hs[0].Shard() != 5 || hs[0].Token() != 1 {
		t.Fatalf("Take = %v, %v; want shard 5 at token 1 alone", hs, err)
	}
}

func TestTake_RepeatsALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		d.onRaise = func(n int) error {
			if n < 3 {
				return errBlip
			}
			return nil
		}
		h := take(t, msglog.NewLog(d, "me"), 5)
		if h.Token() != 1 || d.fences[5].Token != 1 || d.raises != 3 {
			t.Fatalf("token %d, fence %v after %d calls", h.Token(), d.fences[5], d.raises)
		}
	})
}

// Invariant 5: a second take of a shard ends the first hold, and gets another token.
func TestTake_I5_EndsTheOldHold(t *testing.T) {
	l := msglog.NewLog(newDouble(), "me")
	var wg sync.WaitGroup
	holds := make([]*msglog.Hold, 8)
	for i := range holds {
		wg.Go(func() {
			if hs, err := l.Take(t.Context(), []topology.Shard{shardA}); err == nil && len(hs) == 1 {
				holds[i] = hs[0]
			}
		})
	}
	wg.Wait()
	tokens := make(map[topology.Token]bool)
	live := 0
	for _, h := range holds {
		if h == nil || tokens[h.Token()] {
			t.Fatalf("holds %v: one is missing, or two have one token", holds)
		}
		tokens[h.Token()] = true
		if h.Err() == nil {
			live++
		}
	}
	if live != 1 {
		t.Fatalf("%d holds of one shard live", live)
	}
}

// Invariant 4: what has an unknown outcome is written again as it was.
func TestCommit_I4_RepeatsTheSameBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		h := take(t, msglog.NewLog(d, "me"), shardA)
		d.onAppend = func(_ context.Context, n int) error {
			if n%3 != 0 {
				return errBlip
			}
			return nil
		}
		for rev := topology.Rev(1); rev <= 2; rev++ {
			if err := h.Commit(t.Context(), batch(chA, rev)); err != nil {
				t.Fatal(err)
			}
		}
		for i, ws := range d.appends {
			if diff := cmp.Diff(d.appends[i/3*3], ws); diff != "" {
				t.Fatalf("call %d differs from the first of its commit:\n%s", i+1, diff)
			}
		}
		first, second := d.appends[0][0].Rows[0], d.appends[3][0].Rows[0]
		if first.Time <= msglog.Time(h.Token(), 0) || second.Time <= first.Time || second.Time >= msglog.Time(h.Token()+1, 0) {
			t.Fatalf("times %x, then %x under token %d", first.Time, second.Time, h.Token())
		}
		wantLives(t, h)
	})
}

func TestCommit_StopsWhenOutcomeStaysUnknown(t *testing.T) {
	for name, end := range map[string]time.Duration{"at the limit": time.Hour, "at the deadline": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDouble()
				h := take(t, msglog.NewLog(d, "me"), shardA)
				d.onAppend = func(context.Context, int) error { return errBlip }
				ctx, cancel := context.WithTimeout(t.Context(), end)
				defer cancel()
				began := time.Now()
				if err := h.Commit(ctx, batch(chA, 1)); !problem.Is(err, problem.Unknown) {
					t.Fatalf("Commit: %v; want kind unknown", err)
				}
				if took := time.Since(began); took > min(end, 10*time.Second) {
					t.Fatalf("gave up after %v", took)
				}
				calls := len(d.appends)
				wantLost(t, h, problem.Unknown)
				if calls < 5 || len(d.appends) != calls {
					t.Fatalf("%d calls, then %d", calls, len(d.appends))
				}
			})
		})
	}
}

func TestCommit_RefusalsKeepTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		h := take(t, msglog.NewLog(d, "me"), shardA)
		full := problem.New(problem.Full, "the disk is full")
		d.onAppend = func(context.Context, int) error { return full }
		if err := h.Commit(t.Context(), batch(chA, 1)); !problem.Is(err, problem.Full) {
			t.Fatalf("Commit: %v; want kind full", err)
		}
		wantLives(t, h)
		// After an unknown outcome a refusal of the repeat does not undo the first.
		d.onAppend = func(_ context.Context, n int) error {
			if n == 2 {
				return errBlip
			}
			return full
		}
		if err := h.Commit(t.Context(), batch(chA, 1)); !problem.Is(err, problem.Unknown) {
			t.Fatalf("Commit: %v; want kind unknown", err)
		}
		wantLost(t, h, problem.Unknown)
	})
}

func TestCommit_BadBatches(t *testing.T) {
	d := newDouble()
	h := take(t, msglog.NewLog(d, "me"), shardA)
	other := topology.ChannelRef{Place: place, Channel: "B"}
	for other.Shard() == shardA {
		other.Channel += "B"
	}
	for name, bs := range map[string][]msglog.Batch{
		"another shard's channel": batch(other, 1),
		"a gap":                   batch(chA, 1, 3),
		"rev 0":                   batch(chA, 0),
		"nothing":                 batch(chA),
		"a channel twice":         append(batch(chA, 1), batch(chA, 2)...),
		"too large":               {{Channel: chA, Changes: []change.Change{{Rev: 1, Text: string(make([]byte, 2<<20))}}}},
	} {
		if err := h.Commit(t.Context(), bs); !problem.Is(err, problem.Invalid) && !problem.Is(err, problem.TooLarge) {
			t.Errorf("%s: %v; want kind invalid or too_large", name, err)
		}
	}
	if len(d.appends) != 0 {
		t.Errorf("%d calls reached the store", len(d.appends))
	}
	if err := h.Commit(t.Context(), batch(chA, 1)); err != nil { // none has left its channel busy
		t.Error(err)
	}
}

func TestCommit_OneWriteOfAChannelAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		h := take(t, msglog.NewLog(d, "me"), shardA)
		release := make(chan struct{})
		d.onAppend = func(context.Context, int) error {
			<-release
			return nil
		}
		done := make(chan error, 1)
		go func() { done <- h.Commit(t.Context(), batch(chA, 1)) }()
		synctest.Wait()
		if err := h.Commit(t.Context(), batch(chA, 2)); !problem.Is(err, problem.Invalid) {
			t.Errorf("a second Commit: %v; want kind invalid", err)
		}
		if _, err := h.Recover(t.Context(), chA, 1); !problem.Is(err, problem.Invalid) {
			t.Errorf("Recover: %v; want kind invalid", err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Invariant 3: nothing is acked under a fence that another has raised.
func TestCommit_I3_FencedByAnother(t *testing.T) {
	d := newDouble()
	l := msglog.NewLog(d, "me")
	h, bystander := take(t, l, shardA), take(t, l, (shardA+1)%topology.Shards)
	d.onAppend = func(context.Context, int) error {
		d.steal(shardA)
		d.steal(bystander.Shard())
		return nil
	}
	if err := h.Commit(t.Context(), batch(chA, 1)); !problem.Is(err, problem.Fenced) {
		t.Fatalf("Commit: %v; want kind fenced", err)
	}
	wantLost(t, h, problem.Fenced)
	if problem.KindOf(bystander.Err()) != problem.Fenced {
		t.Fatalf("the read showed another hold to be lost, and it lives on: %v", bystander.Err())
	}
}

func TestCommit_FencedByTheStore(t *testing.T) {
	d := newDouble()
	h := take(t, msglog.NewLog(d, "me"), shardA)
	d.onAppend = func(context.Context, int) error { return problem.New(problem.Fenced, "no") }
	if err := h.Commit(t.Context(), batch(chA, 1)); !problem.Is(err, problem.Fenced) {
		t.Fatalf("Commit: %v; want kind fenced", err)
	}
	wantLost(t, h, problem.Fenced)
}

// Invariant 3: a fence read serves the writes that ended before it began, all of
// them, and no others.
func TestConfirm_I3_OneReadServesThoseBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		h := take(t, msglog.NewLog(d, "me"), shardA)
		before := d.reads
		release := make(chan struct{})
		d.onFences = func(context.Context, int) error {
			<-release
			return nil
		}
		done := make(chan error, 20)
		confirm := func() { done <- h.Confirm(t.Context()) }
		go confirm()
		synctest.Wait() // the first reads
		for range 10 {
			go confirm()
		}
		synctest.Wait() // these came while it read
		if got := d.reads - before; got != 1 {
			t.Fatalf("%d reads under way at once", got)
		}
		release <- struct{}{}
		synctest.Wait()
		if len(done) != 1 {
			t.Fatalf("a read that had begun served %d", len(done))
		}
		d.steal(shardA) // the second read shows this no more than the first: it has begun
		release <- struct{}{}
		synctest.Wait()
		if got := d.reads - before; got != 2 || len(done) != 11 {
			t.Fatalf("%d reads served %d of 11", got, len(done))
		}
		for range 11 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		go confirm()
		synctest.Wait()
		close(release)
		if err := <-done; !problem.Is(err, problem.Fenced) {
			t.Fatalf("Confirm after another raised the fence: %v", err)
		}
	})
}

func TestConfirm_ALeadersEndIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDouble()
		h := take(t, msglog.NewLog(d, "me"), shardA)
		release := make(chan struct{})
		d.onFences = func(ctx context.Context, _ int) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		done := make(chan error, 3)
		go func() { done <- h.Confirm(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 2)
		go func() { results <- h.Confirm(ctx) }() // will lead the next round
		synctest.Wait()
		go func() { done <- h.Confirm(t.Context()) }() // shares it
		synctest.Wait()
		release <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Fatalf("the one whose context ended: %v", err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatalf("the one that shared its read: %v", err)
		}
		wantLives(t, h)
	})
}

func TestRecover_SealsAtTheFirstGap(t *testing.T) {
	d := newDouble()
	d.fill(chA, 1, 2, 3, 4, 5, 7, 8)
	d.fences[shardA] = msglog.Fence{Shard: shardA, Token: 1, Owner: "old"}
	h := take(t, msglog.NewLog(d, "me"), shardA)
	cs, err := h.Recover(t.Context(), chA, 3)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]change.Change{post(3, "m3"), post(4, "m4"), post(5, "m5")}, cs); d != "" {
		t.Fatal(d)
	}
	want := msglog.Seal{Channel: chA, Above: 5, Time: msglog.Time(2, 0)}
	for rev := topology.Rev(3); rev <= 5; rev++ {
		want.Rows = append(want.Rows, msglog.Row{Rev: rev, Time: msglog.Time(2, 1), Blob: post(rev, fmt.Sprint("m", rev)).Append(nil)})
	}
	if d := cmp.Diff([]msglog.Seal{want}, d.seals); d != "" {
		t.Fatal(d)
	}
}

func TestRecover_ReadsPageAfterPage(t *testing.T) {
	for _, n := range []topology.Rev{0, 511, 512, 513, 2000} {
		d := newDouble()
		for rev := topology.Rev(1); rev <= n; rev++ {
			d.fill(chA, rev)
		}
		cs, err := take(t, msglog.NewLog(d, "me"), shardA).Recover(t.Context(), chA, 1)
		if err != nil || len(cs) != int(n) || d.seals[0].Above != n {
			t.Fatalf("%d rows: %d changes, seal above %d, %v", n, len(cs), d.seals[0].Above, err)
		}
	}
}

func TestRecover_FencedBeforeItServes(t *testing.T) {
	d := newDouble()
	h := take(t, msglog.NewLog(d, "me"), shardA)
	d.onRepair = func(int) error {
		d.fences[shardA] = msglog.Fence{Shard: shardA, Token: 9, Owner: "thief"}
		return nil
	}
	if _, err := h.Recover(t.Context(), chA, 1); !problem.Is(err, problem.Fenced) {
		t.Fatalf("Recover: %v; want kind fenced", err)
	}
	wantLost(t, h, problem.Fenced)
}

func TestRecover_DamageIsNotRewritten(t *testing.T) {
	d := newDouble()
	d.fill(chA, 1, 2)
	d.rows[chA][1].Blob = post(9, "of another rev").Append(nil)
	h := take(t, msglog.NewLog(d, "me"), shardA)
	if _, err := h.Recover(t.Context(), chA, 1); !problem.Is(err, problem.Internal) || len(d.seals) != 0 {
		t.Fatalf("Recover over damage: %v, %d repairs", err, len(d.seals))
	}
	wantLives(t, h)
}

func TestTail_ToTheFirstGap(t *testing.T) {
	d := newDouble()
	d.fill(chA, 1, 2, 4)
	h := take(t, msglog.NewLog(d, "me"), shardA)
	cs, err := h.Tail(t.Context(), chA, 1, 10)
	revs := make([]topology.Rev, 0, len(cs))
	for _, c := range cs {
		revs = append(revs, c.Rev)
	}
	if err != nil || !slices.Equal(revs, []topology.Rev{1, 2}) {
		t.Fatalf("Tail = %v, %v", revs, err)
	}
}

func TestDrop_EndsTheHold(t *testing.T) {
	h := take(t, msglog.NewLog(newDouble(), "me"), shardA)
	h.Drop()
	h.Drop()
	wantLost(t, h, problem.NotOwner)
}
