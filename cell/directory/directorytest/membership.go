//nolint:thelper // clauses are tests, whose lines should be told
package directorytest

import (
	"fmt"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

func members(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2", "U3", "U4")
	w.channel(t, w.place, "C1", "U1")
	d := w.Directory()
	at := start.Add(time.Minute)
	e, err := d.AddMembers(bg(), w.place, "C1", []topology.UserID{"U3", "U1", "U2", "U3"}, "U4", at)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "joined", directory.Entry{
		ID: e.ID, Place: w.place, Channel: "C1", Kind: change.Joined, Author: "U4", Subjects: []topology.UserID{"U3", "U2"}, At: at,
	}, e)
	s := w.snapshot(t, w.place)
	s.consistent(t)
	want(t, "members", []topology.UserID{"U1", "U2", "U3"}, s.Members["C1"])
	want(t, "change", []directory.UserChange{{URev: 1, Kind: directory.Gained, Channel: "C1", By: "U4", At: at.UnixMicro()}}, s.Changes["U3"])
	want(t, "all were members", directory.Entry{}, w.add(t, w.place, "C1", "U3", "U2"))
	want(t, "nobody", directory.Entry{}, w.add(t, w.place, "C1"))
	want(t, "nothing was done", s, w.snapshot(t, w.place))

	left, err := d.RemoveMember(bg(), w.place, "C1", "U3", "U3", at)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "left", directory.Entry{
		ID: left.ID, Place: w.place, Channel: "C1", Kind: change.Left, Author: "U3", Subjects: []topology.UserID{"U3"}, At: at,
	}, left)
	s = w.snapshot(t, w.place)
	s.consistent(t)
	want(t, "members", []topology.UserID{"U1", "U2"}, s.Members["C1"])
	want(t, "not a member", directory.Entry{}, w.remove(t, w.place, "C1", "U3"))
	want(t, "nobody of the workspace", directory.Entry{}, w.remove(t, w.place, "C1", "U9"))
	want(t, "nothing was done", s, w.snapshot(t, w.place))
	if _, ok, err := d.Member(bg(), w.place, "C1", "U3"); ok || err != nil {
		t.Errorf("who left is a member: %v, %v", ok, err)
	}
	if _, ok, err := d.Member(bg(), w.place, "C9", "U1"); ok || err != nil {
		t.Errorf("a member of no channel: %v, %v", ok, err)
	}
}

func refusedMeansNothing(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	w.channel(t, w.place, "C1", "U1")
	before := w.snapshot(t, w.place)
	d := w.Directory()
	_, err := d.AddMembers(bg(), w.place, "C1", []topology.UserID{"U2", "U8"}, "U1", start)
	wantKind(t, "somebody unknown", err, problem.Invalid)
	_, err = d.AddMembers(bg(), w.place, "C8", []topology.UserID{"U2"}, "U1", start)
	wantKind(t, "unknown channel", err, problem.NotFound)
	_, err = d.RemoveMember(bg(), w.place, "C8", "U1", "U1", start)
	wantKind(t, "unknown channel", err, problem.NotFound)
	want(t, "after refusals", before, w.snapshot(t, w.place))
}

func pending(t tb, d *directory.Directory) []directory.Entry {
	t.Helper()
	es, err := d.OutboxPending(bg(), 0, all)
	if err != nil {
		t.Fatalf("OutboxPending: %v", err)
	}
	return es
}

func outboxOrder(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	d := w.Directory()
	es := []directory.Entry{w.channel(t, w.place, "C1", "U1"), w.channel(t, w.place, "C2")}
	es = append(es, w.add(t, w.place, "C1", "U2"), w.add(t, w.place, "C2", "U2"), w.remove(t, w.place, "C1", "U2"))
	for i := range es[1:] {
		if es[i+1].ID <= es[i].ID {
			t.Fatalf("entry %d after %d", es[i+1].ID, es[i].ID)
		}
		if es[i+1].Key() == es[i].Key() {
			t.Fatalf("key %q twice", es[i].Key())
		}
	}
	want(t, "pending", es, utc(pending(t, d)))
	some, err := d.OutboxPending(bg(), es[1].ID, 2)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "a page", es[2:4], utc(some))
	of, err := d.OutboxOf(bg(), w.place, "C1", es[3].ID, all)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "of a channel", []directory.Entry{es[0], es[2]}, utc(of))
	for range 2 {
		if err := d.OutboxDone(bg(), es[0], 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "without the one done", es[1:], utc(pending(t, d)))
	// An id is never given again, not even when the outbox was empty meanwhile.
	for _, e := range es {
		if err := d.OutboxDone(bg(), e, 2, 0); err != nil {
			t.Fatal(err)
		}
	}
	if e := w.add(t, w.place, "C1", "U2"); e.ID <= es[4].ID {
		t.Errorf("id %d again", e.ID)
	}
}

// utc makes times comparable: engines give them in local time.
func utc(es []directory.Entry) []directory.Entry {
	for i := range es {
		es[i].At = es[i].At.UTC()
	}
	return es
}

