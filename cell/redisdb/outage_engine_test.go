//go:build engines

package redisdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/presence"
	"parley/cell/readstate"
	"parley/cell/router"
	"parley/internal/topology"
)

// process is a Redis of the test's own, to be killed.
type process struct {
	t    testing.TB
	addr string
	args []string
	cmd  *exec.Cmd
}

// newProcess starts a server on a free port, beside the server of the suites.
func newProcess(tb testing.TB, args ...string) *process {
	tb.Helper()
	host, _, err := net.SplitHostPort(testAddrs(tb, "PARLEY_TEST_REDIS")[0])
	if err != nil {
		tb.Fatal(err)
	}
	port := freePort(tb, host)
	p := &process{t: tb, addr: net.JoinHostPort(host, port)}
	p.args = append([]string{"--bind", host, "--port", port, "--dir", tb.TempDir(), "--save", "", "--logfile", "log"}, args...)
	tb.Cleanup(p.kill)
	p.start()
	return p
}

func freePort(tb testing.TB, host string) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the port is free then
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command("redis-server", p.args...)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, 10*time.Second, "the server", func() bool {
		err := p.do("PING")
		_, answered := errors.AsType[redis.Error](err)
		return err == nil || answered && !redis.HasErrorPrefix(err, "LOADING")
	})
}

func (p *process) do(args ...any) error {
	c := redis.NewClient(&redis.Options{Addr: p.addr, DialTimeout: 100 * time.Millisecond, ReadTimeout: 200 * time.Millisecond, MaxRetries: -1, DialerRetries: 1})
	defer c.Close() //nolint:errcheck // the test has its answer
	return c.Do(context.Background(), args...).Err()
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// ear counts what it hears.
type ear struct {
	mu   sync.Mutex
	got  []string
	lost int
}

func (e *ear) Deliver(ms []router.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range ms {
		e.got = append(e.got, string(m.Payload))
	}
}

func (e *ear) Lost() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost++
	e.got = append(e.got, "LOST")
}

func (e *ear) count() (n, lost int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.got) - e.lost, e.lost
}

// last is what was heard last.
func (e *ear) last() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.got) == 0 {
		return ""
	}
	return e.got[len(e.got)-1]
}

// TestBus_OutagesAreToldAndHeal: Lost comes when the connection has gone and again
// before what is heard after it; Follow and Publish never hang.
func TestBus_OutagesAreToldAndHeal(t *testing.T) {
	for name, outage := range map[string]struct{ begin, end func(p *process) }{
		"kill": {(*process).kill, (*process).start},
		"stop": {func(p *process) { p.signal(syscall.SIGSTOP) }, func(p *process) { p.signal(syscall.SIGCONT) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			d := open(t, Config{Addrs: []string{p.addr}, KeyPrefix: "outage"}, Deps{})
			var e ear
			a := d.Bus().Attach(&e)
			defer a.Close()
			a.Follow("channel:1")
			d.Bus().Publish("channel:1", []byte("before"))
			eventually(t, 5*time.Second, "the first", func() bool { n, _ := e.count(); return n == 1 })
			outage.begin(p)
			began := time.Now()
			for i := range 20 {
				a.Follow("channel:" + strconv.Itoa(i+2))
				d.Bus().Publish("channel:1", []byte("away"))
			}
			if took := time.Since(began); took > 2*followMax+time.Second {
				t.Errorf("20 follows took %s without a server", took)
			}
			eventually(t, 10*time.Second, "Lost at once", func() bool { _, lost := e.count(); return lost >= 1 })
			outage.end(p)
			back := time.Now()
			i := 0
			eventually(t, 10*time.Second, "a message to a topic followed meanwhile", func() bool {
				d.Bus().Publish("channel:7", fmt.Appendf(nil, "after-%d", i))
				i++
				n, _ := e.count()
				return n > 1 && e.last() != "LOST" && e.last() != "away"
			})
			t.Logf("heard again after %s", time.Since(back).Round(time.Millisecond))
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.lost < 2 {
				t.Errorf("Lost %d times: it is due when the topics are heard again, too: %v", e.lost, e.got)
			}
			d.bus.mu.Lock()
			defer d.bus.mu.Unlock()
			for _, x := range d.bus.topics {
				if !x.live || x.owed {
					t.Errorf("topic %s: live %v, owed %v", x.name, x.live, x.owed)
				}
			}
		})
	}
}

