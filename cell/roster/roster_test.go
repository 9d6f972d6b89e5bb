package roster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

var place = topology.Place{Workspace: "W1", Generation: 1}

// logs are channels' logs: what a channel server would commit, in order, the
// same key once. A hook may refuse an entry, before it is in or after.
type logs struct {
	mu     sync.Mutex
	of     map[topology.ChannelID][]channel.Member
	inside map[topology.ChannelID]int
	before func(channel.Member) error
	after  func(channel.Member) error
	twice  error
}

func (l *logs) Member(_ context.Context, m channel.Member) (change.Change, error) {
	l.mu.Lock()
	if l.inside[m.Channel.Channel]++; l.inside[m.Channel.Channel] > 1 {
		l.twice = fmt.Errorf("two changes of %s at once", m.Channel.Channel)
	}
	before, after := l.before, l.after
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.inside[m.Channel.Channel]--
		l.mu.Unlock()
	}()
	if before != nil {
		if err := before(m); err != nil {
			return change.Change{}, err
		}
	}
	l.mu.Lock()
	at := slices.IndexFunc(l.of[m.Channel.Channel], func(o channel.Member) bool { return o.Key == m.Key })
	if at < 0 {
		at = len(l.of[m.Channel.Channel])
		l.of[m.Channel.Channel] = append(l.of[m.Channel.Channel], m)
	}
	l.mu.Unlock()
	if after != nil {
		if err := after(m); err != nil {
			return change.Change{}, err
		}
	}
	return change.Change{Rev: topology.Rev(at + 1), HeadSeq: 7}, nil
}

func (l *logs) hooks(before, after func(channel.Member) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.after = before, after
}

// lines is a channel's log in words.
func (l *logs) lines(ch topology.ChannelID) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.of[ch] {
		kind := map[change.Kind]string{change.Created: "created", change.Joined: "joined", change.Left: "left"}[m.Kind]
		out = append(out, fmt.Sprint(kind, m.Subjects))
	}
	return out
}

// failing is a directory whose OutboxDone may fail.
type failing struct {
	*directory.Directory
	mu   sync.Mutex
	done error
	asks int
}

func (f *failing) OutboxDone(ctx context.Context, e directory.Entry, rev topology.Rev, seq topology.Seq) error {
	f.mu.Lock()
	err := f.done
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.Directory.OutboxDone(ctx, e, rev, seq)
}

func (f *failing) OutboxPending(ctx context.Context, after uint64, limit int) ([]directory.Entry, error) {
	es, err := f.Directory.OutboxPending(ctx, after, limit)
	f.mu.Lock()
	f.asks++
	f.mu.Unlock()
	return es, err
}

func (f *failing) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = err
}

func (f *failing) sweeps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asks
}

// clock moves by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type world struct {
	*roster.Roster
	t     *testing.T
	dir   *failing
	logs  *logs
	bus   *router.Local
	clock *clock
}

const every = 5 * time.Millisecond

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, logs: &logs{of: map[topology.ChannelID][]channel.Member{}, inside: map[topology.ChannelID]int{}},
		bus: router.NewLocal(router.LocalConfig{}), clock: &clock{at: time.Now()},
	}
	d, err := directory.Open(t.Context(), filepath.Join(t.TempDir(), "d.db"), w.clock.now, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if w.logs.twice != nil {
			t.Error(w.logs.twice)
		}
	})
	w.dir = &failing{Directory: d}
	if err := d.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen}); err != nil {
		t.Fatal(err)
	}
	var us []directory.User
	for i := range 5 {
		us = append(us, directory.User{ID: topology.UserID(fmt.Sprintf("U%d", i)), Name: strconv.Itoa(i)})
	}
	if _, err := d.PutUsers(t.Context(), place, us); err != nil {
		t.Fatal(err)
	}
	w.restart()
	return w
}

// restart is a new process on the same stores.
func (w *world) restart() {
	w.Roster = roster.New(roster.Config{Every: every}, w.dir, w.logs, w.bus, w.clock.now, slog.New(slog.DiscardHandler))
}

