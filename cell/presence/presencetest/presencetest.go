// Package presencetest is the conformance suite of presence.Store.
package presencetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/presence"
	"parley/internal/topology"
)

// Harness makes an empty store and lets its clock go on.
type Harness struct {
	New func(t *testing.T) (s presence.Store, pass func(time.Duration))
}

// Run runs one subtest per clause of the contract.
func Run(t *testing.T, h Harness) {
	t.Helper()
	acme, other := topology.Place{Workspace: "W1", Generation: 1}, topology.Place{Workspace: "W1", Generation: 2}
	set := func(t *testing.T, s presence.Store, g topology.GatewayID, cs ...presence.Change) {
		t.Helper()
		if _, err := s.Set(t.Context(), g, cs); err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *testing.T, s presence.Store, p topology.Place, ann, bob presence.Status) {
		t.Helper()
		got, err := s.Read(t.Context(), p, []topology.UserID{"ann", "bob"})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[topology.UserID]presence.Status{"ann": ann, "bob": bob}, got); d != "" {
			t.Error(d)
		}
	}
	ann := func(s presence.Status) presence.Change { return presence.Change{Place: acme, User: "ann", Status: s} }
	bob := func(s presence.Status) presence.Change { return presence.Change{Place: acme, User: "bob", Status: s} }

	t.Run("1 set and take out", func(t *testing.T) {
		s, _ := h.New(t)
		want(t, s, acme, presence.Offline, presence.Offline)
		set(t, s, "g1", ann(presence.Online), bob(presence.Away))
		want(t, s, acme, presence.Online, presence.Away)
		set(t, s, "g1", ann(presence.Offline))
		want(t, s, acme, presence.Offline, presence.Away)
	})
	t.Run("1 whether the lease was kept", func(t *testing.T) { testKept(t, h) })
	t.Run("2 the highest of all gateways counts", func(t *testing.T) {
		s, _ := h.New(t)
		set(t, s, "g1", ann(presence.Away))
		set(t, s, "g2", ann(presence.Online), bob(presence.Away))
		want(t, s, acme, presence.Online, presence.Away)
		set(t, s, "g2", ann(presence.Offline))
		want(t, s, acme, presence.Away, presence.Away)
	})
	t.Run("3 leases end", func(t *testing.T) {
		s, pass := h.New(t)
		set(t, s, "g1", ann(presence.Online))
		set(t, s, "g2", bob(presence.Online))
		pass(presence.LeaseTTL - time.Second)
		set(t, s, "g2")
		want(t, s, acme, presence.Online, presence.Online)
		pass(2 * time.Second)
		want(t, s, acme, presence.Offline, presence.Online)
		set(t, s, "g1")
		want(t, s, acme, presence.Offline, presence.Online)
		if err := s.Leave(t.Context(), "g2"); err != nil {
			t.Fatal(err)
		}
		want(t, s, acme, presence.Offline, presence.Offline)
	})
	t.Run("4 places are apart", func(t *testing.T) {
		s, _ := h.New(t)
		set(t, s, "g1", ann(presence.Online))
		want(t, s, other, presence.Offline, presence.Offline)
	})
	t.Run("5 who is present", func(t *testing.T) { testPresent(t, h) })
}

func testPresent(t *testing.T, h Harness) {
	t.Helper()
	s, pass := h.New(t)
	acme, other := topology.Place{Workspace: "W1", Generation: 1}, topology.Place{Workspace: "W1", Generation: 2}
	set := func(g topology.GatewayID, p topology.Place, u topology.UserID, status presence.Status) {
		t.Helper()
		if _, err := s.Set(t.Context(), g, []presence.Change{{Place: p, User: u, Status: status}}); err != nil {
			t.Fatal(err)
		}
	}
	present := func(p topology.Place, limit int) map[topology.UserID]presence.Status {
		t.Helper()
		got, err := s.Present(t.Context(), p, limit)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	set("g1", acme, "ann", presence.Away)
	set("g1", other, "zoe", presence.Online)
	pass(presence.LeaseTTL - time.Second)
	set("g2", acme, "ann", presence.Online)
	set("g2", acme, "bob", presence.Away)
	if d := cmp.Diff(map[topology.UserID]presence.Status{"ann": presence.Online, "bob": presence.Away}, present(acme, 10)); d != "" {
		t.Error(d)
	}
	if got := present(acme, 1); len(got) != 1 {
		t.Errorf("of two, at most one: %v", got)
	}
	pass(2 * time.Second)
	set("g2", acme, "ann", presence.Offline)
	if d := cmp.Diff(map[topology.UserID]presence.Status{"bob": presence.Away}, present(acme, 10)); d != "" {
		t.Error(d)
	}
	if got := present(other, 10); len(got) != 0 {
		t.Errorf("a lease has ended, but %v", got)
	}
}

func testKept(t *testing.T, h Harness) {
	t.Helper()
	s, pass := h.New(t)
	acme := topology.Place{Workspace: "W1", Generation: 1}
	kept := func(want bool, us ...topology.UserID) {
		t.Helper()
		var cs []presence.Change
		for _, u := range us {
			cs = append(cs, presence.Change{Place: acme, User: u, Status: presence.Away})
		}
		if got, err := s.Set(t.Context(), "g1", cs); err != nil || got != want {
			t.Errorf("kept = %v, %v; want %v", got, err, want)
		}
	}
	want := func(ann, bob presence.Status) {
		t.Helper()
		got, err := s.Read(t.Context(), acme, []topology.UserID{"ann", "bob"})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[topology.UserID]presence.Status{"ann": ann, "bob": bob}, got); d != "" {
			t.Error(d)
		}
	}
	kept(false, "ann")
	kept(true)
	pass(presence.LeaseTTL - time.Second)
	kept(true)
	pass(presence.LeaseTTL + time.Second)
	kept(false, "bob")
	want(presence.Offline, presence.Away)
	kept(true, "ann")
	if err := s.Leave(t.Context(), "g1"); err != nil {
		t.Fatal(err)
	}
	kept(false)
	want(presence.Offline, presence.Offline)
}
