package controlplane_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"parley/controlplane/controltest"
	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/problem"
)

// Whoever leads, what was answered is there, on disk too.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	ids := numbered(8)
	for _, id := range ids[:2] {
		at(c.Follower(), t).region(id)
	}
	transfer(t, c)
	retried(t, "after a transfer", createRegion(c.Follower(), ids[2]))
	c.Leader().Stop()
	retried(t, "without the first leader", createRegion(c.Follower(), ids[3]))
	if got := at(c.Follower(), t).regions(); !slices.Equal(got, ids[:4]) {
		t.Errorf("two nodes know %v", got)
	}
	for _, n := range c.Nodes {
		n.Stop()
	}
	for _, n := range c.Nodes {
		n.Start()
	}
	c.Leader()
	for _, n := range c.Nodes {
		if got := at(n, t).regions(); !slices.Equal(got, ids[:4]) {
			t.Errorf("started again, %s knows %v", n.Config.ID, got)
		}
	}

	// One is away, the log is cut, and it comes back: it gets the snapshot.
	away := c.Follower()
	away.Stop()
	for i, id := range ids[4:] {
		retried(t, "with one away", createRegion(c.Leader(), id))
		if i == 1 {
			if err := c.Leader().Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	away.Start()
	leader := c.Leader()
	c.Await("all have the same state", func() bool {
		for _, n := range c.Nodes {
			if !cmp.Equal(n.State().Regions, leader.State().Regions) || n.State().Index != leader.State().Index {
				return false
			}
		}
		return true
	})
	if got := at(away, t).regions(); !slices.Equal(got, ids) {
		t.Errorf("in the end: %v", got)
	}
}

// Readers see what was answered to others, whichever node they ask.
func TestReadsAreLinearizable(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	for i, id := range numbered(12) {
		at(c.Nodes[i%3], t).region(id)
		if got := at(c.Nodes[(i+1)%3], t).regions(); len(got) != i+1 {
			t.Fatalf("after %s: %v", id, got)
		}
	}
	before := c.Leader().State().Index
	for range 50 {
		at(c.Nodes[0], t).regions()
	}
	if now := c.Leader().State().Index; now != before {
		t.Errorf("reads went into the log: %d, then %d", before, now)
	}
	stale := connect.NewRequest(&controlv1.ListRegionsRequest{})
	stale.Header().Set("Parley-Consistency", "stale")
	r, err := at(c.Follower(), t).ListRegions(t.Context(), stale)
	must(t, r, err)
	create := connect.NewRequest(&controlv1.CreateRegionRequest{Region: &controlv1.Region{Id: "more", EtcdEndpoints: []string{"h:1"}}})
	create.Header().Set("Parley-Consistency", "stale")
	if _, err := at(c.Follower(), t).CreateRegion(t.Context(), create); err != nil {
		t.Errorf("a change is no read, stale or not: %v", err)
	}
}

// P3: what this build does not know stops every node before it, for good.
func TestControlPlane_P3_UnknownEntriesStopIt(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	leader := c.Leader()
	at(leader, t).region("eu")
	before := leader.State()
	// The answer may get lost: the nodes stop.
	_ = leader.Raw([]byte(`{"v":1,"type":"cell.explode"}`))
	_ = leader.Raw([]byte(`{"v":1,"type":"region.create","body":{"id":"us","etcd":["h:1"]}}`))
	stopped(t, c)
	for _, n := range c.Nodes {
		if _, ok := n.State().Regions["us"]; ok {
			t.Errorf("%s applied what came after", n.Config.ID)
		}
	}
	if got := leader.State().Index; got != before.Index {
		t.Errorf("the index is %d, was %d", got, before.Index)
	}
	for _, n := range c.Nodes {
		n.Start()
	}
	stopped(t, c)
}

// stopped waits until two nodes have ended at an entry that they don't know. The
// third may never hear that it was committed.
func stopped(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	c.Await("two nodes have ended", func() bool {
		n := 0
		for _, node := range c.Nodes {
			if node.HasEnded() {
				n++
			}
		}
		return n >= 2
	})
	for _, n := range c.Nodes {
		if !n.HasEnded() {
			n.Stop()
			continue
		}
		if err := n.Ended(); !errors.Is(err, state.ErrUnknownEntry) {
			t.Errorf("%s ended with %v", n.Config.ID, err)
		}
	}
}

func save(t *testing.T, n *controltest.Node) []byte {
	t.Helper()
	s, err := n.Client(controltest.Secret).SaveSnapshot(t.Context(), connect.NewRequest(&controlv1.SaveSnapshotRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for s.Receive() {
		b.Write(s.Msg().GetData())
	}
	if err := errors.Join(s.Err(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restore(t *testing.T, n *controltest.Node, b []byte) error {
	t.Helper()
	s := n.Client(controltest.Secret).RestoreSnapshot(t.Context())
	for part := range slices.Chunk(b, 1000) {
		if s.Send(&controlv1.RestoreSnapshotRequest{Data: part}) != nil {
			break // the answer says why
		}
	}
	_, err := s.CloseAndReceive()
	return err
}

func TestSnapshotSavedAndRestored(t *testing.T) {
	t.Parallel()
	c := controltest.Start(t)
	etcd, other := c.Etcd("eu"), c.Etcd("us")
	do := at(c.Follower(), t)
	do.region("eu", etcd.Addr())
	do.cell("eu-1", "eu")
	saved := save(t, c.Follower())
	do.region("us", other.Addr())
	do.cell("eu-2", "eu")
	registry, _ := etcd.Registry(edge("eu"))
	c.Await("eu knows two cells", func() bool { return len(registry.Cells()) == 2 })
	index := c.Leader().State().Index
	watch, err := do.Watch(t.Context(), connect.NewRequest(&controlv1.WatchRequest{AfterIndex: index}))
	if err != nil {
		t.Fatal(err)
	}

	for name, b := range map[string][]byte{"empty": nil, "half": saved[:len(saved)/2], "more": append(bytes.Clone(saved), 'x')} {
		refused(t, restore(t, c.Follower(), b), problem.Invalid, "")
		if got := do.regions(); len(got) != 2 {
			t.Fatalf("after a snapshot that was %s: %v", name, got)
		}
	}
	if err := restore(t, c.Follower(), saved); err != nil {
		t.Fatal(err)
	}
	if got := do.regions(); !slices.Equal(got, []string{"eu"}) {
		t.Errorf("regions: %v", got)
	}
	c.Await("eu has forgotten the second cell", func() bool { return len(registry.Cells()) == 1 })
	if watch.Receive() {
		t.Errorf("the watch goes on with %v", watch.Msg())
	}
	refused(t, watch.Err(), problem.Precond, "")
	_ = watch.Close()
	if do.region("us", other.Addr()).GetRegion().GetVersion() <= index {
		t.Error("a version came twice")
	}
	leader := c.Leader()
	c.Await("all nodes agree", func() bool {
		for _, n := range c.Nodes {
			if !cmp.Equal(n.State().Regions, leader.State().Regions) || !cmp.Equal(n.State().Cells, leader.State().Cells) || n.State().Index != leader.State().Index {
				return false
			}
		}
		return true
	})
	actions := []string{}
	for _, e := range do.audit(4, "").GetEntries() {
		actions = append(actions, e.GetAction())
	}
	if want := []string{"region.create", "raft.snapshot_restore", "raft.snapshot_save", "cell.create"}; !slices.Equal(actions, want) {
		t.Errorf("the audit log: %v", actions)
	}

	// Into another, younger control plane, whose log is far behind the snapshot's.
	late := save(t, c.Follower())
	for _, n := range c.Nodes {
		n.Stop()
	}
	young := controltest.Start(t)
	if err := restore(t, young.Leader(), late); err != nil {
		t.Fatal(err)
	}
	if s, err := state.Read(bytes.NewReader(late)); err != nil || young.Leader().State().Index <= s.Index {
		t.Errorf("the index is %d, the snapshot's %d (%v)", young.Leader().State().Index, s.Index, err)
	}
	if got := at(young.Follower(), t).regions(); !slices.Equal(got, []string{"eu", "us"}) {
		t.Errorf("regions of the young one: %v", got)
	}
	for _, n := range young.Nodes {
		n.Stop()
	}
	for _, n := range young.Nodes {
		n.Start()
	}
	if got := at(young.Leader(), t).regions(); !slices.Equal(got, []string{"eu", "us"}) {
		t.Errorf("regions of the young one, started again: %v", got)
	}
}
