//nolint:thelper // clauses are tests, whose lines should be told
package directorytest

import (
	"errors"
	"strings"
	"testing"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

func textIsChecked(t *testing.T, w *world) {
	w.people(t, w.place, "U1")
	w.channel(t, w.place, "C1", "U1")
	before := w.snapshot(t, w.place)
	d := w.Directory()
	for _, bad := range []string{"a\x00b", "a\xffb"} {
		put := func(u directory.User) error {
			_, err := d.PutUsers(bg(), w.place, []directory.User{{ID: "U7", Name: "seven"}, u})
			return err
		}
		create := func(c directory.Channel) error {
			_, _, err := d.CreateChannel(bg(), w.place, c, []topology.UserID{"U1"})
			return err
		}
		_, added := d.AddMembers(bg(), w.place, "C1", []topology.UserID{topology.UserID(bad)}, "U1", start)
		_, addedBy := d.AddMembers(bg(), w.place, "C1", []topology.UserID{"U1"}, topology.UserID(bad), start)
		_, removedBy := d.RemoveMember(bg(), w.place, "C1", "U1", topology.UserID(bad), start)
		for name, c := range map[string]struct {
			err   error
			field string
		}{
			"workspace's id":      {d.PutWorkspace(bg(), directory.Workspace{ID: topology.WorkspaceID(bad), Epoch: 1, State: directory.StateOpen}), "id"},
			"workspace's name":    {d.PutWorkspace(bg(), directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen, Name: bad}), "name"},
			"user's name":         {put(directory.User{ID: "U8", Name: bad}), "name"},
			"user's display name": {put(directory.User{ID: "U8", Name: "x", DisplayName: bad}), "display_name"},
			"channel's name":      {create(directory.Channel{ID: "C8", Name: bad, CreatedBy: "U1"}), "name"},
			"channel's topic":     {create(directory.Channel{ID: "C8", Name: "x", Topic: bad, CreatedBy: "U1"}), "topic"},
			"channel's maker":     {create(directory.Channel{ID: "C8", Name: "x", CreatedBy: topology.UserID(bad)}), "created_by"},
			"new member":          {added, "user_ids"},
			"who adds":            {addedBy, "by"},
			"who removes":         {removedBy, "by"},
		} {
			wantKind(t, name, c.err, problem.Invalid)
			if p, ok := errors.AsType[*problem.Error](c.err); !ok || p.Field != c.field {
				t.Errorf("%s: %v names another field than %s", name, c.err, c.field)
			}
		}
		nobodyHas(t, w, bad)
		want(t, "nothing was done", before, w.snapshot(t, w.place))
	}
	long := strings.Repeat("x", 801)
	_, err := d.PutUsers(bg(), w.place, []directory.User{{ID: "U8", Name: long}})
	wantKind(t, "a name that no index takes", err, problem.Invalid)
}

// nobodyHas asks for a text that can't be stored.
func nobodyHas(t *testing.T, w *world, bad string) {
	d := w.Directory()
	_, err := d.Channel(bg(), w.place, topology.ChannelID(bad))
	wantKind(t, "Channel", err, problem.NotFound)
	_, err = d.ChannelByName(bg(), w.place, bad)
	wantKind(t, "ChannelByName", err, problem.NotFound)
	_, err = d.User(bg(), w.place, topology.UserID(bad))
	wantKind(t, "User", err, problem.NotFound)
	_, err = d.Workspace(bg(), topology.WorkspaceID(bad))
	wantKind(t, "Workspace", err, problem.NotFound)
	if _, ok, err := d.Member(bg(), w.place, "C1", topology.UserID(bad)); ok || err != nil {
		t.Errorf("Member: %v, %v", ok, err)
	}
	_, err = d.AddMembers(bg(), w.place, topology.ChannelID(bad), []topology.UserID{"U1"}, "U1", start)
	wantKind(t, "AddMembers", err, problem.NotFound)
	wantKind(t, "FinishImport", d.FinishImport(bg(), w.place, topology.ChannelID(bad)), problem.NotFound)
	if e, err := d.RemoveMember(bg(), w.place, "C1", topology.UserID(bad), "U1", start); e.ID != 0 || err != nil {
		t.Errorf("RemoveMember: %+v, %v", e, err)
	}
	_, err = d.PutUsers(bg(), topology.Place{Workspace: topology.WorkspaceID(bad), Generation: 1}, []directory.User{{ID: "U8", Name: "x"}})
	wantKind(t, "a workspace", err, problem.Moved)
	// A message may say anything behind an @.
	found, err := d.UsersByName(bg(), w.place, []string{bad, "U1"})
	if err != nil || found["U1"] != "U1" || found[bad] != "" {
		t.Errorf("UsersByName: %v, %v", found, err)
	}
	revs, err := d.URevs(bg(), w.place, []topology.UserID{topology.UserID(bad), "U1"})
	if err != nil || len(revs) != 1 {
		t.Errorf("URevs: %v, %v", revs, err)
	}
	_, err = d.Users(bg(), w.place, topology.UserID(bad), all)
	wantKind(t, "a cursor", err, problem.Invalid)
}
