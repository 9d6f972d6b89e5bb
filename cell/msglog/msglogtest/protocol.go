package msglogtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"parley/cell/change"
	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// runProtocol runs the same short story again and again: owner a takes the shard
// over and posts; at its k-th call of the store something happens to it; owner b
// takes over, posts, and reads; a, if it lives, wakes up and goes on; the process
// crashes; owner c takes over and reads. For every k and every fate below, what a
// and b were told is kept is there, at its rev, and nothing else is.
func runProtocol(t *testing.T, h Harness) {
	t.Helper()
	calls := len(tell(t, h, story{}).calls)
	if calls < 15 {
		t.Fatalf("the story has %d store calls: too few to tell anything", calls)
	}
	for _, f := range []fate{killedBefore, killedAfter, pausedBefore, pausedAfter, lostAck, heldBack} {
		t.Run(f.String(), func(t *testing.T) {
			for k := range calls {
				for _, s := range []story{
					{crash: false, turns: 0}, {crash: false, turns: 4}, {crash: true, turns: 0}, {crash: true, turns: 4},
				} {
					if s.crash && (f == pausedBefore || f == pausedAfter) {
						continue // a paused owner is of the process that would crash
					}
					s.fate, s.at = f, k
					t.Run(fmt.Sprintf("call=%d/crash=%t/turns=%d", k+1, s.crash, s.turns), func(t *testing.T) { tell(t, h, s).verify() })
				}
			}
		})
	}
}

// fate is what happens to owner a at one call.
type fate int

const (
	unharmed     fate = iota
	killedBefore      // dies before the call reaches the store
	killedAfter       // dies before it has the answer
	pausedBefore      // sleeps until b has taken over; then the call reaches the store
	pausedAfter       // sleeps until b has taken over; then it has the answer
	lostAck           // the call is done, the answer is an error
	heldBack          // the answer is an error, and the call reaches the store when b has taken over
)

func (f fate) String() string {
	return [...]string{"Unharmed", "KilledBefore", "KilledAfter", "PausedBefore", "PausedAfter", "LostAck", "HeldBack"}[f]
}

type story struct {
	fate  fate
	at    int  // the call, from 0
	crash bool // the whole process crashes before b takes over
	turns int  // b's commits: 0 leaves free the revs where a's late writes would be
}

// teller tells one story and keeps the books.
type teller struct {
	t     *testing.T
	in    Instance
	story story
	calls []string // a's calls

	sleeping chan struct{} // closed when a sleeps, or has come to its end
	wake     chan struct{} // closed when b has taken over
	asleep   sync.Once

	mu   sync.Mutex
	dead bool             // a is killed
	held []func()         // what reaches the store late
	kept map[place]string // what somebody was told is kept, or was shown
	last map[place]string // what c read
	seen map[string]place // where b or c saw a message
	refs []topology.ChannelRef
}

type place struct {
	ch  topology.ChannelRef
	rev topology.Rev
}

func tell(t *testing.T, h Harness, s story) *teller {
	t.Helper()
	in, err := h()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	w := &teller{
		t: t, in: in, story: s, sleeping: make(chan struct{}), wake: make(chan struct{}),
		kept: make(map[place]string), last: make(map[place]string), seen: make(map[string]place),
		refs: []topology.ChannelRef{channel(0), channel(1)},
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	a := &victim{Store: in.Store(), teller: w, cancel: cancel}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer w.asleep.Do(func() { close(w.sleeping) })
		w.owner(ctx, a, "a", 4, false)
	})
	<-w.sleeping
	if s.crash {
		wg.Wait() // it has been killed, or is done: nothing of it calls any more
		crash(t, in)
		a.Store = in.Store() // what is held back outlives the crash: it is in the network
	}
	w.owner(testContext(t), in.Store(), "b", s.turns, true)
	close(w.wake)
	wg.Wait()
	w.late()
	crash(t, in)
	w.read()
	return w
}

