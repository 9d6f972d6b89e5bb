package directory_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

// The proxy of the outage tests forgets a goroutine when a fault is taken back.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
}

// handClock moves by hand.
type handClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *handClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *handClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

var place = topology.Place{Workspace: "W1", Generation: 1}

// processes makes a directory on SQLite; each call of open is another process's.
func processes(t *testing.T) (open func() *directory.Directory, clock *handClock) {
	t.Helper()
	clock = &handClock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	file := filepath.Join(t.TempDir(), "d.db")
	open = func() *directory.Directory {
		d, err := directory.Open(t.Context(), file, clock.now, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d
	}
	d := open()
	if err := d.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PutUsers(t.Context(), place, []directory.User{{ID: "U1", Name: "ann"}, {ID: "U2", Name: "bob"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.CreateChannel(t.Context(), place, directory.Channel{ID: "C1", Name: "one", CreatedBy: "U1", Importing: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.FinishImport(t.Context(), place, "C1"); err != nil {
		t.Fatal(err)
	}
	return open, clock
}

// cached is two processes on one file: what the other one writes, the cache
// can't know.
func cached(t *testing.T, cfg directory.CacheConfig) (*directory.Cache, *directory.Directory, *handClock) {
	t.Helper()
	open, clock := processes(t)
	return directory.NewCache(open(), cfg), open(), clock
}

func isMember(t *testing.T, c *directory.Cache, u topology.UserID) bool {
	t.Helper()
	_, ok, err := c.Member(t.Context(), place, "C1", u)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestCache_IsAtMostTTLOld(t *testing.T) {
	for name, c := range map[string]struct{ ttl, old time.Duration }{
		"default":  {0, 2 * time.Second},
		"too long": {time.Hour, 2 * time.Second},
		"short":    {100 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			cache, other, clock := cached(t, directory.CacheConfig{TTL: c.ttl})
			if isMember(t, cache, "U1") {
				t.Fatal("U1 is a member already")
			}
			if _, err := cache.Workspace(t.Context(), "W1"); err != nil {
				t.Fatal(err)
			}
			if _, err := other.AddMembers(t.Context(), place, "C1", []topology.UserID{"U1"}, "U1", clock.now()); err != nil {
				t.Fatal(err)
			}
			if err := other.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 2, Generation: 1, State: directory.StateFenced}); err != nil {
				t.Fatal(err)
			}
			clock.add(c.old - 1)
			if isMember(t, cache, "U1") {
				t.Error("an answer was not kept at all")
			}
			clock.add(1)
			if !isMember(t, cache, "U1") {
				t.Errorf("a refusal counts for longer than %v", c.old)
			}
			if w, err := cache.Workspace(t.Context(), "W1"); err != nil || w.Open() {
				t.Errorf("the row is %+v, %v", w, err)
			}
			if err := other.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 3, Generation: 1, State: directory.StateOpen}); err != nil {
				t.Fatal(err)
			}
			if _, err := other.RemoveMember(t.Context(), place, "C1", "U1", "U1", clock.now()); err != nil {
				t.Fatal(err)
			}
			clock.add(c.old)
			if isMember(t, cache, "U1") {
				t.Errorf("a membership counts for longer than %v", c.old)
			}
		})
	}
}

func TestCache_OwnWritesShowAtOnce(t *testing.T) {
	cache, _, clock := cached(t, directory.CacheConfig{})
	ctx := t.Context()
	isMember(t, cache, "U1")
	e, err := cache.AddMembers(ctx, place, "C1", []topology.UserID{"U1"}, "U1", clock.now())
	if err != nil || !isMember(t, cache, "U1") {
		t.Fatalf("no member after joining: %v", err)
	}
	if err := cache.OutboxDone(ctx, e, 2, 7); err != nil {
		t.Fatal(err)
	}
	if m, _, err := cache.Member(ctx, place, "C1", "U1"); err != nil || m.JoinedSeq != 7 {
		t.Errorf("joined at %+v, %v", m, err)
	}
	if _, err := cache.RemoveMember(ctx, place, "C1", "U1", "U1", clock.now()); err != nil || isMember(t, cache, "U1") {
		t.Errorf("a member after leaving: %v", err)
	}
	w, err := cache.Workspace(ctx, "W1")
	if err != nil {
		t.Fatal(err)
	}
	w.Name, w.State = "New", directory.StateFenced
	if err := cache.PutWorkspace(ctx, w); err != nil {
		t.Fatal(err)
	}
	if got, err := cache.Workspace(ctx, "W1"); err != nil || got != w {
		t.Errorf("the row is %+v, %v", got, err)
	}
	w.State = directory.StateOpen
	if err := cache.PutWorkspace(ctx, w); err != nil {
		t.Fatal(err)
	}
	// What was not there is asked for again, each time.
	_, err = cache.Channel(ctx, place, "C2")
	if !problem.Is(err, problem.NotFound) {
		t.Fatal(err)
	}
	_, ok, err := cache.Member(ctx, place, "C2", "U2")
	if ok || err != nil {
		t.Fatal(ok, err)
	}
	row, _, err := cache.CreateChannel(ctx, place, directory.Channel{ID: "C2", Name: "two", CreatedBy: "U2", Importing: true}, []topology.UserID{"U2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := cache.Member(ctx, place, "C2", "U2"); !ok || err != nil {
		t.Errorf("the first member is none: %v", err)
	}
	if got, err := cache.Channel(ctx, place, "C2"); err != nil || got != row {
		t.Errorf("the channel is %+v, %v", got, err)
	}
	if err := cache.FinishImport(ctx, place, "C2"); err != nil {
		t.Fatal(err)
	}
	if got, err := cache.Channel(ctx, place, "C2"); err != nil || got.Importing {
		t.Errorf("the channel is %+v, %v", got, err)
	}
}

// A read that began before a write, and ends after it, may have the old answer:
// it must not be kept over the write.
func TestCache_ReadRacingAWriteIsNotKept(t *testing.T) {
	cache, _, clock := cached(t, directory.CacheConfig{})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := cache.Member(context.Background(), place, "C1", "U1"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 150 { // the clock stands still: what is kept wrongly stays wrong
		if _, err := cache.AddMembers(t.Context(), place, "C1", []topology.UserID{"U1"}, "U1", clock.now()); err != nil {
			t.Fatal(err)
		}
		if !isMember(t, cache, "U1") {
			t.Fatal("no member after joining: an old answer was kept")
		}
		if _, err := cache.RemoveMember(t.Context(), place, "C1", "U1", "U1", clock.now()); err != nil {
			t.Fatal(err)
		}
		if isMember(t, cache, "U1") {
			t.Fatal("a member after leaving: an old answer was kept")
		}
	}
	close(stop)
	wg.Wait()
}

func TestCache_IsBounded(t *testing.T) {
	cache, other, _ := cached(t, directory.CacheConfig{EntriesMax: 4})
	var us []directory.User
	for i := range 40 {
		us = append(us, directory.User{ID: topology.UserID(fmt.Sprintf("Ux%d", i)), Name: fmt.Sprintf("x%d", i)})
	}
	if _, err := other.PutUsers(t.Context(), place, us); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, u := range us {
			if got, err := cache.User(t.Context(), place, u.ID); err != nil || got != u {
				t.Fatalf("%+v, %v", got, err)
			}
		}
	}
	if n := cache.Kept(); n > 4 {
		t.Errorf("%d answers are kept", n)
	}
	_, err := cache.User(t.Context(), place, "U99")
	if !problem.Is(err, problem.NotFound) {
		t.Errorf("nobody: %v", err)
	}
}
