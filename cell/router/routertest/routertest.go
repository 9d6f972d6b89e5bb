// Package routertest runs the contract of router.Bus, clause by clause, against
// a driver.
//
//nolint:thelper // clauses are tests, whose lines should be told
package routertest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/cell/router"
)

// Instance is one bus under test.
type Instance interface {
	Bus() router.Bus
	// QueueMax is how many messages wait for one attachment at most.
	QueueMax() int
	// Close releases everything.
	Close() error
}

// Harness makes instances whose queues hold about so many messages.
type Harness func(queueMax int) (Instance, error)

// Run runs the contract. Each subtest is named after its clause.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, s := range []struct {
		name string
		run  func(*testing.T, Instance)
	}{
		{"C1_OrderPerTopicAndPublisher", order},
		{"C1_SlowReceiverBlocksNobody", slowBlocksNobody},
		{"C1_LostComesBeforeWhatIsLater", lostBeforeLater},
		{"C2_FollowTakesEffect", followTakesEffect},
		{"C2_FollowTwiceIsOnce", followTwice},
		{"C2_UnfollowEndsIt", unfollow},
		{"C2_FollowWhilePublishing", followWhilePublishing},
		{"C3_NeverConcurrently", neverConcurrently},
		{"C4_NothingAfterClose", nothingAfterClose},
		{"C5_PayloadIsShared", payloadIsShared},
	} {
		t.Run(s.name, func(t *testing.T) {
			in, err := h(64)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := in.Close(); err != nil {
					t.Error(err)
				}
			})
			s.run(t, in)
		})
	}
}

const patience = 20 * time.Second

// listener notes what it gets. While its gate is locked it takes nothing.
type listener struct {
	gate sync.Mutex
	in   atomic.Int32
	most atomic.Int32

	mu   sync.Mutex
	got  []router.Message
	lost int
	at   []int // how many messages had come when each Lost did
	news chan struct{}
}

func newListener() *listener { return &listener{news: make(chan struct{}, 1)} }

func (l *listener) enter() func() {
	l.most.Store(max(l.most.Load(), l.in.Add(1)))
	l.gate.Lock()
	return func() {
		l.gate.Unlock()
		l.in.Add(-1)
		select {
		case l.news <- struct{}{}:
		default:
		}
	}
}

// Deliver implements router.Receiver.
func (l *listener) Deliver(ms []router.Message) {
	defer l.enter()()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, ms...) // the slice is the bus's again afterwards
}

// Lost implements router.Receiver.
func (l *listener) Lost() {
	defer l.enter()()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost++
	l.at = append(l.at, len(l.got))
}

func (l *listener) state() (got []string, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.got {
		got = append(got, m.Topic+"="+string(m.Payload))
	}
	return got, l.lost
}

func (l *listener) await(t *testing.T, what string, ok func(got []string, lost int) bool) {
	t.Helper()
	late := time.After(patience)
	for !ok(l.state()) {
		select {
		case <-l.news:
		case <-late:
			got, lost := l.state()
			t.Fatalf("waited in vain for %s; got %d messages, %d times lost", what, len(got), lost)
		}
	}
}

func (l *listener) want(t *testing.T, msgs ...string) {
	t.Helper()
	l.await(t, fmt.Sprint(msgs), func(got []string, _ int) bool { return len(got) >= len(msgs) })
	if got, _ := l.state(); !slices.Equal(got, msgs) {
		t.Fatalf("got %v, want %v", got, msgs)
	}
}

func attach(t *testing.T, b router.Bus, topics ...string) (*listener, router.Attachment) { //nolint:ireturn // as Bus gives it
	l := newListener()
	a := b.Attach(l)
	t.Cleanup(a.Close)
	for _, topic := range topics {
		a.Follow(topic)
	}
	return l, a
}

func order(t *testing.T, in Instance) {
	const publishers, each = 4, 200
	l, _ := attach(t, in.Bus(), "a", "b")
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				in.Bus().Publish([]string{"a", "b"}[p%2], binary.AppendUvarint([]byte{byte(p)}, uint64(i))) //nolint:gosec // small
			}
		})
	}
	wg.Wait()
	in.Bus().Publish("a", []byte{255})
	ended := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.lost > 0 || slices.ContainsFunc(l.got, func(m router.Message) bool { return m.Payload[0] == 255 })
	}
	l.await(t, "the end", func([]string, int) bool { return ended() })
	next := map[byte]uint64{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.got {
		p := m.Payload[0]
		n, _ := binary.Uvarint(m.Payload[1:])
		if p != 255 && n < next[p] {
			t.Fatalf("publisher %d: %d after %d", p, n, next[p]-1)
		}
		if l.lost == 0 && p != 255 && n != next[p] {
			t.Fatalf("publisher %d: %d in the place of %d, and nothing was said to be lost", p, n, next[p])
		}
		next[p] = n + 1
	}
}