// TestReadState_IsFilledAgain after every way of losing memory, by one of two
// processes, with nothing answered from a store that lacks something.
func TestReadState_IsFilledAgain(t *testing.T) {
	for name, lose := range map[string]func(p *process){
		"restarted empty": func(p *process) { p.kill(); p.start() },
		"flushed": func(p *process) {
			if err := p.do("FLUSHALL"); err != nil {
				p.t.Fatal(err)
			}
		},
		"restarted from an old snapshot": func(p *process) { p.kill(); p.start() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			cfg := Config{Addrs: []string{p.addr}, KeyPrefix: "fill"}
			j := &journal{}
			one, two := open(t, cfg, Deps{Name: "s1", Journal: j}), open(t, cfg, Deps{Name: "s2", Journal: j})
			u := readstate.User{Place: topology.Place{Workspace: "W", Generation: 1}, ID: "U"}
			put := func(d *DB, seq topology.Seq) readstate.Mark {
				t.Helper()
				got, err := d.ReadState().Put(t.Context(), u, "C", readstate.Mark{Seq: seq})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			put(one, 1)
			if name == "restarted from an old snapshot" {
				if err := p.do("SAVE"); err != nil {
					t.Fatal(err)
				}
			}
			put(one, 9)
			put(two, 5) // later, and lower
			err := one.ReadState().AddMentions(t.Context(), []readstate.Mention{{User: u, Channel: "C", Seq: 10, Rev: 20, Author: "V"}})
			if err != nil {
				t.Fatal(err)
			}
			before := j.replays
			lose(p)
			for _, d := range []*DB{two, one} {
				var got map[topology.ChannelID]readstate.Mark
				eventually(t, 10*time.Second, "marks", func() bool {
					got, err = d.ReadState().Marks(t.Context(), u)
					return err == nil
				})
				if got["C"].Seq != 9 {
					t.Errorf("mark %v, acknowledged was 9", got["C"])
				}
				n, err := d.ReadState().Mentions(t.Context(), u, map[topology.ChannelID]topology.Seq{"C": 9})
				if err != nil || n["C"] != 1 {
					t.Errorf("mentions %v, %v", n, err)
				}
			}
			if got := put(two, 7); got.Seq != 9 {
				t.Errorf("a lower mark won: %v", got)
			}
			if n := j.replays - before; n != 1 {
				t.Errorf("filled %d times", n)
			}
		})
	}
}

