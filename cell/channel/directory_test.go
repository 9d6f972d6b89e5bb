package channel_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/roster"
	"parley/internal/ids"
	"parley/internal/problem"
	"parley/internal/topology"
)

// The cell's own directory and roster, in place of the tests' double.
func TestDirectory_RostersAndPostsMeet(t *testing.T) {
	c := newCell(t)
	d, err := directory.Open(c.ctx(), filepath.Join(t.TempDir(), "cell.db"), c.clock.now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	c.start("cs-1", func(_ *channel.Config, deps *channel.Deps) { deps.Directory = directory.ForChannels(d) })
	ws := topology.WorkspaceID(ids.New(ids.Workspace))
	p := topology.Place{Workspace: ws, Generation: 1}
	w := directory.Workspace{ID: ws, Epoch: 1, Generation: 1, State: directory.StateOpen, Slug: "acme", Name: "Acme"}
	if err := d.PutWorkspace(c.ctx(), w); err != nil {
		t.Fatal(err)
	}
	us := make([]topology.UserID, 3)
	for i := range us {
		us[i] = topology.UserID(ids.New(ids.User))
		if _, err := d.PutUsers(c.ctx(), p, []directory.User{{ID: us[i], Name: fmt.Sprintf("user%d", i), DisplayName: "User"}}); err != nil {
			t.Fatal(err)
		}
	}
	r := roster.New(roster.Config{}, d, c.cluster, c.bus, c.clock.now, quiet())
	row, err := r.Create(c.ctx(), p, directory.Channel{ID: topology.ChannelID(ids.New(ids.Channel)), Name: "general", CreatedBy: us[0]}, us[:1])
	if err != nil {
		t.Fatal(err)
	}
	ref := topology.ChannelRef{Place: p, Channel: row.ID}
	first := c.post(ref, us[0], "hello @user1", "k")
	if first.Rev != 2 || len(first.Mentions) != 1 || first.Mentions[0] != us[1] {
		t.Errorf("the first post is %+v", first)
	}
	_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: us[1], Text: "let me in"})
	wantKind(t, err, problem.Denied)
	if rev, err := r.Add(c.ctx(), p, row.ID, us[1:], us[0]); err != nil || rev != 3 {
		t.Fatalf("rev %d, %v", rev, err)
	}
	if m, ok, err := d.Member(c.ctx(), p, row.ID, us[1]); err != nil || !ok || m.JoinedSeq != 1 {
		t.Errorf("the new member is %+v, %v, %v", m, ok, err)
	}
	if m := c.post(ref, us[1], "thanks", ""); m.Rev != 4 || m.Seq != 2 {
		t.Errorf("the new member's post is %+v", m)
	}
	if _, err := r.Remove(c.ctx(), p, row.ID, us[1], us[0]); err != nil {
		t.Fatal(err)
	}
	_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: us[1], Text: "still here"})
	wantKind(t, err, problem.Denied)
	w.State = directory.StateFenced
	w.Epoch++
	if err := d.PutWorkspace(c.ctx(), w); err != nil {
		t.Fatal(err)
	}
	c.clock.add(channel.Default().CheckTTL)
	_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: us[0], Text: "too late"})
	wantKind(t, err, problem.Moved)
}