func (w *world) create(ch topology.ChannelID, us ...topology.UserID) {
	w.t.Helper()
	if _, err := w.Create(w.t.Context(), place, directory.Channel{ID: ch, Name: string(ch), CreatedBy: "U0"}, us); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pending() []directory.Entry {
	w.t.Helper()
	es, err := w.dir.Directory.OutboxPending(w.t.Context(), 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return es
}

func (w *world) wantLog(ch topology.ChannelID, lines ...string) {
	w.t.Helper()
	if d := cmp.Diff(lines, w.logs.lines(ch)); d != "" {
		w.t.Errorf("log of %s (-want +got):\n%s", ch, d)
	}
}

// run starts Run; stop ends it. Time is to be a bubble's: a sweep's step is too
// short for a slow disk otherwise.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- w.Run(ctx, func() { close(ready) }) }()
	<-ready
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// notices counts the notices that users get.
type notices struct {
	mu  sync.Mutex
	got map[string]int
}

func (n *notices) Lost() {}

func (n *notices) Deliver(ms []router.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range ms {
		if v, err := router.DecodeNotice(m.Payload); err == nil && v.Kind == router.NoticeURev {
			n.got[m.Topic+" "+string(v.Channel)]++
		}
	}
}

func (n *notices) count(u topology.UserID, ch topology.ChannelID) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.got[router.UserTopic(u)+" "+string(ch)]
}

func (w *world) listen(us ...topology.UserID) *notices {
	n := &notices{got: map[string]int{}}
	a := w.bus.Attach(n)
	w.t.Cleanup(a.Close)
	for _, u := range us {
		a.Follow(router.UserTopic(u))
	}
	return n
}

func TestRoster_CallsAnswerWhenTheLogHasIt(t *testing.T) {
	w := newWorld(t)
	n := w.listen("U1", "U2")
	w.create("C1", "U1")
	for _, c := range []struct {
		what string
		rev  topology.Rev
		do   func() (topology.Rev, error)
	}{
		{"add", 2, func() (topology.Rev, error) {
			return w.Add(t.Context(), place, "C1", []topology.UserID{"U1", "U2"}, "U1")
		}},
		{"add again", 0, func() (topology.Rev, error) {
			return w.Add(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1")
		}},
		{"remove", 3, func() (topology.Rev, error) { return w.Remove(t.Context(), place, "C1", "U2", "U1") }},
		{"remove again", 0, func() (topology.Rev, error) { return w.Remove(t.Context(), place, "C1", "U2", "U1") }},
	} {
		if rev, err := c.do(); err != nil || rev != c.rev {
			t.Errorf("%s: rev %d, %v; want %d", c.what, rev, err, c.rev)
		}
	}
	w.wantLog("C1", "created[U1]", "joined[U2]", "left[U2]")
	if es := w.pending(); len(es) > 0 {
		t.Errorf("pending: %v", es)
	}
	eventually(t, "the users are told", func() bool { return n.count("U1", "C1") == 1 && n.count("U2", "C1") == 2 })
	_, err := w.Add(t.Context(), place, "C9", []topology.UserID{"U1"}, "U1")
	if !problem.Is(err, problem.NotFound) {
		t.Errorf("unknown channel: %v", err)
	}
	if _, err := w.Create(t.Context(), place, directory.Channel{ID: "C2", Name: "C1"}, nil); !problem.Is(err, problem.Conflict) {
		t.Errorf("name taken: %v", err)
	}
}

// A process dies between each two steps of a change; the next one carries on.
func TestRoster_CrashBetweenSteps(t *testing.T) {
	dead := errors.New("the process died here")
	down := problem.New(problem.Unavailable, "no owner")
	refuse := func(err error) func(channel.Member) error { return func(channel.Member) error { return err } }
	for name, breakIt := range map[string]func(*world){
		"after the directory":             func(w *world) { w.logs.hooks(refuse(dead), nil) },
		"after the directory, no owner":   func(w *world) { w.logs.hooks(refuse(down), nil) },
		"after the log, answer lost":      func(w *world) { w.logs.hooks(nil, refuse(down)) },
		"after the log, before it's done": func(w *world) { w.dir.set(down) },
	} {
		for _, next := range []string{"run", "the same call", "another call"} {
			t.Run(name+", then "+next, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.create("C1", "U1")
					n := w.listen("U1", "U2", "U3")
					breakIt(w)
					_, err := w.Add(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1")
					if err == nil || problem.Is(err, problem.Unavailable) {
						t.Errorf("the call says %v, though the directory has the change", err)
					}
					if len(w.pending()) != 1 {
						t.Fatalf("pending: %v", w.pending())
					}
					w.logs.hooks(nil, nil)
					w.dir.set(nil)
					w.restart()
					lines := []string{"created[U1]", "joined[U2]"}
					switch next {
					case "run":
						w.clock.add(every)
						stop := w.run()
						eventually(t, "the entry is done", func() bool { return len(w.pending()) == 0 })
						stop()
					case "the same call":
						if _, err := w.Add(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1"); err != nil {
							t.Fatal(err)
						}
					default:
						if rev, err := w.Add(t.Context(), place, "C1", []topology.UserID{"U3"}, "U1"); err != nil || rev != 3 {
							t.Fatalf("rev %d, %v", rev, err)
						}
						lines = append(lines, "joined[U3]")
					}
					w.wantLog("C1", lines...)
					if es := w.pending(); len(es) > 0 {
						t.Errorf("pending: %v", es)
					}
					m, ok, err := w.dir.Member(t.Context(), place, "C1", "U2")
					if want := (directory.Membership{Channel: "C1", JoinedSeq: 7, JoinedRev: 2}); err != nil || !ok || m != want {
						t.Errorf("the member is %+v, %v, %v", m, ok, err)
					}
					eventually(t, "U2 is told", func() bool { return n.count("U2", "C1") > 0 })
				})
			})
		}
	}
}