func (w *teller) sleep() {
	w.asleep.Do(func() { close(w.sleeping) })
	<-w.wake
}

// late lets what was held back reach the store.
func (w *teller) late() {
	for _, do := range w.held {
		do()
	}
}

// owner takes the shard, recovers the channels and commits to them. With must,
// none of it may fail.
func (w *teller) owner(ctx context.Context, s msglog.Store, id topology.ServerID, turns int, must bool) {
	if what, err := w.own(ctx, s, id, turns); err != nil && must {
		w.t.Errorf("owner %s: %s: %v", id, what, err)
	}
}

func (w *teller) own(ctx context.Context, s msglog.Store, id topology.ServerID, turns int) (string, error) {
	holds, err := msglog.NewLog(s, id).Take(ctx, []topology.Shard{testShard})
	if err != nil {
		return "Take", err
	}
	if len(holds) != 1 {
		return "Take", errNotWon
	}
	h, heads := holds[0], make([]topology.Rev, len(w.refs))
	for i, ref := range w.refs {
		cs, err := h.Recover(ctx, ref, 1)
		if err != nil {
			return "Recover", err
		}
		w.keep(id, ref, cs)
		heads[i] = topology.Rev(len(cs))
	}
	if id == "b" {
		w.late()
	}
	for turn := range turns {
		batches := w.batches(id, turn, heads)
		if err := h.Commit(ctx, batches); err != nil {
			return "Commit", err
		}
		for _, b := range batches {
			w.keep(id, b.Channel, b.Changes)
		}
	}
	return "Clean", h.Clean(ctx, w.refs[0], heads[0])
}

// batches are one or two posts to one channel or both, and raise their heads.
func (w *teller) batches(id topology.ServerID, turn int, heads []topology.Rev) []msglog.Batch {
	var batches []msglog.Batch
	for i, ref := range w.refs {
		if turn%2 == 1 && i == 1 {
			continue
		}
		var cs []change.Change
		for k := range 1 + (turn+i)%2 {
			heads[i]++
			cs = append(cs, change.Change{
				Rev: heads[i], Kind: change.Message, Seq: topology.Seq(heads[i]),
				Author: "U1", Text: fmt.Sprintf("%s: turn %d, channel %d, post %d", id, turn, i, k),
			})
		}
		batches = append(batches, msglog.Batch{Channel: ref, Changes: cs})
	}
	return batches
}

// keep notes what was shown, and holds it against what was shown before.
func (w *teller) keep(id topology.ServerID, ref topology.ChannelRef, cs []change.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range cs {
		at := place{ref, c.Rev}
		if was, ok := w.kept[at]; ok && was != c.Text {
			w.t.Errorf("owner %s shows %q at rev %d of %s, where %q was shown", id, c.Text, c.Rev, ref.Channel, was)
		}
		w.kept[at] = c.Text
	}
}

// read is owner c: what it finds is what is there for good.
func (w *teller) read() {
	ctx := testContext(w.t)
	holds, err := msglog.NewLog(w.in.Store(), "c").Take(ctx, []topology.Shard{testShard})
	if err != nil || len(holds) != 1 {
		w.t.Fatalf("owner c: Take: %v, %v", holds, err)
	}
	dirty, err := holds[0].Dirty(ctx)
	if err != nil {
		w.t.Fatalf("owner c: Dirty: %v", err)
	}
	for i, ref := range w.refs {
		cs, err := holds[0].Recover(ctx, ref, 1)
		if err != nil {
			w.t.Fatalf("owner c: Recover: %v", err)
		}
		for _, c := range cs {
			at := place{ref, c.Rev}
			w.last[at] = c.Text
			if was, ok := w.seen[c.Text]; ok {
				w.t.Errorf("%q is at rev %d of %s and at rev %d of %s", c.Text, was.rev, was.ch.Channel, c.Rev, ref.Channel)
			}
			w.seen[c.Text] = at
		}
		onList := false
		for _, d := range dirty {
			onList = onList || d == ref
		}
		if i == 1 && len(cs) > 0 && !onList {
			w.t.Errorf("channel %s was written to, was never cleaned, and is not on the list", ref.Channel)
		}
	}
}

