package directory_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

const staleMax = 10 * time.Minute

// outage is a cache whose engine can go away, and another process that still has it.
type outage struct {
	*directory.Cache
	directory.Outage
	t     *testing.T
	other *directory.Directory
	clock *handClock
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	open, clock := processes(t)
	mine, other := open(), open()
	o := &outage{t: t, other: other, clock: clock}
	if _, err := other.AddMembers(t.Context(), place, "C1", []topology.UserID{"U1"}, "U1", clock.now()); err != nil {
		t.Fatal(err)
	}
	var err error
	if o.Outage, err = mine.Watch(t.Context(), staleMax); err != nil {
		t.Fatal(err)
	}
	o.Cache = directory.NewCache(mine, directory.CacheConfig{})
	return o
}

// questions are what may be answered without the engine, each asked of the cache
// and of its Fresh.
func (o *outage) questions() map[string]func() (any, error) {
	ctx, fresh := o.t.Context(), o.Fresh()
	servers := directory.ForChannels(fresh)
	ref := topology.ChannelRef{Place: place, Channel: "C1"}
	return map[string]func() (any, error){
		"Workspace":       func() (any, error) { return o.Workspace(ctx, "W1") },
		"User":            func() (any, error) { return o.User(ctx, place, "U1") },
		"Channel":         func() (any, error) { return o.Channel(ctx, place, "C1") },
		"Member":          func() (any, error) { m, ok, err := o.Member(ctx, place, "C1", "U1"); return []any{m, ok}, err },
		"ChannelsOf":      func() (any, error) { return o.ChannelsOf(ctx, place, "U1") },
		"MemberCount":     func() (any, error) { return o.MemberCount(ctx, place, "C1") },
		"URevs":           func() (any, error) { return o.URevs(ctx, place, []topology.UserID{"U1", "U2"}) },
		"UserChanges":     func() (any, error) { return o.UserChanges(ctx, place, "U1", 1, 10) },
		"UsersByName":     func() (any, error) { return o.UsersByName(ctx, place, []string{"ann", "U1", "bob", "U2", "nobody"}) },
		"fresh Workspace": func() (any, error) { return fresh.Workspace(ctx, "W1") },
		"fresh User":      func() (any, error) { return fresh.User(ctx, place, "U1") },
		"fresh Channel":   func() (any, error) { return fresh.Channel(ctx, place, "C1") },
		"fresh Member":    func() (any, error) { m, ok, err := fresh.Member(ctx, place, "C1", "U1"); return []any{m, ok}, err },
		"server's Open":   func() (any, error) { return servers.Open(ctx, place) },
		"server's Info":   func() (any, error) { return servers.ChannelInfo(ctx, ref) },
		"server's Member": func() (any, error) { return servers.IsMember(ctx, ref, "U1") },
	}
}

func (o *outage) askAll() map[string]any {
	o.t.Helper()
	out := map[string]any{}
	for name, ask := range o.questions() {
		v, err := ask()
		if err != nil {
			o.t.Fatalf("%s: %v", name, err)
		}
		out[name] = v
	}
	return out
}

func (o *outage) wantAway(name string, err error) {
	o.t.Helper()
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || p.Kind != problem.Unavailable || p.RetryAfter <= 0 {
		o.t.Errorf("%s: %v, not unavailable with a time to come again", name, err)
	}
}