// TestReadState_JournalAway: marks are taken, kept for the journal, and safe when it
// is back.
func TestReadState_JournalAway(t *testing.T) {
	p := newProcess(t)
	j := &journal{}
	d := open(t, Config{Addrs: []string{p.addr}, KeyPrefix: "away", PendingMax: pendingLow}, Deps{Name: "s1", Journal: j})
	u := readstate.User{Place: topology.Place{Workspace: "W", Generation: 1}, ID: "U"}
	ch := func(i int) topology.ChannelID { return topology.ChannelID("C" + strconv.Itoa(i)) }
	put := func(i, seq int) error {
		_, err := d.ReadState().Put(t.Context(), u, ch(i), readstate.Mark{Seq: topology.Seq(seq)})
		return err
	}
	if err := put(0, 1); err != nil { // it is filled now
		t.Fatal(err)
	}
	j.set(errors.New("away"))
	for i := range pendingLow + 100 { // again and again: of each key one waits
		if err := put(i%100, i+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.ReadState().AddMentions(t.Context(), []readstate.Mention{{User: u, Channel: "C", Seq: 1, Rev: 1, Author: "V"}}); err == nil {
		t.Error("a mention was taken that is in no journal")
	}
	var refused atomic.Int64
	for i := range 2 * pendingLow {
		if err := put(1000+i, 1); err != nil {
			refused.Add(1)
		}
	}
	if refused.Load() == 0 {
		t.Error("the marks that wait for the journal have no bound")
	}
	j.set(nil)
	eventually(t, 10*time.Second, "the journal to have all", func() bool {
		d.reads.backlog.mu.Lock()
		defer d.reads.backlog.mu.Unlock()
		return len(d.reads.backlog.pending) == 0 && !d.reads.backlog.away
	})
	if err := p.do("FLUSHALL"); err != nil {
		t.Fatal(err)
	}
	var got map[topology.ChannelID]readstate.Mark
	eventually(t, 10*time.Second, "marks", func() (ok bool) {
		m, err := d.ReadState().Marks(t.Context(), u)
		got = m
		return err == nil
	})
	for i := range 100 {
		if want := topology.Seq(pendingLow + i + 1); got[ch(i)].Seq != want {
			t.Fatalf("mark %d: %v, want %d", i, got[ch(i)], want)
		}
	}
}

// TestReadState_MarksUnderFire has Redis lose its memory and the journal go away,
// again and again, while marks are put: whatever was acknowledged is there.
func TestReadState_MarksUnderFire(t *testing.T) {
	p := newProcess(t)
	j := &journal{}
	d := open(t, Config{Addrs: []string{p.addr}, KeyPrefix: "fire"}, Deps{Name: "s1", Journal: j})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	acked := make([]topology.Seq, 16)
	user := func(i int) readstate.User {
		return readstate.User{Place: topology.Place{Workspace: "W", Generation: 1}, ID: topology.UserID("U" + strconv.Itoa(i))}
	}
	for i := range acked {
		wg.Go(func() {
			for seq := topology.Seq(1); ; seq++ {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := d.ReadState().Put(context.Background(), user(i), "C", readstate.Mark{Seq: seq}); err == nil {
					if got.Seq < acked[i] {
						t.Errorf("user %d: mark %d after %d", i, got.Seq, acked[i])
					}
					acked[i] = got.Seq
				}
			}
		})
	}
	ctx := t.Context()
	for round := range 6 {
		pause(ctx, 300*time.Millisecond)
		if round%2 == 0 {
			p.kill()
			pause(ctx, 100*time.Millisecond)
			p.start()
		} else if err := p.do("FLUSHALL"); err != nil {
			t.Fatal(err)
		}
	}
	pause(ctx, time.Second)
	close(stop)
	wg.Wait()
	for i, want := range acked {
		if want == 0 {
			t.Errorf("user %d: nothing was acknowledged", i)
		}
		got, err := d.ReadState().Marks(ctx, user(i))
		if err != nil || got["C"].Seq < want {
			t.Errorf("user %d: %v, %v; acknowledged was %d", i, got["C"], err, want)
		}
	}
}

// TestPresence_EmptiedStore: the gateway is told that its lease was lost.
func TestPresence_EmptiedStore(t *testing.T) {
	p := newProcess(t)
	d := open(t, Config{Addrs: []string{p.addr}, KeyPrefix: "empty"}, Deps{})
	set := func() (kept bool) {
		t.Helper()
		eventually(t, 10*time.Second, "the store", func() (ok bool) {
			var err error
			kept, err = d.Presence().Set(t.Context(), "g1", nil)
			return err == nil
		})
		return kept
	}
	set()
	if !set() {
		t.Error("a lease was not kept")
	}
	p.kill()
	if _, err := d.Presence().Read(t.Context(), topology.Place{Workspace: "W"}, []topology.UserID{"U"}); err == nil {
		t.Error("without a server nobody knows who is there")
	}
	p.start()
	if set() {
		t.Error("an empty store says that it kept a lease")
	}
}

// TestPresence_TwoProcesses see each other's users, and a gateway that starts anew
// in another process starts with nobody.
func TestPresence_TwoProcesses(t *testing.T) {
	eachServer(t, func(t *testing.T, cfg Config) {
		t.Helper()
		one, two := open(t, cfg, Deps{}), open(t, cfg, Deps{})
		p := topology.Place{Workspace: "W", Generation: 1}
		set := func(d *DB, g topology.GatewayID, u topology.UserID) {
			t.Helper()
			if _, err := d.Presence().Set(t.Context(), g, []presence.Change{{Place: p, User: u, Status: presence.Online}}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(n int) {
			t.Helper()
			got, err := two.Presence().Present(t.Context(), p, 10)
			if err != nil || len(got) != n {
				t.Errorf("present %v, %v; want %d", got, err, n)
			}
		}
		set(one, "g1", "ann")
		set(two, "g2", "bob")
		want(2)
		set(two, "g1", "zoe")
		want(2)
	})
}

// newSentinel starts a sentinel with a file of settings.
func newSentinel(tb testing.TB, file string) *process {
	tb.Helper()
	host, _, err := net.SplitHostPort(testAddrs(tb, "PARLEY_TEST_REDIS")[0])
	if err != nil {
		tb.Fatal(err)
	}
	port := freePort(tb, host)
	p := &process{t: tb, addr: net.JoinHostPort(host, port), args: []string{file, "--sentinel", "--bind", host, "--port", port, "--logfile", "/dev/null"}}
	tb.Cleanup(p.kill)
	p.start()
	return p
}

func user(id topology.UserID) readstate.User {
	return readstate.User{Place: topology.Place{Workspace: "W", Generation: 1}, ID: id}
}

func seqMark(seq int) readstate.Mark {
	return readstate.Mark{Seq: topology.Seq(seq), Message: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
}
