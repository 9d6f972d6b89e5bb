//nolint:thelper // clauses are tests, whose lines should be told
package directorytest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"parley/cell/change"
	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

func workspaces(t *testing.T, w *world) {
	d := w.Directory()
	got, err := d.Workspace(bg(), "W1")
	first := directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen, Slug: "slug", Name: "Name"}
	if err != nil {
		t.Fatal(err)
	}
	want(t, "row", first, got)
	if !got.Open() || got.Place() != w.place {
		t.Errorf("open %v at %v", got.Open(), got.Place())
	}
	changed := first
	changed.State, changed.Slug, changed.Name = directory.StateFenced, "new", "New"
	if err := d.PutWorkspace(bg(), changed); err != nil {
		t.Fatal(err)
	}
	got, err = d.Workspace(bg(), "W1")
	if err != nil || got != changed || got.Open() {
		t.Errorf("after a change: %+v, %v", got, err)
	}
	_, err = d.Workspace(bg(), "W2")
	wantKind(t, "unknown workspace", err, problem.NotFound)
	for name, bad := range map[string]directory.Workspace{
		"id":    {Epoch: 1, State: directory.StateOpen},
		"epoch": {ID: "W3", State: directory.StateOpen},
		"state": {ID: "W3", Epoch: 1, State: "ajar"},
	} {
		wantKind(t, name, d.PutWorkspace(bg(), bad), problem.Invalid)
	}
}

func epochNeverGoesBack(t *testing.T, w *world) {
	d := w.Directory()
	w.put(t, topology.Place{Workspace: "W1", Generation: 5}, 7, directory.StateCopy)
	stored, err := d.Workspace(bg(), "W1")
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]directory.Workspace{
		"lower epoch":                    {ID: "W1", Epoch: 6, Generation: 5, State: directory.StateOpen},
		"lower epoch, higher generation": {ID: "W1", Epoch: 6, Generation: 9, State: directory.StateOpen},
		"same epoch, other generation":   {ID: "W1", Epoch: 7, Generation: 6, State: directory.StateOpen},
	} {
		wantKind(t, name, d.PutWorkspace(bg(), bad), problem.Conflict)
		got, err := d.Workspace(bg(), "W1")
		if err != nil || got != stored {
			t.Fatalf("%s: the row is %+v, %v", name, got, err)
		}
	}
	w.put(t, topology.Place{Workspace: "W1", Generation: 5}, 8, directory.StateOpen)
}

// writes is every write of a workspace's content.
func writes(d *directory.Directory, p topology.Place, pending directory.Entry) map[string]func() error {
	pending.Place = p
	return map[string]func() error{
		"PutUsers": func() error {
			_, err := d.PutUsers(bg(), p, []directory.User{{ID: "U9", Name: "nine"}})
			return err
		},
		"CreateChannel": func() error {
			_, _, err := d.CreateChannel(bg(), p, directory.Channel{ID: "C9", Name: "nine", CreatedBy: "U1"}, []topology.UserID{"U1"})
			return err
		},
		"FinishImport": func() error { return d.FinishImport(bg(), p, "C1") },
		"AddMembers": func() error {
			_, err := d.AddMembers(bg(), p, "C1", []topology.UserID{"U2"}, "U1", start)
			return err
		},
		"RemoveMember": func() error {
			_, err := d.RemoveMember(bg(), p, "C1", "U1", "U1", start)
			return err
		},
		"OutboxDone": func() error { return d.OutboxDone(bg(), pending, 1, 0) },
	}
}

func closedIsRefused(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	e := w.channel(t, w.place, "C1", "U1")
	before := w.snapshot(t, w.place)
	next := topology.Place{Workspace: "W1", Generation: 2}
	epoch := topology.Epoch(1)
	refused := func(name string, p topology.Place) {
		for write, do := range writes(w.Directory(), p, e) {
			wantKind(t, name+": "+write, do(), problem.Moved)
		}
		want(t, name, before, w.snapshot(t, w.place))
		want(t, name+": the next generation", 0, len(w.snapshot(t, next).Users))
	}
	refused("generation to come", next)
	refused("unknown workspace", topology.Place{Workspace: "W0", Generation: 1})
	for _, s := range []directory.State{directory.StateFenced, directory.StateCopy} {
		epoch++
		w.put(t, w.place, epoch, s)
		refused(string(s), w.place)
	}
	w.open(t, next, epoch+1)
	for write, do := range writes(w.Directory(), w.place, e) {
		wantKind(t, "generation of the past: "+write, do(), problem.Moved)
	}
	want(t, "generation of the past", before, w.snapshot(t, w.place))
}