// verify holds what c read against the books. b has shown its whole log, so
// what is in c's and not in the books came up after b had sealed it off.
func (w *teller) verify() {
	for at, text := range w.kept {
		if got := w.last[at]; got != text {
			w.t.Errorf("rev %d of %s: %q was shown, now it has %q", at.rev, at.ch.Channel, text, got)
		}
	}
	for at, text := range w.last {
		if _, ok := w.kept[at]; !ok {
			w.t.Errorf("rev %d of %s: %q came up late", at.rev, at.ch.Channel, text)
		}
	}
}

var (
	errLost   = errors.New("the answer was lost")
	errNotWon = errors.New("the shard was not won")
)

// victim is owner a's view of the store.
type victim struct {
	msglog.Store
	teller *teller
	cancel context.CancelFunc
}

// call makes one call of a's, and the fate strikes at its number.
func (v *victim) call(name string, do func() error) error {
	w := v.teller
	w.mu.Lock()
	n := len(w.calls)
	w.calls = append(w.calls, name)
	dead := w.dead
	w.mu.Unlock()
	if dead {
		return errLost
	}
	if w.story.fate == unharmed || n != w.story.at {
		return do()
	}
	switch w.story.fate {
	case killedBefore:
		return v.die()
	case killedAfter:
		_ = do() // nobody learns of it
		return v.die()
	case pausedBefore:
		w.sleep()
		return do()
	case pausedAfter:
		err := do()
		w.sleep()
		return err
	case lostAck:
		if err := do(); err != nil {
			return err
		}
		return errLost
	default: // heldBack: a gives up, or it would do the same again and be heard
		w.held = append(w.held, func() { late1(w.t, name, do()) })
		v.cancel()
		return errLost
	}
}

func (v *victim) die() error {
	v.teller.mu.Lock()
	v.teller.dead = true
	v.teller.mu.Unlock()
	v.cancel()
	return errLost
}

// late1 accepts that a late call is refused.
func late1(t *testing.T, name string, err error) {
	t.Helper()
	if err != nil && !problem.Is(err, problem.Fenced) && !problem.Is(err, problem.Unavailable) {
		t.Errorf("late %s: %v; want none, or kind fenced", name, err)
	}
}

// detached outlives the death of the caller: a call that is on its way.
func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

func (v *victim) Raise(ctx context.Context, owner topology.ServerID, claims []msglog.Claim) (fs []msglog.Fence, err error) {
	err = v.call("Raise", func() error {
		fs, err = v.Store.Raise(detached(ctx), owner, claims)
		return err
	})
	return fs, err
}

func (v *victim) Fences(ctx context.Context, of ...topology.Shard) (fs []msglog.Fence, err error) {
	err = v.call("Fences", func() error {
		fs, err = v.Store.Fences(detached(ctx), of...)
		return err
	})
	return fs, err
}

func (v *victim) Append(ctx context.Context, s topology.Shard, t topology.Token, ws []msglog.Write) error {
	return v.call("Append", func() error { return v.Store.Append(detached(ctx), s, t, ws) })
}

func (v *victim) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) (rs []msglog.Row, err error) {
	err = v.call("Tail", func() error {
		rs, err = v.Store.Tail(detached(ctx), ch, from, limit)
		return err
	})
	return rs, err
}

func (v *victim) Repair(ctx context.Context, s topology.Shard, t topology.Token, seals []msglog.Seal) error {
	return v.call("Repair", func() error { return v.Store.Repair(detached(ctx), s, t, seals) })
}

func (v *victim) Clean(ctx context.Context, s topology.Shard, t topology.Token, ch topology.ChannelRef, upTo topology.Rev) error {
	return v.call("Clean", func() error { return v.Store.Clean(detached(ctx), s, t, ch, upTo) })
}
