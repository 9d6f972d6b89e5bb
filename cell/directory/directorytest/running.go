//nolint:thelper // clauses are tests, whose lines should be told
package directorytest

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

func pages(t *testing.T, w *world) {
	d := w.Directory()
	names := []string{"B", "a", "a b", "aa", "z", "{", "é", "中"} // by bytes: upper case first, other scripts last
	for i, n := range names {
		id := fmt.Sprintf("%03d", len(names)-i)
		if _, err := d.PutUsers(bg(), w.place, []directory.User{{ID: topology.UserID("U" + id), Name: n}}); err != nil {
			t.Fatal(err)
		}
		row := directory.Channel{ID: topology.ChannelID("C" + id), Name: n, CreatedBy: "U1"}
		if _, _, err := d.CreateChannel(bg(), w.place, row, nil); err != nil {
			t.Fatal(err)
		}
		w.open(t, topology.Place{Workspace: topology.WorkspaceID("WX" + id), Generation: 1}, 1)
		w.add(t, w.place, "C008", topology.UserID("U"+id))
	}
	for _, limit := range []int{1, 3, 8, 9} {
		got := walk(t, limit, func(after string) ([]string, error) {
			cs, err := d.ListChannels(bg(), w.place, "", true, after, limit)
			return keys(cs, func(c directory.Channel) string { return c.Name }), err
		})
		want(t, "channels", names, got)
		us := walk(t, limit, func(after string) ([]string, error) {
			us, err := d.Users(bg(), w.place, topology.UserID(after), limit)
			return keys(us, func(u directory.User) string { return string(u.ID) }), err
		})
		if len(us) != len(names) || !slices.IsSorted(us) {
			t.Fatalf("users: %v", us)
		}
		ms := walk(t, limit, func(after string) ([]string, error) {
			us, err := d.Members(bg(), w.place, "C008", topology.UserID(after), limit)
			return keys(us, func(u topology.UserID) string { return string(u) }), err
		})
		want(t, "members", us, ms)
		ws := walk(t, limit, func(after string) ([]string, error) {
			ws, err := d.Workspaces(bg(), topology.WorkspaceID(after), limit)
			return keys(ws, func(w directory.Workspace) string { return string(w.ID) }), err
		})
		if len(ws) != len(names)+1 || !slices.IsSorted(ws) {
			t.Fatalf("workspaces: %v", ws)
		}
	}
}

func keys[T any](in []T, key func(T) string) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = key(v)
	}
	return out
}

// walk follows pages to the end.
func walk(t *testing.T, limit int, page func(after string) ([]string, error)) (out []string) {
	after := ""
	for {
		got, err := page(after)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > limit {
			t.Fatalf("%d rows, limit %d", len(got), limit)
		}
		out = append(out, got...)
		if len(got) < limit {
			return out
		}
		after = got[len(got)-1]
	}
}

func bounds(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2", "U3")
	w.channel(t, w.place, "C1", "U1", "U2", "U3")
	w.channel(t, w.place, "C2", "U1")
	d := w.Directory()
	for _, limit := range []int{math.MinInt, -1, 0, math.MaxInt} {
		n := map[string]int{}
		count := func(name string, rows int, err error) {
			if err != nil {
				t.Fatalf("%s, limit %d: %v", name, limit, err)
			}
			n[name] = rows
		}
		us, err := d.Users(bg(), w.place, "", limit)
		count("Users", len(us), err)
		ms, err := d.Members(bg(), w.place, "C1", "", limit)
		count("Members", len(ms), err)
		cs, err := d.ListChannels(bg(), w.place, "U1", false, "", limit)
		count("ListChannels", len(cs), err)
		ws, err := d.Workspaces(bg(), "", limit)
		count("Workspaces", len(ws), err)
		es, err := d.OutboxPending(bg(), 0, limit)
		count("OutboxPending", len(es), err)
		of, err := d.OutboxOf(bg(), w.place, "C1", math.MaxUint64, limit)
		count("OutboxOf", len(of), err)
		changes, err := d.UserChanges(bg(), w.place, "U1", 0, limit)
		count("UserChanges", len(changes), err)
		for name, rows := range n {
			if (limit > 0) != (rows > 0) {
				t.Errorf("%s gives %d rows at limit %d", name, rows, limit)
			}
		}
	}
	// A cursor from the future, as a client may send it.
	for _, after := range []topology.URev{3, math.MaxInt64, math.MaxUint64} {
		if cs, err := d.UserChanges(bg(), w.place, "U1", after, 10); len(cs) > 0 || err != nil {
			t.Errorf("changes after %d: %v, %v", after, cs, err)
		}
	}
	if es, err := d.OutboxPending(bg(), math.MaxUint64, 10); len(es) > 0 || err != nil {
		t.Errorf("entries after all: %v, %v", es, err)
	}
}

func crashKeeps(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	w.channel(t, w.place, "C0", "U1")
	for i := range 8 {
		ch := topology.ChannelID(fmt.Sprintf("C%d", i+1))
		w.channel(t, w.place, ch, "U1")
		w.add(t, w.place, ch, "U2")
		if i%2 == 1 {
			w.remove(t, w.place, ch, "U1")
		}
		es := pending(t, w.Directory())
		if err := w.Directory().OutboxDone(bg(), es[0], topology.Rev(i+1), 0); err != nil {
			t.Fatal(err)
		}
		before := w.snapshot(t, w.place)
		if err := w.Crash(); err != nil {
			t.Fatalf("crash %d: %v", i, err)
		}
		after := w.snapshot(t, w.place)
		want(t, "after a crash", before, after)
		after.consistent(t)
	}
	// Ids and urevs go on where they were.
	last := pending(t, w.Directory())
	if e := w.add(t, w.place, "C8", "U1"); e.ID <= last[len(last)-1].ID {
		t.Errorf("id %d again", e.ID)
	}
}

