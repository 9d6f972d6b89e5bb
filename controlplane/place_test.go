package controlplane_test

import (
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"parley/controlplane"
	"parley/controlplane/controltest"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

// A workspace's way: asked for at a follower, placed by the leader, opened by its
// cell, told to the region; then again after its etcd has lost all.
func TestWorkspaceFromCallToRoute(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	etcd := c.Etcd("eu")
	cell := etcd.Cell("eu-1")
	do := at(c.Follower(), t)
	do.region("eu", etcd.Addr())
	do.cell("eu-1", "eu")
	w := do.workspace("acme", "eu")
	if w.GetCell() != "eu-1" || w.GetEpoch() != 1 || w.GetState() != "creating" || w.GetName() != "acme" {
		t.Errorf("placed: %v", w)
	}
	c.Await("the workspace is active", func() bool { return do.see("acme").GetState() == "active" })
	if got, ok := cell.Opened(w.GetId()); !ok || got != (controltest.Order{Epoch: 1, Generation: 1, Slug: "acme", Name: "acme", State: "open"}) {
		t.Errorf("the cell was told %+v, %v", got, ok)
	}
	want := topology.Route{Workspace: topology.WorkspaceID(w.GetId()), Cell: "eu-1", Epoch: 1}
	registry, _ := etcd.Registry(edge("eu"))
	routed := func() bool { r, ok := registry.Route(want.Workspace); return ok && r == want }
	c.Await("the route is there", routed)
	c.Await("the cell is there, with its gateway", func() bool {
		cs := registry.Cells()
		return len(cs) == 1 && len(cs[0].Gateways) == 1 && cs[0].State == "active" && len(registry.Keys()) == 1
	})

	etcd.Wipe()
	empty, _ := etcd.Registry(edge("eu")) // it never knew what was before
	c.Await("all is there again", func() bool {
		r, ok := empty.Route(want.Workspace)
		cs := empty.Cells()
		return ok && r == want && len(cs) == 1 && len(cs[0].Gateways) == 1 && len(empty.Keys()) == 1 && len(empty.Gateways("eu-1")) == 1
	})

	_, err := do.SetCellState(t.Context(), connect.NewRequest(&controlv1.SetCellStateRequest{Id: "eu-1", State: "cordoned"}))
	if err != nil {
		t.Fatal(err)
	}
	c.Await("the region hears of the cordon", func() bool { cs := empty.Cells(); return len(cs) == 1 && cs[0].State == "cordoned" })
	_, err = do.CreateWorkspace(t.Context(), connect.NewRequest(&controlv1.CreateWorkspaceRequest{Workspace: &controlv1.Workspace{Slug: "more", HomeRegion: "eu"}}))
	refused(t, err, problem.Conflict, "")
	why, err := do.ExplainPlacement(t.Context(), connect.NewRequest(&controlv1.ExplainPlacementRequest{Workspace: "acme"}))
	if v := must(t, why, err).GetVerdicts(); len(v) != 1 || v[0].GetAllowed() || len(v[0].GetReasons()) != 1 {
		t.Errorf("verdicts: %v", v)
	}
}

// One region without etcd, one cell that refuses: the others don't notice, and what
// is due is done when they are back.
func TestFaultsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	eu, us := c.Etcd("eu"), c.Etcd("us")
	good, bad, far := eu.Cell("eu-1"), eu.Cell("eu-2"), us.Cell("us-1")
	do := at(c.Leader(), t)
	do.region("nowhere")
	do.region("eu", eu.Addr())
	do.region("us", us.Addr())
	do.cell("eu-1", "eu")
	do.cell("eu-2", "eu")
	do.cell("us-1", "us")
	if _, err := far.RegisterEdge(t.Context(), regions.Edge{ID: "us-e1", Region: "us", URL: "https://us"}); err != nil {
		t.Fatal(err)
	}
	do.workspace("far", "us")
	c.Await("the far one is open", func() bool { return do.see("far").GetState() == "active" })
	registry, _ := eu.Registry(edge("eu"))
	knows := func(r *regions.Registry) bool {
		return len(r.Gateways("us-1")) == 1 && slices.ContainsFunc(r.Edges(), func(e regions.Edge) bool { return e.ID == "us-e1" })
	}
	c.Await("eu knows of us", func() bool { return knows(registry) })

	us.Stop()
	bad.Refuse(true)
	pinned := func(slug, cell string) *controlv1.Workspace {
		r, err := do.CreateWorkspace(t.Context(), connect.NewRequest(&controlv1.CreateWorkspaceRequest{
			Workspace: &controlv1.Workspace{Slug: slug, HomeRegion: "eu", Pin: cell},
		}))
		return must(t, r, err).GetWorkspace()
	}
	stuck, fine := pinned("stuck", "eu-2"), pinned("fine", "eu-1")
	c.Await("the other is open and known", func() bool {
		_, ok := registry.Route(topology.WorkspaceID(fine.GetId()))
		return ok && do.see("fine").GetState() == "active"
	})
	if _, ok := good.Opened(stuck.GetId()); ok || do.see("stuck").GetState() != "creating" {
		t.Error("the stuck one is open")
	}

	// A new leader that has never seen us tells eu what the old one knew.
	now := at(transfer(t, c), t)
	c.Await("the new leader has published to eu", func() bool { return now.status().GetPublished()["eu"] > 0 })
	fresh, _ := eu.Registry(edge("eu")) // it remembers nothing by itself
	if !knows(fresh) || !knows(registry) {
		t.Error("eu was told to forget the gateways or edges of us")
	}

	bad.Refuse(false)
	us.Start()
	c.Await("the stuck one is open", func() bool { return at(c.Leader(), t).see("stuck").GetState() == "active" })
	back, _ := us.Registry(edge("us"))
	c.Await("us has caught up", func() bool { return back.Len() == 3 })
}