func placesApart(t *testing.T, w *world) {
	places := []topology.Place{w.place, {Workspace: "W2", Generation: 1}, {Workspace: "W1", Generation: 2}}
	before := make([]snapshot, len(places))
	for i, p := range places {
		w.open(t, p, topology.Epoch(i+1))
		// The same names and ids everywhere.
		w.people(t, p, "U1", "U2")
		w.channel(t, p, "C1", "U1")
		if i > 0 {
			w.add(t, p, "C1", "U2")
		}
		before[i] = w.snapshot(t, p)
		before[i].consistent(t)
	}
	w.remove(t, places[2], "C1", "U1")
	for i, p := range places[:2] {
		want(t, fmt.Sprint(p), before[i], w.snapshot(t, p))
	}
	if _, ok, err := w.Directory().Member(bg(), w.place, "C1", "U2"); ok || err != nil {
		t.Errorf("a member of another generation shows: %v, %v", ok, err)
	}
	if us, err := w.Directory().UsersByName(bg(), topology.Place{Workspace: "W3", Generation: 1}, []string{"name-U1", "U1"}); len(us) > 0 || err != nil {
		t.Errorf("users of another workspace show: %v, %v", us, err)
	}
}

func putUsers(t *testing.T, w *world) {
	d := w.Directory()
	first := []directory.User{{ID: "U2", Name: "bob", DisplayName: "Bob", Admin: true}, {ID: "U1", Name: "ann"}}
	got, err := d.PutUsers(bg(), w.place, first)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "first", first, got)
	got, err = d.PutUsers(bg(), w.place, []directory.User{
		{ID: "U7", Name: "ann", DisplayName: "Another"}, {ID: "U3", Name: "Ann"}, {ID: "U8", Name: "bob"}, {ID: "U9", Name: "Ann"},
	})
	if err != nil {
		t.Fatal(err)
	}
	third := directory.User{ID: "U3", Name: "Ann"}
	want(t, "repeated", []directory.User{first[1], third, first[0], third}, got)
	us, err := d.Users(bg(), w.place, "", all)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "all", []directory.User{first[1], first[0], third}, us)
	u, err := d.User(bg(), w.place, "U2")
	if err != nil || u != first[0] {
		t.Errorf("User: %+v, %v", u, err)
	}
	_, err = d.User(bg(), w.place, "U7")
	wantKind(t, "who was not stored", err, problem.NotFound)
	if got, err := d.PutUsers(bg(), w.place, nil); len(got) > 0 || err != nil {
		t.Errorf("nobody: %v, %v", got, err)
	}
}

func putUsersAllOrNothing(t *testing.T, w *world) {
	w.people(t, w.place, "U1")
	before := w.snapshot(t, w.place)
	_, err := w.Directory().PutUsers(bg(), w.place, []directory.User{{ID: "U2", Name: "bob"}, {ID: "U1", Name: "an id that is taken"}})
	if err == nil {
		t.Fatal("an id was given twice")
	}
	want(t, "after a fault", before, w.snapshot(t, w.place))
}

func usersByName(t *testing.T, w *world) {
	d := w.Directory()
	// U2's name is U1's id: it must not take U1's mentions.
	if _, err := d.PutUsers(bg(), w.place, []directory.User{{ID: "U1", Name: "ann"}, {ID: "U2", Name: "U1"}, {ID: "U3", Name: "zoë 'x'"}}); err != nil {
		t.Fatal(err)
	}
	got, err := d.UsersByName(bg(), w.place, []string{"ann", "U1", "U2", "zoë 'x'", "nobody", "ann"})
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]topology.UserID{"ann": "U1", "U1": "U1", "U2": "U2", "zoë 'x'": "U3"} {
		if got[name] != id {
			t.Errorf("%q is %q, want %q", name, got[name], id)
		}
	}
	if id, ok := got["nobody"]; ok {
		t.Errorf("nobody is %q", id)
	}
	if got, err := d.UsersByName(bg(), w.place, nil); len(got) > 0 || err != nil {
		t.Errorf("no names: %v, %v", got, err)
	}
	if _, err := d.UsersByName(bg(), w.place, strings.Split(strings.Repeat("x,", 5000), ",")); err != nil {
		t.Errorf("too many names: %v", err)
	}
}

