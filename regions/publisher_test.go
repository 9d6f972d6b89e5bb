package regions_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/regions"
)

func TestSyncWritesOnlyTheDifferences(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	rs := routes(300)
	if diff := cmp.Diff(regions.SyncReport{Puts: 305}, mustSync(t, p, snapshot(10, rs))); diff != "" {
		t.Errorf("first Sync (-want +got):\n%s", diff)
	}
	c := etcd.client()
	if _, err := c.Put(t.Context(), "/parley/v1/live/edges/e1", `{"id":"e1"}`); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(regions.SyncReport{Same: 305}, mustSync(t, p, snapshot(10, rs))); diff != "" {
		t.Errorf("second Sync (-want +got):\n%s", diff)
	}
	rs[7].Epoch = 99
	rs[8].Cell = "elsewhere"
	s := snapshot(12, append(rs[:290:290], route(1000)))
	s.Keys = s.Keys[1:]
	want := regions.SyncReport{Same: 288 + 4, Puts: 3, Deletes: 10 + 1}
	other := etcd.publisher() // another leader, that knows nothing of the first
	if diff := cmp.Diff(want, mustSync(t, other, s)); diff != "" {
		t.Errorf("third Sync (-want +got):\n%s", diff)
	}
	r := run(t, etcd.config(""))
	if !holds(r.Table, append(rs[:290:290], route(1000))) || len(r.Keys()) != 1 || len(r.LiveEdges()) != 1 {
		t.Errorf("in the end: %d routes, %d keys, %d live edges", r.Len(), len(r.Keys()), len(r.LiveEdges()))
	}
	if index, complete, err := p.Index(t.Context()); index != 12 || !complete || err != nil {
		t.Errorf("Index() = %d, %v, %v", index, complete, err)
	}
}

func TestApplyWritesOneEntry(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, routes(50)))
	c := etcd.client()
	before, err := c.Get(t.Context(), "/parley/v1/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), 11, regions.PutRoute(topology.Route{Workspace: workspace(3), Cell: "x", Epoch: 50})); err != nil {
		t.Fatal(err)
	}
	after, err := c.Get(t.Context(), "/parley/v1/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if after.Header.Revision != before.Header.Revision+1 {
		t.Errorf("one change took %d revisions", after.Header.Revision-before.Header.Revision)
	}
	var written []string
	for _, kv := range after.Kvs {
		if kv.ModRevision > before.Header.Revision {
			written = append(written, string(kv.Key)+" = "+string(kv.Value))
		}
	}
	want := []string{
		`/parley/v1/meta = 00000000000000000011 {"complete":true,"routes":50,"cells":2}`,
		"/parley/v1/routes/" + string(workspace(3)) + " = 50 x",
	}
	if diff := cmp.Diff(want, written); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

func TestDeposedLeaderCannotGoBack(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	old, leader := etcd.publisher(), etcd.publisher()
	if err := old.Apply(t.Context(), 1, regions.PutRoute(route(1))); !problem.Is(err, problem.Precond) {
		t.Errorf("Apply before Sync: got %v, want kind precondition", err)
	}
	mustSync(t, old, snapshot(99, routes(10))) // digits: 99 sorts after 100 as plain text
	mustSync(t, leader, snapshot(100, routes(12)))
	bad := topology.Route{Workspace: workspace(1), Cell: "stale", Epoch: 1}
	if err := old.Apply(t.Context(), 99, regions.PutRoute(bad)); !problem.Is(err, problem.Conflict) {
		t.Errorf("stale Apply: got %v, want kind conflict", err)
	}
	if old.Synced() {
		t.Error("still synced after a refusal")
	}
	if _, err := old.Sync(t.Context(), snapshot(99, routes(1))); !problem.Is(err, problem.Conflict) {
		t.Errorf("stale Sync: got %v, want kind conflict", err)
	}
	r := run(t, etcd.config(""))
	if r.Index() != 100 || !holds(r.Table, routes(12)) {
		t.Errorf("index %d, %d routes", r.Index(), r.Len())
	}
	if err := leader.Apply(t.Context(), 100, regions.PutRoute(route(12))); err != nil {
		t.Errorf("a second write of the same index: %v", err)
	}
}

func TestWipedEtcdPutsThePublisherInDoubt(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, routes(10)))
	if _, err := etcd.client().Delete(t.Context(), "/parley/v1/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), 11, regions.PutRoute(route(11))); !problem.Is(err, problem.Conflict) || p.Synced() {
		t.Errorf("got %v, want kind conflict; synced %v", err, p.Synced())
	}
	if got := mustSync(t, p, snapshot(11, routes(11))); got.Puts != 16 {
		t.Errorf("Sync wrote %d entries, want 16", got.Puts)
	}
}

func TestManyChangesInOneApply(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, nil))
	var changes []regions.Change
	for _, rt := range routes(500) {
		changes = append(changes, regions.PutRoute(rt))
	}
	if err := p.Apply(t.Context(), 11, changes...); err != nil {
		t.Fatal(err)
	}
	if r := run(t, etcd.config("")); !holds(r.Table, routes(500)) {
		t.Errorf("got %d routes", r.Len())
	}
}

func TestChangesAreChecked(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, nil))
	short := key("k")
	short.Public = short.Public[:31]
	for name, c := range map[string]regions.Change{
		"no cell": regions.PutRoute(topology.Route{Workspace: "W1"}), "slash": regions.DeleteRoute("a/b"),
		"no kid": regions.DeleteKey(""), "short key": regions.PutKey(short), "no id": regions.PutCell(regions.Cell{}),
	} {
		if err := p.Apply(t.Context(), 11, c); !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: got %v, want kind invalid", name, err)
		}
	}
	if !p.Synced() {
		t.Error("a change that was never sent put the publisher in doubt")
	}
}