// transfer hands leadership over and returns the new leader.
func transfer(t *testing.T, c *controltest.Cluster) *controltest.Node {
	t.Helper()
	old := c.Leader()
	r, err := at(c.Follower(), t).TransferLeader(t.Context(), connect.NewRequest(&controlv1.TransferLeaderRequest{}))
	to := must(t, r, err).GetLeader()
	now := c.Leader()
	if now == old || to != now.Config.ID {
		t.Errorf("%s handed over to %s, it was said; %s leads", old.Config.ID, to, now.Config.ID)
	}
	return now
}

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	etcd := c.Etcd("eu")
	etcd.Cell("eu-1")
	do := at(c.Leader(), t)
	do.region("eu", etcd.Addr())
	do.cell("eu-1", "eu")
	do.workspace("acme", "eu")
	registry, _ := etcd.Registry(edge("eu"))
	keys := func(n int) func() bool { return func() bool { return len(registry.Keys()) == n } }
	c.Await("the first key is there", keys(1))
	first := registry.Keys()[0]
	if first.Private != nil {
		t.Error("the private half was published")
	}
	issue := func() string {
		r, err := at(c.Leader(), t).IssueToken(t.Context(), connect.NewRequest(&controlv1.IssueTokenRequest{
			Workspace: "acme", UserId: "U1", TtlSeconds: int64(controlplane.TTLMax.Seconds()),
		}))
		return must(t, r, err).GetToken()
	}
	verify := func(text string) error {
		v := new(token.Verifier)
		v.SetKeys(registry.Keys())
		claims, err := v.Verify(text, c.Now())
		if err == nil && (claims.User != "U1" || claims.Role != "member") {
			t.Errorf("claims: %+v", claims)
		}
		return err
	}
	old := issue()
	if err := verify(old); err != nil {
		t.Fatal(err)
	}

	// A week before the first one ends, the next is known, and the first still signs.
	c.Advance(controlplane.KeyLife - controlplane.KeyAhead)
	transfer(t, c) // the next look of the present leader would be in an hour
	c.Await("the next key is there", keys(2))
	next := registry.Keys()[slices.IndexFunc(registry.Keys(), func(k token.Key) bool { return k.KID != first.KID })]
	if !next.NotBefore.Equal(first.NotAfter) || next.NotBefore.Sub(c.Now()) < controlplane.KeyAhead-time.Minute {
		t.Errorf("the next signs from %v, the first until %v; it is %v", next.NotBefore, first.NotAfter, c.Now())
	}
	if err := verify(issue()); err != nil {
		t.Error(err)
	}
	c.Advance(controlplane.KeyAhead)
	if err := verify(issue()); err != nil {
		t.Errorf("signed with the next: %v", err)
	}
	if err := verify(old); err != nil {
		t.Errorf("signed with the first, a year's token: %v", err)
	}

	// The first one goes when no token of it can be good any more.
	c.Advance(controlplane.TTLMax)
	transfer(t, c)
	c.Await("the first key is gone", func() bool {
		return len(registry.Keys()) > 0 && !slices.ContainsFunc(registry.Keys(), func(k token.Key) bool { return k.KID == first.KID })
	})
	if err := verify(issue()); err != nil {
		t.Error(err)
	}
	if err := verify(old); !problem.Is(err, problem.Unauthentic) {
		t.Errorf("signed with the first: %v", err)
	}
}