func slowBlocksNobody(t *testing.T, in Instance) {
	slow, _ := attach(t, in.Bus(), "a")
	quick, _ := attach(t, in.Bus(), "a")
	slow.gate.Lock()
	total := 10 * in.QueueMax()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range total {
			in.Bus().Publish("a", fmt.Append(nil, i))
			if i%(in.QueueMax()/2) == 0 { // do not flood the quick one
				quick.await(t, "the quick one", func(got []string, _ int) bool { return len(got) == i+1 })
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Publish blocks on a slow receiver")
	}
	quick.await(t, "everything", func(got []string, lost int) bool { return len(got) == total && lost == 0 })
	slow.gate.Unlock()
	slow.await(t, "Lost", func(_ []string, lost int) bool { return lost > 0 })
}

func lostBeforeLater(t *testing.T, in Instance) {
	l, _ := attach(t, in.Bus(), "a")
	for round := range 5 {
		// Another one tells when they have come: the gate is not opened too early.
		quick, a := attach(t, in.Bus(), "a")
		come := func(n int) func([]string, int) bool {
			return func(got []string, lost int) bool {
				of := slices.DeleteFunc(got, func(m string) bool { return !strings.HasPrefix(m, fmt.Sprintf("a=r%d-", round)) })
				return lost > 0 || len(of) == n
			}
		}
		l.gate.Lock()
		for i := range 4 * in.QueueMax() {
			in.Bus().Publish("a", fmt.Appendf(nil, "r%d-%d", round, i))
			if i%(in.QueueMax()/2) == 0 {
				quick.await(t, "the quick one", come(i+1))
			}
		}
		quick.await(t, "the quick one", come(4*in.QueueMax()))
		a.Close()
		l.gate.Unlock()
		last := fmt.Sprintf("a=after-%d", round)
		for { // it may be dropped, too, while the queue is being emptied
			in.Bus().Publish("a", fmt.Appendf(nil, "after-%d", round))
			got, _ := l.state()
			if slices.Contains(got, last) {
				break
			}
		}
		l.mu.Lock()
		at := slices.IndexFunc(l.got, func(m router.Message) bool { return "a="+string(m.Payload) == last })
		if len(l.at) == 0 || !slices.ContainsFunc(l.at, func(n int) bool { return n <= at }) {
			t.Errorf("round %d: a message came that was published after what was lost, and before Lost", round)
		}
		l.got, l.at = nil, nil
		l.mu.Unlock()
	}
}

func followTakesEffect(t *testing.T, in Instance) {
	l, a := attach(t, in.Bus())
	in.Bus().Publish("a", []byte("before"))
	a.Follow("a")
	in.Bus().Publish("a", []byte("1"))
	in.Bus().Publish("b", []byte("other"))
	in.Bus().Publish("a:typing", []byte("other"))
	in.Bus().Publish("a", []byte("2"))
	l.want(t, "a=1", "a=2")
}

func followTwice(t *testing.T, in Instance) {
	l, a := attach(t, in.Bus(), "a", "a")
	a.Follow("a")
	in.Bus().Publish("a", []byte("1"))
	in.Bus().Publish("a", []byte("2"))
	l.want(t, "a=1", "a=2")
	a.Unfollow("a") // one is enough
	a.Follow("end")
	in.Bus().Publish("a", []byte("3"))
	in.Bus().Publish("end", nil)
	l.want(t, "a=1", "a=2", "end=")
}

func unfollow(t *testing.T, in Instance) {
	l, a := attach(t, in.Bus(), "a", "b")
	other, _ := attach(t, in.Bus(), "a")
	a.Unfollow("a")
	a.Unfollow("a")
	a.Unfollow("never")
	in.Bus().Publish("a", []byte("1"))
	in.Bus().Publish("b", []byte("2"))
	l.want(t, "b=2")
	other.want(t, "a=1")
	a.Follow("a")
	in.Bus().Publish("a", []byte("3"))
	l.want(t, "b=2", "a=3")
}

// followWhilePublishing has attachments come and go beside one that stays: it
// must not miss anything.
func followWhilePublishing(t *testing.T, in Instance) {
	stays, _ := attach(t, in.Bus(), "a")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := in.Bus().Attach(newListener())
				a.Follow("a")
				a.Unfollow("a")
				a.Follow("a")
				a.Close()
			}
		})
	}
	for i := range 500 {
		in.Bus().Publish("a", []byte("x"))
		stays.await(t, "each message", func(got []string, lost int) bool { return len(got) == i+1 && lost == 0 })
	}
	close(stop)
	wg.Wait()
}

func neverConcurrently(t *testing.T, in Instance) {
	l, _ := attach(t, in.Bus(), "a", "b", "c")
	var wg sync.WaitGroup
	for _, topic := range []string{"a", "b", "c"} {
		wg.Go(func() {
			for range 20 * in.QueueMax() {
				in.Bus().Publish(topic, []byte("x"))
			}
		})
	}
	wg.Wait()
	l.await(t, "something", func(got []string, _ int) bool { return len(got) > 0 })
	if n := l.most.Load(); n > 1 {
		t.Errorf("%d calls of one receiver at once", n)
	}
}

func nothingAfterClose(t *testing.T, in Instance) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				in.Bus().Publish("a", []byte("x"))
			}
		}
	})
	for range 50 {
		l := newListener()
		a := in.Bus().Attach(l)
		a.Follow("a")
		wg.Go(a.Close) // twice, at once
		a.Close()
		got, lost := l.state()
		a.Follow("a")
		a.Unfollow("a")
		in.Bus().Publish("a", []byte("late"))
		if now, nowLost := l.state(); len(now) != len(got) || lost != nowLost {
			t.Fatalf("%d calls after Close", len(now)-len(got)+nowLost-lost)
		}
	}
	close(stop)
	wg.Wait()
}

func payloadIsShared(t *testing.T, in Instance) {
	one, _ := attach(t, in.Bus(), "a")
	two, _ := attach(t, in.Bus(), "a")
	for _, p := range [][]byte{nil, {}, []byte("x"), make([]byte, 1<<20)} {
		in.Bus().Publish("a", p)
	}
	for _, l := range []*listener{one, two} {
		l.await(t, "four", func(got []string, _ int) bool { return len(got) == 4 })
		if n := len(l.got[3].Payload); n != 1<<20 {
			t.Errorf("a payload of 1 MiB came with %d bytes", n)
		}
	}
}
