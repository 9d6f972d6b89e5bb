// Package directorytest runs the contract of directory.Directory, clause by
// clause, against an engine.
package directorytest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Instance is one directory under test, empty at first.
type Instance interface {
	// Directory is the directory; after Crash it is another one. Several processes
	// on one engine may be given in turn: the contract is that of all together.
	Directory() *directory.Directory
	// Crash ends the directory without warning, as kill -9 or the loss of power
	// would, and opens again what is left. No call is under way meanwhile.
	Crash() error
	// Close releases everything.
	Close() error
}

// Harness makes instances, each with the clock given.
type Harness func(now func() time.Time) (Instance, error)

// Run runs the contract. Each subtest is named after its clause.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, s := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"C1_Workspaces", workspaces},
		{"C1_D3_EpochNeverGoesBack", epochNeverGoesBack},
		{"C1_D3_EpochsRace", epochsRace},
		{"C2_D1_ClosedIsRefused", closedIsRefused},
		{"C2_D1_NothingIsWrittenAfterClosing", nothingAfterClosing},
		{"C2_PlacesApart", placesApart},
		{"C3_PutUsersIsRepeatable", putUsers},
		{"C3_PutUsersIsAllOrNothing", putUsersAllOrNothing},
		{"C3_UsersByName", usersByName},
		{"C4_CreateChannel", createChannel},
		{"C4_CreateChannelConflict", createChannelConflict},
		{"C4_Importing", importing},
		{"C5_Members", members},
		{"C5_D2_RefusedMeansNothingDone", refusedMeansNothing},
		{"C6_OutboxOrder", outboxOrder},
		{"C6_OutboxDoneSettlesItsOwnRows", outboxDoneSettlesItsOwn},
		{"C6_OutboxLeavesOutWhatIsClosed", outboxClosed},
		{"C7_D2_UserChangesAreDense", userChangesAreDense},
		{"C8_ListChannels", listChannels},
		{"C9_Pages", pages},
		{"C9_LimitsAndCursorsAreBounded", bounds},
		{"C10_CrashKeepsWhatWasAnswered", crashKeeps},
		{"C11_WritersAtOnce", writersAtOnce},
		{"C11_ReadersSeeWholeTransactions", readersSeeWhole},
		{"C11_ReadYourWrites", readYourWrites},
		{"C12_EndedContext", endedContext},
		{"C13_TextIsChecked", textIsChecked},
		{"C14_Lease", lease},
		{"C14_LeaseIsOnes", leaseIsOnes},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, newWorld(t, h)) })
	}
	t.Run("Model", func(t *testing.T) { runModel(t, newWorld(t, h)) })
}

// tb is the part of testing.TB that rapid.T has, too.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// start is when the tests begin; their clock moves by hand.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant

// world is a directory with workspace W1 open.
type world struct {
	Instance
	place topology.Place
}

func newWorld(t *testing.T, h Harness) *world {
	t.Helper()
	in, err := h(func() time.Time { return start })
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	w := &world{Instance: in, place: topology.Place{Workspace: "W1", Generation: 1}}
	w.open(t, w.place, 1)
	return w
}

func bg() context.Context { return context.Background() }

func (w *world) open(t tb, p topology.Place, epoch topology.Epoch) {
	t.Helper()
	w.put(t, p, epoch, directory.StateOpen)
}

func (w *world) put(t tb, p topology.Place, epoch topology.Epoch, s directory.State) {
	t.Helper()
	err := w.Directory().PutWorkspace(bg(), directory.Workspace{
		ID: p.Workspace, Epoch: epoch, Generation: p.Generation, State: s, Slug: "slug", Name: "Name",
	})
	if err != nil {
		t.Fatalf("PutWorkspace: %v", err)
	}
}

// people adds users named like their ids.
func (w *world) people(t tb, p topology.Place, us ...topology.UserID) {
	t.Helper()
	rows := make([]directory.User, len(us))
	for i, u := range us {
		rows[i] = directory.User{ID: u, Name: "name-" + string(u), DisplayName: "The " + string(u)}
	}
	if _, err := w.Directory().PutUsers(bg(), p, rows); err != nil {
		t.Fatalf("PutUsers: %v", err)
	}
}

// channel makes a channel named like its id.
func (w *world) channel(t tb, p topology.Place, ch topology.ChannelID, us ...topology.UserID) directory.Entry {
	t.Helper()
	_, e, err := w.Directory().CreateChannel(bg(), p, directory.Channel{ID: ch, Name: "name-" + string(ch), CreatedBy: "U1", CreatedTS: 7}, us)
	if err != nil {
		t.Fatalf("CreateChannel(%s): %v", ch, err)
	}
	return e
}