func TestCache_S2_KnownIsServedForStaleMax(t *testing.T) {
	o := newOutage(t)
	before := o.askAll()
	o.clock.add(time.Hour) // however long ago it was asked: what changes is followed
	o.Poll(t.Context())
	heard := o.clock.now()
	o.clock.add(time.Second)
	o.Begin()
	o.clock.add(staleMax - channel.KnownMax - time.Second)
	if d := cmp.Diff(before, o.askAll()); d != "" {
		t.Errorf("answers without the engine (-with +without):\n%s", d)
	}
	o.clock.add(1)
	for name, ask := range o.questions() { // the bound holds for those, too, who keep what they are told
		_, err := ask()
		switch name {
		case "server's Open", "server's Info", "server's Member":
			o.wantAway(name, err)
		default:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	o.clock.add(staleMax - o.clock.now().Sub(heard))
	if _, err := o.Workspace(t.Context(), "W1"); err != nil {
		t.Errorf("at the bound: %v", err)
	}
	o.clock.add(1)
	for name, ask := range o.questions() {
		_, err := ask()
		o.wantAway(name, err)
	}
	o.Poll(t.Context())
	if d := cmp.Diff(before, o.askAll()); d != "" {
		t.Errorf("after the outage:\n%s", d)
	}
}

// A process with channel servers only is asked about a user and one channel: it has to
// know the user's others, too, when the engine goes away.
func TestForChannels_KnowAllChannelsOfWhoWasAskedFor(t *testing.T) {
	o := newOutage(t)
	for _, ch := range []topology.ChannelID{"C2", "C3"} {
		members := map[topology.ChannelID][]topology.UserID{"C2": {"U1"}}[ch]
		if _, _, err := o.other.CreateChannel(t.Context(), place, directory.Channel{ID: ch, Name: "n" + string(ch), CreatedBy: "U1"}, members); err != nil {
			t.Fatal(err)
		}
	}
	o.Poll(t.Context())
	servers := directory.ForChannels(o.Fresh())
	member := func(ch topology.ChannelID, u topology.UserID) (bool, error) {
		return servers.IsMember(t.Context(), topology.ChannelRef{Place: place, Channel: ch}, u)
	}
	if ok, err := member("C1", "U1"); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	o.Begin()
	if ok, err := member("C2", "U1"); !ok || err != nil {
		t.Errorf("in another channel: %v, %v", ok, err)
	}
	_, err := member("C3", "U1") // no member: refusals are not served
	o.wantAway("C3", err)
	_, err = member("C1", "U2") // nobody has asked for U2
	o.wantAway("U2", err)
}

func TestCache_S1_OldAnswersAreNotGivenWhenTheEngineAnswers(t *testing.T) {
	o := newOutage(t)
	o.askAll()
	if err := o.other.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 2, Generation: 2, State: directory.StateOpen}); err != nil {
		t.Fatal(err)
	}
	o.clock.add(2 * time.Second)
	if w, err := o.Workspace(t.Context(), "W1"); err != nil || w.Generation != 2 {
		t.Errorf("workspace %+v, %v", w, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if u, err := o.User(ended, place, "U1"); !problem.Is(err, problem.Unavailable) {
		t.Errorf("who gave up was answered: %+v, %v", u, err)
	}
}

// Memberships, workspaces and people need not be asked for as long as their changes are
// known, and names never twice.
func TestCache_S1_WhatIsFollowedIsNotAsked(t *testing.T) {
	o := newOutage(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // it can't be asked
	ask := func(ctx context.Context) (directory.Membership, error) {
		m, _, err := o.Member(ctx, place, "C1", "U1")
		return m, err
	}
	before, err := ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.clock.add(time.Hour)
	o.Poll(t.Context())
	if _, err := ask(ended); !problem.Is(err, problem.Unavailable) {
		t.Errorf("where they joined is not known yet: %v", err)
	}
	es, err := o.other.OutboxPending(t.Context(), 0, 10)
	if err != nil || len(es) == 0 {
		t.Fatalf("the outbox has %v, %v", es, err)
	}
	for _, e := range es {
		if err := o.other.OutboxDone(t.Context(), e, 7, 5); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := ask(t.Context()); err != nil || m == before || m.JoinedSeq != 5 {
		t.Errorf("where they joined: %+v, %v", m, err)
	}
	o.askAll()
	o.clock.add(time.Hour)
	if _, _, err := o.Member(ended, place, "C1", "U1"); !problem.Is(err, problem.Unavailable) {
		t.Errorf("a member of an hour ago: %v", err)
	}
	o.Poll(t.Context())
	if _, ok, err := o.Member(ended, place, "C1", "U1"); !ok || err != nil {
		t.Errorf("a member who has not changed: %v, %v", ok, err)
	}
	if _, err := o.Workspace(ended, "W1"); err != nil {
		t.Errorf("a workspace that has not changed: %v", err)
	}
	if _, err := o.User(ended, place, "U1"); err != nil {
		t.Errorf("a person, whose row never changes: %v", err)
	}
	if _, err := o.Channel(ended, place, "C1"); !problem.Is(err, problem.Unavailable) {
		t.Errorf("a channel's row, which is not followed: %v", err)
	}
	if found, err := o.UsersByName(ended, place, []string{"ann", "bob"}); err != nil || found["ann"] != "U1" || found["bob"] != "U2" {
		t.Errorf("names that were asked for: %v, %v", found, err)
	}
	if found, err := o.UsersByName(ended, place, []string{"ann", "eve"}); !problem.Is(err, problem.Unavailable) {
		t.Errorf("a name that was not asked for: %v, %v", found, err)
	}
	if _, err := o.other.RemoveMember(t.Context(), place, "C1", "U1", "U1", o.clock.now()); err != nil {
		t.Fatal(err)
	}
	o.Poll(t.Context())
	if _, ok, err := o.Member(t.Context(), place, "C1", "U1"); ok || err != nil {
		t.Errorf("who was taken out is a member: %v, %v", ok, err)
	}
}

func TestCache_S3_RefusalsAreNotServed(t *testing.T) {
	o := newOutage(t)
	ctx := t.Context()
	if _, _, err := o.other.CreateChannel(ctx, place, directory.Channel{ID: "C2", Name: "two", CreatedBy: "U1", Importing: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := o.other.PutWorkspace(ctx, directory.Workspace{ID: "W2", Epoch: 1, Generation: 1, State: directory.StateFenced}); err != nil {
		t.Fatal(err)
	}
	o.Poll(ctx)
	ask := map[string]func() error{
		"no member":           func() error { _, _, err := o.Member(ctx, place, "C1", "U2"); return err },
		"no member, fresh":    func() error { _, _, err := o.Fresh().Member(ctx, place, "C1", "U2"); return err },
		"fenced":              func() error { _, err := o.Workspace(ctx, "W2"); return err },
		"being imported":      func() error { _, err := o.Channel(ctx, place, "C2"); return err },
		"never asked for":     func() error { return nil },
		"page, which is none": func() error { return nil },
	}
	for name, do := range ask {
		if err := do(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	o.Begin()
	o.clock.add(3 * time.Second)
	ask["never asked for"] = func() error { _, err := o.User(ctx, place, "U2"); return err }
	ask["unknown among known"] = func() error { _, err := o.URevs(ctx, place, []topology.UserID{"U2"}); return err }
	ask["changes not had"] = func() error { _, err := o.UserChanges(ctx, place, "U1", 0, 10); return err }
	ask["page, which is none"] = func() error { _, err := o.Users(ctx, place, "", 10); return err }
	for name, do := range ask {
		o.wantAway(name, do())
	}
	// The list that says no is younger than the membership that says yes.
	o.Poll(ctx)
	if _, ok, err := o.Member(ctx, place, "C1", "U1"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	o.clock.add(time.Millisecond)
	if _, err := o.other.RemoveMember(ctx, place, "C1", "U1", "U1", o.clock.now()); err != nil {
		t.Fatal(err)
	}
	if ms, err := o.ChannelsOf(ctx, place, "U1"); len(ms) > 0 || err != nil {
		t.Fatal(ms, err)
	}
	o.Begin()
	o.clock.add(3 * time.Second)
	_, _, err := o.Member(ctx, place, "C1", "U1")
	o.wantAway("who is no longer listed", err)
}

func TestCache_S4_ChangesOfOthersAreFollowed(t *testing.T) {
	o := newOutage(t)
	ctx := t.Context()
	o.askAll()
	if _, err := o.other.RemoveMember(ctx, place, "C1", "U1", "U1", o.clock.now()); err != nil {
		t.Fatal(err)
	}
	o.Poll(ctx)
	o.Begin()
	o.clock.add(3 * time.Second)
	_, _, err := o.Member(ctx, place, "C1", "U1")
	o.wantAway("who was taken out", err)
	_, err = directory.ForChannels(o.Fresh()).IsMember(ctx, topology.ChannelRef{Place: place, Channel: "C1"}, "U1")
	o.wantAway("who was taken out, at the channel's server", err)
	_, err = o.ChannelsOf(ctx, place, "U1")
	o.wantAway("the list", err)
	_, err = o.URevs(ctx, place, []topology.UserID{"U1"})
	o.wantAway("the urev", err)
	if _, err := o.Workspace(ctx, "W1"); err != nil {
		t.Errorf("what did not change: %v", err)
	}

	o.Poll(ctx)
	o.askAll()
	if err := o.other.PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 2, Generation: 1, State: directory.StateFenced}); err != nil {
		t.Fatal(err)
	}
	o.Poll(ctx)
	o.Begin()
	_, err = o.Workspace(ctx, "W1")
	o.wantAway("a workspace that was closed", err)

	// What changed during the outage is followed before it counts as over.
	o.Poll(ctx)
	if err := o.other.PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 3, Generation: 1, State: directory.StateOpen}); err != nil {
		t.Fatal(err)
	}
	o.Poll(ctx)
	o.askAll()
	o.Begin()
	if err := o.other.PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 4, Generation: 1, State: directory.StateFenced}); err != nil {
		t.Fatal(err)
	}
	o.Poll(ctx)
	if w, err := o.Workspace(ctx, "W1"); err != nil || w.Open() {
		t.Errorf("after the outage: %+v, %v", w, err)
	}
}

// Too many changes to follow one by one forget everything.
func TestCache_S4_ManyChanges(t *testing.T) {
	o := newOutage(t)
	ctx := t.Context()
	o.askAll()
	if _, err := o.other.RemoveMember(ctx, place, "C1", "U1", "U1", o.clock.now()); err != nil {
		t.Fatal(err)
	}
	if err := o.Skip(ctx, directory.FollowMax); err != nil {
		t.Fatal(err)
	}
	o.Poll(ctx)
	o.Begin()
	_, _, err := o.Member(ctx, place, "C1", "U1")
	o.wantAway("who was taken out", err)
}

func TestCache_RefusedWritesChangeNothing(t *testing.T) {
	o := newOutage(t)
	ctx := t.Context()
	o.askAll()
	o.Begin()
	o.clock.add(3 * time.Second)
	_, err := o.AddMembers(ctx, place, "C1", []topology.UserID{"U1"}, "U1", o.clock.now())
	o.wantAway("AddMembers", err)
	_, err = o.RemoveMember(ctx, place, "C1", "U1", "U1", o.clock.now())
	o.wantAway("RemoveMember", err)
	o.wantAway("PutWorkspace", o.PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 9, Generation: 1, State: directory.StateOpen}))
	o.askAll() // who tries to join again is still known as a member
}

// An outage ends what is under way: nobody waits for a time-out.
func TestWatch_AnOutageEndsCalls(t *testing.T) {
	o := newOutage(t)
	ctx, done, err := o.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	o.Begin()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the call goes on")
	}
	_, _, err = o.Enter(t.Context())
	o.wantAway("a call afterwards", err)
	o.Poll(t.Context())
	ctx, done, err = o.Enter(t.Context())
	if err != nil || ctx.Err() != nil {
		t.Errorf("a call after the outage: %v, %v", err, ctx.Err())
	}
	done()
}

// Who joined and has asked nothing since is known, and so is the channel.
func TestCache_S4_WhatChangedIsAskedAhead(t *testing.T) {
	for name, ahead := range map[string]bool{"in time": true, "not yet": false} {
		t.Run(name, func(t *testing.T) {
			o := newOutage(t)
			ctx := t.Context()
			if _, err := o.ChannelsOf(ctx, place, "U1"); err != nil {
				t.Fatal(err)
			}
			row := directory.Channel{ID: "C2", Name: "two", CreatedBy: "U2", Private: true}
			if _, _, err := o.other.CreateChannel(ctx, place, row, []topology.UserID{"U1", "U2"}); err != nil {
				t.Fatal(err)
			}
			o.Poll(ctx)
			if ahead {
				o.AskAhead(ctx)
			}
			o.Begin()
			got, err := directory.Readable(ctx, o, place, "U1", false, "C2")
			if !ahead {
				o.wantAway("what nobody asked for", err)
			} else if got.Name != "two" || err != nil {
				t.Errorf("a member's channel: %+v, %v", got, err)
			}
			_, err = directory.Readable(ctx, o, place, "U2", false, "C2") // nobody here has asked of them
			o.wantAway("a stranger's", err)
		})
	}
}