// writersAtOnce lets many change the same and different things.
func writersAtOnce(t *testing.T, w *world) {
	const writers, rounds = 8, 25
	us := []topology.UserID{"U0", "U1", "U2", "U3"}
	w.people(t, w.place, us...)
	w.channel(t, w.place, "C0", "U0")
	w.channel(t, w.place, "C1", "U0")
	errs := make(chan error, writers)
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range rounds {
				d := w.Directory()
				ch := topology.ChannelID(fmt.Sprintf("C%d", (g+i)%2))
				if _, err := d.AddMembers(bg(), w.place, ch, us[g%2:], "U0", start); err != nil {
					errs <- err
					return
				}
				if _, err := d.RemoveMember(bg(), w.place, ch, us[(g+i)%4], "U0", start); err != nil {
					errs <- err
					return
				}
				if _, err := d.PutUsers(bg(), w.place, []directory.User{{ID: topology.UserID(fmt.Sprintf("Ux%d-%d", g, i)), Name: fmt.Sprintf("x%d", i)}}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	s := w.snapshot(t, w.place)
	s.consistent(t)
	if len(s.Users) != len(us)+rounds {
		t.Errorf("%d users: a name was given twice", len(s.Users))
	}
}

// readersSeeWhole makes channels with two members: a reader must never see one
// of them alone, nor the channel without them.
func readersSeeWhole(t *testing.T, w *world) {
	const rounds = 40
	w.people(t, w.place, "U1", "U2")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ch := topology.ChannelID(fmt.Sprintf("Cx%d", i%rounds))
				d := w.Directory()
				_, missing := d.Channel(bg(), w.place, ch)
				us, err := d.Members(bg(), w.place, ch, "", all)
				if err != nil || len(us) == 1 || (missing == nil && len(us) == 0) {
					t.Errorf("members %v, %v; the channel: %v", us, err, missing)
					return
				}
			}
		})
	}
	for i := range rounds {
		w.channel(t, w.place, topology.ChannelID(fmt.Sprintf("Cx%d", i)), "U1", "U2")
	}
	close(stop)
	wg.Wait()
}

func readYourWrites(t *testing.T, w *world) {
	w.people(t, w.place, "U1")
	w.channel(t, w.place, "C1")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			u := topology.UserID(fmt.Sprintf("Ug%d", g))
			w.people(t, w.place, u)
			for range 20 {
				w.add(t, w.place, "C1", u)
				if _, ok, err := w.Directory().Member(bg(), w.place, "C1", u); !ok || err != nil {
					t.Errorf("%s is no member after joining: %v", u, err)
					return
				}
				w.remove(t, w.place, "C1", u)
				if _, ok, err := w.Directory().Member(bg(), w.place, "C1", u); ok || err != nil {
					t.Errorf("%s is a member after leaving: %v", u, err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.snapshot(t, w.place).consistent(t)
}

// nothingAfterClosing closes the workspace among writers: what is written when that
// has been answered is all there ever is.
func nothingAfterClosing(t *testing.T, w *world) {
	const writers, rounds = 6, 8
	w.people(t, w.place, "U1", "U2", "U3")
	w.channel(t, w.place, "C1", "U1")
	epoch := topology.Epoch(1)
	for range rounds {
		w.open(t, w.place, epoch+1)
		var wg sync.WaitGroup
		begun := make(chan struct{}, writers)
		for g := range writers {
			wg.Go(func() {
				u := topology.UserID(fmt.Sprintf("U%d", 1+g%3))
				err := w.comeAndGo(u)
				begun <- struct{}{}
				for err == nil {
					err = w.comeAndGo(u)
				}
				if !problem.Is(err, problem.Moved) {
					t.Error(err)
				}
			})
		}
		for range writers {
			<-begun
		}
		epoch += 2
		w.put(t, w.place, epoch, directory.StateFenced)
		closed := w.snapshot(t, w.place)
		wg.Wait()
		want(t, "after closing", closed, w.snapshot(t, w.place))
		closed.consistent(t)
	}
}

func (w *world) comeAndGo(u topology.UserID) error {
	if _, err := w.Directory().AddMembers(bg(), w.place, "C1", []topology.UserID{u}, "U1", start); err != nil {
		return err
	}
	_, err := w.Directory().RemoveMember(bg(), w.place, "C1", u, "U1", start)
	return err
}

// epochsRace puts many epochs at once: the highest stays.
func epochsRace(t *testing.T, w *world) {
	var wg sync.WaitGroup
	for e := range topology.Epoch(24) {
		wg.Go(func() {
			err := w.Directory().PutWorkspace(bg(), directory.Workspace{ID: "Wnew", Epoch: e + 1, Generation: topology.Generation(e), State: directory.StateOpen})
			if err != nil && !problem.Is(err, problem.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := w.Directory().Workspace(bg(), "Wnew")
	if err != nil || got.Epoch != 24 || got.Generation != 23 {
		t.Errorf("%+v, %v", got, err)
	}
}