func (w *world) add(t tb, p topology.Place, ch topology.ChannelID, us ...topology.UserID) directory.Entry {
	t.Helper()
	e, err := w.Directory().AddMembers(bg(), p, ch, us, "U1", start)
	if err != nil {
		t.Fatalf("AddMembers(%s, %v): %v", ch, us, err)
	}
	return e
}

func (w *world) remove(t tb, p topology.Place, ch topology.ChannelID, u topology.UserID) directory.Entry {
	t.Helper()
	e, err := w.Directory().RemoveMember(bg(), p, ch, u, "U1", start)
	if err != nil {
		t.Fatalf("RemoveMember(%s, %s): %v", ch, u, err)
	}
	return e
}

func wantKind(t tb, what string, err error, k problem.Kind) {
	t.Helper()
	if !problem.Is(err, k) {
		t.Fatalf("%s: err = %v, want kind %s", what, err, k)
	}
}

func want(t tb, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

// snapshot is everything that a place's readers can see of it.
type snapshot struct {
	Users    []directory.User
	Channels []directory.Channel
	Members  map[topology.ChannelID][]topology.UserID
	Counts   map[topology.ChannelID]int
	URevs    map[topology.UserID]topology.URev
	Changes  map[topology.UserID][]directory.UserChange
	Of       map[topology.UserID][]directory.Membership
	Outbox   map[topology.ChannelID][]directory.Entry
}

// all is beyond every test's number of rows.
const all = 1000

func (w *world) snapshot(t tb, p topology.Place) snapshot {
	t.Helper()
	d := w.Directory()
	s := snapshot{
		Members: map[topology.ChannelID][]topology.UserID{}, Counts: map[topology.ChannelID]int{},
		Changes: map[topology.UserID][]directory.UserChange{}, Of: map[topology.UserID][]directory.Membership{},
		Outbox: map[topology.ChannelID][]directory.Entry{},
	}
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatalf("read: %v", err)
		}
	}
	s.Users, err = d.Users(bg(), p, "", all)
	check()
	s.Channels, err = d.ListChannels(bg(), p, "", true, "", all)
	check()
	for _, c := range s.Channels {
		s.Members[c.ID], err = d.Members(bg(), p, c.ID, "", all)
		check()
		s.Counts[c.ID], err = d.MemberCount(bg(), p, c.ID)
		check()
		s.Outbox[c.ID], err = d.OutboxOf(bg(), p, c.ID, 1<<62, all)
		check()
	}
	var us []topology.UserID
	for _, u := range s.Users {
		us = append(us, u.ID)
		s.Changes[u.ID], err = d.UserChanges(bg(), p, u.ID, 0, all)
		check()
		s.Of[u.ID], err = d.ChannelsOf(bg(), p, u.ID)
		check()
	}
	s.URevs, err = d.URevs(bg(), p, us)
	check()
	return s
}

// consistent checks what must hold between rows at any time: D2.
func (s snapshot) consistent(t tb) {
	t.Helper()
	has := map[topology.UserID][]topology.ChannelID{}
	for ch, us := range s.Members {
		if s.Counts[ch] != len(us) {
			t.Fatalf("%s counts %d members and has %v", ch, s.Counts[ch], us)
		}
		for _, u := range us {
			has[u] = append(has[u], ch)
		}
	}
	for _, u := range s.Users {
		in := s.told(t, u.ID)
		var of []topology.ChannelID
		for _, m := range s.Of[u.ID] {
			of = append(of, m.Channel)
			if !in[m.Channel] {
				t.Fatalf("%s is in %s, but its changes do not say so", u.ID, m.Channel)
			}
		}
		slices.Sort(has[u.ID])
		want(t, fmt.Sprintf("channels of %s", u.ID), has[u.ID], of)
	}
}

// told is which channels a user has by the changes that the user was told of,
// which are numbered without gaps and alternate.
func (s snapshot) told(t tb, u topology.UserID) map[topology.ChannelID]bool {
	t.Helper()
	cs := s.Changes[u]
	if s.URevs[u] != topology.URev(len(cs)) {
		t.Fatalf("%s is at urev %d with %d changes", u, s.URevs[u], len(cs))
	}
	in := map[topology.ChannelID]bool{}
	for i, c := range cs {
		if int(c.URev) != i+1 { //nolint:gosec // small
			t.Fatalf("%s: change %d has urev %d", u, i, c.URev)
		}
		if in[c.Channel] == (c.Kind == directory.Gained) {
			t.Fatalf("%s: urev %d says %s of %s again", u, c.URev, c.Kind, c.Channel)
		}
		in[c.Channel] = c.Kind == directory.Gained
	}
	return in
}