func createChannel(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	d := w.Directory()
	in := directory.Channel{ID: "C1", Name: "général", Topic: "on topic", Private: true, CreatedBy: "U1", CreatedTS: 42}
	ch, e, err := d.CreateChannel(bg(), w.place, in, []topology.UserID{"U2", "U1", "U2"})
	if err != nil {
		t.Fatal(err)
	}
	if ch.Number == 0 || ch.Number >= 1<<40 {
		t.Errorf("number %d", ch.Number)
	}
	in.Number = ch.Number
	want(t, "answer", in, ch)
	want(t, "entry", directory.Entry{
		ID: e.ID, Place: w.place, Channel: "C1", Kind: change.Created, Author: "U1", Subjects: []topology.UserID{"U2", "U1"}, At: start,
	}, e)
	for name, read := range map[string]func() (directory.Channel, error){
		"Channel":       func() (directory.Channel, error) { return d.Channel(bg(), w.place, "C1") },
		"ChannelByName": func() (directory.Channel, error) { return d.ChannelByName(bg(), w.place, "général") },
	} {
		got, err := read()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want(t, name, in, got)
	}
	w.snapshot(t, w.place).consistent(t)
	_, err = d.Channel(bg(), w.place, "C2")
	wantKind(t, "unknown id", err, problem.NotFound)
	_, err = d.ChannelByName(bg(), w.place, "Général")
	wantKind(t, "unknown name", err, problem.NotFound)
	_, err = d.MemberCount(bg(), w.place, "C2")
	wantKind(t, "count of an unknown channel", err, problem.NotFound)
	numbers := map[uint64]bool{ch.Number: true}
	for i := range 100 {
		id := topology.ChannelID(fmt.Sprintf("Cn%d", i))
		w.channel(t, w.place, id)
		row, err := d.Channel(bg(), w.place, id)
		if err != nil || numbers[row.Number] {
			t.Fatalf("number %d again, %v", row.Number, err)
		}
		numbers[row.Number] = true
	}
}

func createChannelConflict(t *testing.T, w *world) {
	w.people(t, w.place, "U1")
	w.channel(t, w.place, "C1", "U1")
	before := w.snapshot(t, w.place)
	for name, c := range map[string]struct {
		row  directory.Channel
		us   []topology.UserID
		kind problem.Kind
	}{
		"name taken":     {directory.Channel{ID: "C2", Name: "name-C1", CreatedBy: "U1"}, []topology.UserID{"U1"}, problem.Conflict},
		"id taken":       {directory.Channel{ID: "C1", Name: "other", CreatedBy: "U1"}, []topology.UserID{"U1"}, problem.Conflict},
		"unknown member": {directory.Channel{ID: "C2", Name: "other", CreatedBy: "U1"}, []topology.UserID{"U1", "U8"}, problem.Invalid},
	} {
		_, e, err := w.Directory().CreateChannel(bg(), w.place, c.row, c.us)
		wantKind(t, name, err, c.kind)
		want(t, name+": entry", directory.Entry{}, e)
		want(t, name, before, w.snapshot(t, w.place))
	}
}

func importing(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	d := w.Directory()
	row, _, err := d.CreateChannel(bg(), w.place, directory.Channel{ID: "C1", Name: "old", Importing: true, ImportDigest: "abc", CreatedBy: "U1"}, nil)
	if err != nil || !row.Importing {
		t.Fatalf("%+v, %v", row, err)
	}
	if cs, err := d.ListChannels(bg(), w.place, "U1", true, "", all); len(cs) > 0 || err != nil {
		t.Errorf("a channel being imported is listed: %v, %v", cs, err)
	}
	if got, err := d.ChannelByName(bg(), w.place, "old"); err != nil || got != row {
		t.Errorf("by name: %+v, %v", got, err)
	}
	_, err = d.AddMembers(bg(), w.place, "C1", []topology.UserID{"U1"}, "U1", start)
	wantKind(t, "AddMembers", err, problem.Conflict)
	_, err = d.RemoveMember(bg(), w.place, "C1", "U1", "U1", start)
	wantKind(t, "RemoveMember", err, problem.Conflict)
	for range 2 {
		if err := d.FinishImport(bg(), w.place, "C1"); err != nil {
			t.Fatal(err)
		}
	}
	w.add(t, w.place, "C1", "U1")
	row.Importing = false
	cs, err := d.ListChannels(bg(), w.place, "U2", false, "", all)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "shown", []directory.Channel{row}, cs)
	wantKind(t, "unknown", d.FinishImport(bg(), w.place, "C2"), problem.NotFound)
}

func endedContext(t *testing.T, w *world) {
	w.people(t, w.place, "U1")
	before := w.snapshot(t, w.place)
	ctx, cancel := context.WithCancel(bg())
	cancel()
	_, err := w.Directory().PutUsers(ctx, w.place, []directory.User{{ID: "U2", Name: "bob"}})
	wantKind(t, "write", err, problem.Unavailable)
	_, err = w.Directory().Users(ctx, w.place, "", 10)
	wantKind(t, "read", err, problem.Unavailable)
	_, err = w.Directory().User(ctx, w.place, "U1")
	wantKind(t, "read one", err, problem.Unavailable)
	want(t, "after it", before, w.snapshot(t, w.place))
}