func outboxDoneSettlesItsOwn(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	d := w.Directory()
	created := w.channel(t, w.place, "C1", "U1")
	first := w.add(t, w.place, "C1", "U2")
	left := w.remove(t, w.place, "C1", "U2")
	again := w.add(t, w.place, "C1", "U2")
	membership := func(u topology.UserID, waiting bool, rev topology.Rev, seq topology.Seq) {
		t.Helper()
		m, ok, err := d.Member(bg(), w.place, "C1", u)
		if err != nil || !ok {
			t.Fatalf("%s is no member: %v", u, err)
		}
		if waiting {
			if m.JoinedSeq < 1<<62 || m.JoinedRev != 0 {
				t.Fatalf("%s joined at %+v, though the log does not have it", u, m)
			}
			return
		}
		want(t, "membership of "+string(u), directory.Membership{Channel: "C1", JoinedSeq: seq, JoinedRev: rev}, m)
	}
	done := func(e directory.Entry, rev topology.Rev, seq topology.Seq) {
		t.Helper()
		if err := d.OutboxDone(bg(), e, rev, seq); err != nil {
			t.Fatal(err)
		}
	}
	membership("U1", true, 0, 0)
	done(created, 1, 0)
	membership("U1", false, 1, 0)
	done(first, 5, 3)
	membership("U2", true, 0, 0) // that joining is over; this one is another
	done(left, 6, 3)
	membership("U2", true, 0, 0)
	done(again, 9, 5)
	membership("U2", false, 9, 5)
	done(again, 20, 10)
	membership("U2", false, 9, 5)
	of, err := d.ChannelsOf(bg(), w.place, "U2")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "ChannelsOf", []directory.Membership{{Channel: "C1", JoinedSeq: 5, JoinedRev: 9}}, of)
}

func outboxClosed(t *testing.T, w *world) {
	other := topology.Place{Workspace: "W2", Generation: 1}
	w.open(t, other, 1)
	w.people(t, w.place, "U1")
	e := w.channel(t, w.place, "C1", "U1")
	kept := w.channel(t, other, "C2")
	w.put(t, w.place, 2, directory.StateFenced)
	want(t, "fenced", []directory.Entry{kept}, utc(pending(t, w.Directory())))
	w.open(t, w.place, 3)
	want(t, "open again", []directory.Entry{e, kept}, utc(pending(t, w.Directory())))
	w.open(t, topology.Place{Workspace: "W1", Generation: 2}, 4)
	want(t, "another generation", []directory.Entry{kept}, utc(pending(t, w.Directory())))
}

func userChangesAreDense(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2", "U3")
	w.channel(t, w.place, "C1", "U1", "U2")
	w.channel(t, w.place, "C2", "U2")
	w.remove(t, w.place, "C1", "U2")
	w.add(t, w.place, "C1", "U2", "U3")
	w.remove(t, w.place, "C2", "U2")
	s := w.snapshot(t, w.place)
	s.consistent(t)
	var got []string
	for _, c := range s.Changes["U2"] {
		got = append(got, fmt.Sprintf("%d %s %s", c.URev, c.Kind, c.Channel))
	}
	want(t, "U2's changes", []string{"1 gained C1", "2 gained C2", "3 lost C1", "4 gained C1", "5 lost C2"}, got)
	page, err := w.Directory().UserChanges(bg(), w.place, "U2", 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "a page", s.Changes["U2"][1:4], page)
	// Urevs of many: more than one question's worth, unknown ones left out.
	us := []topology.UserID{"U1", "U3"}
	for i := range 1200 {
		us = append(us, topology.UserID(fmt.Sprintf("Unobody%d", i)))
	}
	revs, err := w.Directory().URevs(bg(), w.place, append(us, "U2"))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "urevs", map[topology.UserID]topology.URev{"U1": 1, "U2": 5, "U3": 1}, revs)
}

func listChannels(t *testing.T, w *world) {
	w.people(t, w.place, "U1", "U2")
	w.channel(t, w.place, "C1")
	for _, c := range []struct {
		id topology.ChannelID
		us []topology.UserID
	}{{"C2", []topology.UserID{"U1"}}, {"C3", nil}} {
		row := directory.Channel{ID: c.id, Name: "name-" + string(c.id), Private: true, CreatedBy: "U1"}
		if _, _, err := w.Directory().CreateChannel(bg(), w.place, row, c.us); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		user  topology.UserID
		admin bool
		see   []topology.ChannelID
	}{
		{"U1", false, []topology.ChannelID{"C1", "C2"}},
		{"U2", false, []topology.ChannelID{"C1"}},
		{"", false, []topology.ChannelID{"C1"}},
		{"U2", true, []topology.ChannelID{"C1", "C2", "C3"}},
		{"", true, []topology.ChannelID{"C1", "C2", "C3"}},
	} {
		rows, err := w.Directory().ListChannels(bg(), w.place, c.user, c.admin, "", all)
		if err != nil {
			t.Fatal(err)
		}
		var see []topology.ChannelID
		for _, r := range rows {
			see = append(see, r.ID)
		}
		want(t, fmt.Sprintf("%q sees (admin %v)", c.user, c.admin), c.see, see)
	}
	w.remove(t, w.place, "C2", "U1")
	if rows, err := w.Directory().ListChannels(bg(), w.place, "U1", false, "", all); len(rows) != 1 || err != nil {
		t.Errorf("after leaving: %v, %v", rows, err)
	}
}