// R1: adds and removes of the same users at once, with outages among them, end
// in the log as the directory took them.
func TestRoster_R1_LogHasTheDirectorysOrder(t *testing.T) {
	synctest.Test(t, logHasTheDirectorysOrder)
}

func logHasTheDirectorysOrder(t *testing.T) {
	w := newWorld(t)
	w.create("C1", "U0")
	var n int
	var mu sync.Mutex
	w.logs.hooks(func(channel.Member) error { // every seventh is refused, before or after
		mu.Lock()
		defer mu.Unlock()
		if n++; n%7 == 0 {
			return problem.New(problem.Unavailable, "no owner")
		}
		return nil
	}, func(channel.Member) error {
		mu.Lock()
		defer mu.Unlock()
		if n%5 == 0 {
			return problem.New(problem.Unknown, "the answer was lost")
		}
		return nil
	})
	stop := w.run()
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			u := topology.UserID(fmt.Sprintf("U%d", 1+g%2))
			for range 15 {
				time.Sleep(every / 4)  //nolint:forbidigo // the bubble's time
				w.clock.add(every / 4) // Run takes some of them over
				_, err := w.Add(t.Context(), place, "C1", []topology.UserID{u}, "U0")
				if err == nil {
					_, err = w.Remove(t.Context(), place, "C1", u, "U0")
				}
				if err != nil && !problem.Is(err, problem.Unknown) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	w.clock.add(time.Minute)
	eventually(t, "the outbox is empty", func() bool { w.clock.add(every); return len(w.pending()) == 0 })
	stop()
	in := map[topology.UserID]bool{}
	var got []string
	w.logs.mu.Lock()
	ms := w.logs.of["C1"]
	w.logs.mu.Unlock()
	for i, m := range ms {
		for _, u := range m.Subjects {
			if in[u] == (m.Kind != change.Left) {
				t.Fatalf("rev %d: %v of %s, who is %v", i+1, m.Kind, u, in[u])
			}
			in[u] = m.Kind != change.Left
		}
	}
	for u, is := range in {
		if _, ok, err := w.dir.Member(t.Context(), place, "C1", u); err != nil || ok != is {
			t.Errorf("%s: the log says %v, the directory %v, %v", u, is, ok, err)
		}
		cs, err := w.dir.UserChanges(t.Context(), place, u, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		got = got[:0]
		for _, c := range cs {
			got = append(got, c.Kind)
		}
		var logged []string
		for _, m := range ms {
			if slices.Contains(m.Subjects, u) {
				logged = append(logged, map[bool]string{true: directory.Lost, false: directory.Gained}[m.Kind == change.Left])
			}
		}
		if d := cmp.Diff(got, logged); d != "" {
			t.Errorf("%s: directory and log differ:\n%s", u, d)
		}
	}
}

// R3: a channel that refuses for good, and a workspace that is not here any more,
// hold up nobody, and are not asked again all the time.
func TestRoster_R3_RefusalsBlockNobody(t *testing.T) {
	synctest.Test(t, refusalsBlockNobody)
}

func refusalsBlockNobody(t *testing.T) {
	w := newWorld(t)
	var asked int
	var mu sync.Mutex
	w.logs.hooks(func(m channel.Member) error {
		if m.Channel.Channel == "Cbad" {
			mu.Lock()
			asked++
			mu.Unlock()
			return problem.New(problem.Conflict, "the channel's log has begun already")
		}
		return problem.New(problem.Unavailable, "no owner")
	}, nil)
	for i := range 250 { // more than a sweep takes at a time, all of one channel
		if i == 0 {
			_, err := w.Create(t.Context(), place, directory.Channel{ID: "Cbad", Name: "bad"}, nil)
			if !problem.Is(err, problem.Conflict) {
				t.Fatal(err)
			}
			continue
		}
		var err error
		if i%2 == 1 {
			_, err = w.dir.AddMembers(t.Context(), place, "Cbad", []topology.UserID{"U1"}, "U1", w.clock.now())
		} else {
			_, err = w.dir.RemoveMember(t.Context(), place, "Cbad", "U1", "U1", w.clock.now())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Create(t.Context(), place, directory.Channel{ID: "Cgood", Name: "good"}, nil); !problem.Is(err, problem.Unknown) {
		t.Fatal(err)
	}
	hook := w.logs.before
	w.logs.hooks(func(m channel.Member) error {
		if m.Channel.Channel == "Cbad" {
			return hook(m)
		}
		return nil
	}, nil)
	mu.Lock()
	asked = 0
	mu.Unlock()
	w.clock.add(every)
	stop := w.run()
	eventually(t, "the good channel is carried on", func() bool { return len(w.logs.lines("Cgood")) == 1 })
	first := w.dir.sweeps()
	eventually(t, "more sweeps", func() bool { return w.dir.sweeps() > first+30 })
	mu.Lock()
	if asked != 1 { // the clock stands still
		t.Errorf("the bad channel was asked %d times", asked)
	}
	mu.Unlock()
	// It is asked again after a while, and when it is mended, it is carried on.
	w.logs.hooks(nil, nil)
	w.clock.add(time.Hour)
	eventually(t, "the bad channel is carried on", func() bool { return len(w.pending()) == 0 })
	stop()
	if n := len(w.logs.lines("Cbad")); n != 250 {
		t.Errorf("%d changes in the log", n)
	}
}

// A call waits for its turn only as long as its context lasts.
func TestRoster_WaitingEnds(t *testing.T) {
	w := newWorld(t)
	w.create("C1")
	inside, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.logs.hooks(func(channel.Member) error {
		once.Do(func() { close(inside) })
		<-release
		return nil
	}, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if rev, err := w.Add(t.Context(), place, "C1", []topology.UserID{"U1"}, "U0"); err != nil || rev != 2 {
			t.Errorf("rev %d, %v", rev, err)
		}
	})
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := w.Add(ctx, place, "C1", []topology.UserID{"U2"}, "U0"); !problem.Is(err, problem.Unknown) {
		t.Errorf("who waits in vain hears %v", err)
	}
	close(release)
	wg.Wait()
	if rev, err := w.Add(t.Context(), place, "C1", []topology.UserID{"U3"}, "U0"); err != nil || rev != 4 {
		t.Errorf("rev %d, %v", rev, err)
	}
	w.wantLog("C1", "created[]", "joined[U1]", "joined[U2]", "joined[U3]")
}
