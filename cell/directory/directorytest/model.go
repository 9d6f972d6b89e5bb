//nolint:thelper // it is a test
package directorytest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

// model is the directory in a few maps: who is in which channel, what every user
// went through, and the channel that each pending entry is about.
type model struct {
	members map[topology.ChannelID]map[topology.UserID]bool
	changes map[topology.UserID][]string
	outbox  []directory.Entry
}

func (m *model) record(e directory.Entry, kind string) {
	m.outbox = append(m.outbox, e)
	for _, u := range e.Subjects {
		m.changes[u] = append(m.changes[u], kind+" "+string(e.Channel))
	}
}

// runModel compares random histories, crashes among them, with the model. Each
// has a workspace of its own: to open a directory takes longer.
func runModel(t *testing.T, w *world) {
	histories := 0
	rapid.Check(t, func(t *rapid.T) {
		histories++
		w := &world{Instance: w.Instance, place: topology.Place{Workspace: topology.WorkspaceID(fmt.Sprintf("Wm%d", histories)), Generation: 1}}
		w.open(t, w.place, 1)
		us := []topology.UserID{"U1", "U2", "U3", "U4"}
		w.people(t, w.place, us...)
		m := &model{members: map[topology.ChannelID]map[topology.UserID]bool{}, changes: map[topology.UserID][]string{}}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 20).Draw(t, "step") {
			case 0:
				if err := w.Crash(); err != nil {
					t.Fatalf("crash: %v", err)
				}
			case 1, 2, 3, 4:
				m.create(t, w, us)
			case 5, 6, 7, 8:
				m.done(t, w)
			case 9, 10, 11, 12, 13, 14:
				m.remove(t, w, us)
			default:
				m.add(t, w, us)
			}
		}
		m.compare(t, w, us)
	})
}

func drawChannel(t *rapid.T) topology.ChannelID {
	return rapid.SampledFrom([]topology.ChannelID{"C1", "C2", "C3"}).Draw(t, "channel")
}

func (m *model) create(t *rapid.T, w *world, us []topology.UserID) {
	ch := drawChannel(t)
	first := rapid.SliceOfDistinct(rapid.SampledFrom(us), func(u topology.UserID) topology.UserID { return u }).Draw(t, "members")
	_, e, err := w.Directory().CreateChannel(bg(), w.place, directory.Channel{ID: ch, Name: "name-" + string(ch), CreatedBy: "U1"}, first)
	if m.members[ch] != nil {
		wantKind(t, "CreateChannel again", err, problem.Conflict)
		return
	}
	if err != nil {
		t.Fatalf("CreateChannel: %v", err)
	}
	m.members[ch] = map[topology.UserID]bool{}
	for _, u := range first {
		m.members[ch][u] = true
	}
	want(t, "subjects", first, e.Subjects)
	m.record(e, directory.Gained)
}

func (m *model) add(t *rapid.T, w *world, us []topology.UserID) {
	ch := drawChannel(t)
	some := rapid.SliceOfN(rapid.SampledFrom(us), 1, 5).Draw(t, "users")
	e, err := w.Directory().AddMembers(bg(), w.place, ch, some, "U1", start)
	if m.members[ch] == nil {
		wantKind(t, "AddMembers without a channel", err, problem.NotFound)
		return
	}
	if err != nil {
		t.Fatalf("AddMembers: %v", err)
	}
	var joined []topology.UserID
	for _, u := range some {
		if !m.members[ch][u] {
			m.members[ch][u] = true
			joined = append(joined, u)
		}
	}
	want(t, "subjects", joined, e.Subjects)
	if len(joined) > 0 {
		m.record(e, directory.Gained)
	}
}

func (m *model) remove(t *rapid.T, w *world, us []topology.UserID) {
	ch, u := drawChannel(t), rapid.SampledFrom(us).Draw(t, "user")
	e, err := w.Directory().RemoveMember(bg(), w.place, ch, u, "U1", start)
	if m.members[ch] == nil {
		wantKind(t, "RemoveMember without a channel", err, problem.NotFound)
		return
	}
	if err != nil || (e.ID != 0) != m.members[ch][u] {
		t.Fatalf("RemoveMember: %+v, %v; was a member: %v", e, err, m.members[ch][u])
	}
	if m.members[ch][u] {
		delete(m.members[ch], u)
		m.record(e, directory.Lost)
	}
}

func (m *model) done(t *rapid.T, w *world) {
	if len(m.outbox) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.outbox)-1).Draw(t, "entry")
	if err := w.Directory().OutboxDone(bg(), m.outbox[i], 1, 0); err != nil {
		t.Fatalf("OutboxDone: %v", err)
	}
	m.outbox = slices.Delete(m.outbox, i, i+1)
}

func (m *model) compare(t *rapid.T, w *world, us []topology.UserID) {
	s := w.snapshot(t, w.place)
	s.consistent(t)
	for ch, in := range m.members {
		want(t, "members of "+string(ch), slices.Sorted(maps.Keys(in)), s.Members[ch])
	}
	for _, u := range us {
		var got []string
		for _, c := range s.Changes[u] {
			got = append(got, fmt.Sprintf("%s %s", c.Kind, c.Channel))
		}
		want(t, "changes of "+string(u), m.changes[u], got)
	}
	left := map[topology.ChannelID][]directory.Entry{}
	for _, e := range m.outbox {
		left[e.Channel] = append(left[e.Channel], e)
	}
	for ch := range m.members {
		want(t, "outbox of "+string(ch), left[ch], utc(s.Outbox[ch]))
	}
}
