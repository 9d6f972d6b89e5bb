package directory_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

// sharedLog is a channel's log as all processes reach it: it takes a key once.
type sharedLog struct {
	mu    sync.Mutex
	lines []channel.Member
	calls int
}

// Member loses an answer now and then, before or after it has the change.
func (l *sharedLog) Member(_ context.Context, m channel.Member) (change.Change, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls++; l.calls%11 == 0 {
		return change.Change{}, problem.New(problem.Unavailable, "no owner")
	}
	at := slices.IndexFunc(l.lines, func(o channel.Member) bool { return o.Key == m.Key })
	if at < 0 {
		at = len(l.lines)
		l.lines = append(l.lines, m)
	}
	if l.calls%7 == 0 {
		return change.Change{}, problem.New(problem.Unknown, "the answer was lost")
	}
	return change.Change{Rev: topology.Rev(at + 1)}, nil
}

// rostersAtOnce has several processes change one channel: its log has the
// directory's changes, each once and in order (R1 of package roster).
func rostersAtOnce(t *testing.T, ds []*directory.Directory) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log, bus := &sharedLog{}, router.NewLocal(router.LocalConfig{})
	if err := ds[0].PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen}); err != nil {
		t.Fatal(err)
	}
	us := []directory.User{{ID: "U0", Name: "0"}, {ID: "U1", Name: "1"}, {ID: "U2", Name: "2"}}
	if _, err := ds[0].PutUsers(ctx, place, us); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ds[0].CreateChannel(ctx, place, directory.Channel{ID: "C1", Name: "one", CreatedBy: "U0"}, []topology.UserID{"U0"}); err != nil {
		t.Fatal(err)
	}
	var runs, calls sync.WaitGroup
	for i, d := range ds {
		r := roster.New(roster.Config{Every: 20 * time.Millisecond, Name: strconv.Itoa(i)}, d, log, bus, time.Now, slog.New(slog.DiscardHandler))
		runs.Go(func() {
			if err := r.Run(ctx, func() {}); err != nil {
				t.Error(err)
			}
		})
		for g := range 2 {
			calls.Go(func() {
				u := topology.UserID(fmt.Sprintf("U%d", 1+g))
				for range 12 {
					_, err := r.Add(ctx, place, "C1", []topology.UserID{u}, "U0")
					if err == nil || problem.Is(err, problem.Unknown) {
						_, err = r.Remove(ctx, place, "C1", u, "U0")
					}
					if err != nil && !problem.Is(err, problem.Unknown) {
						t.Error(err)
					}
				}
			})
		}
	}
	calls.Wait()
	late := time.After(30 * time.Second)
	for left := -1; left != 0; {
		es, err := ds[0].OutboxPending(ctx, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-late:
			t.Fatalf("%d entries are left", len(es))
		default:
			left = len(es)
		}
	}
	cancel()
	runs.Wait()
	inOrder(t, log, ds[0])
}

func inOrder(t *testing.T, log *sharedLog, d *directory.Directory) {
	t.Helper()
	var last uint64
	in := map[topology.UserID]bool{}
	for _, m := range log.lines {
		id, err := strconv.ParseUint(strings.TrimPrefix(m.Key, "outbox-"), 10, 64)
		if err != nil || id <= last {
			t.Fatalf("entry %q after %d", m.Key, last)
		}
		last = id
		for _, u := range m.Subjects {
			if in[u] == (m.Kind != change.Left) {
				t.Fatalf("%s: kind %v of %s, who is in: %v", m.Key, m.Kind, u, in[u])
			}
			in[u] = m.Kind != change.Left
		}
	}
	changes := 0
	for _, u := range []topology.UserID{"U0", "U1", "U2"} {
		cs, err := d.UserChanges(t.Context(), place, u, 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		changes += len(cs)
		if _, ok, err := d.Member(t.Context(), place, "C1", u); ok != in[u] || err != nil {
			t.Errorf("%s is a member: %v, in the log: %v, %v", u, ok, in[u], err)
		}
	}
	if changes != len(log.lines) {
		t.Errorf("the directory has %d changes, the log %d", changes, len(log.lines))
	}
}

func TestSQLite_RostersAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d.db")
	var ds []*directory.Directory
	for range 3 {
		d, err := directory.Open(t.Context(), file, time.Now, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}()
		ds = append(ds, d)
	}
	rostersAtOnce(t, ds)
}
