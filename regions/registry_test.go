package regions_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

func TestLoadOfManyPagesThenWatch(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	rs := routes(250) // of 7 a page, more than two transactions
	mustSync(t, p, snapshot(10, rs))
	r := run(t, etcd.config(""))
	if !r.Connected() || r.Index() != 10 || !holds(r.Table, rs) {
		t.Fatalf("after load: connected %v, index %d, %d routes", r.Connected(), r.Index(), r.Len())
	}
	want := []token.Key{key("k1"), key("k2")}
	for i := range want {
		want[i].Private = nil
	}
	if diff := cmp.Diff(want, r.Keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(snapshot(0, nil).Cells, r.Cells()); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(snapshot(0, nil).Edges, r.Edges()); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}

	moved := topology.Route{Workspace: rs[3].Workspace, Cell: "us-0", Epoch: 77}
	odd := topology.Route{Workspace: "Wodd", Cell: "us-0", Epoch: 1}
	err := p.Apply(t.Context(), 11, regions.PutRoute(moved), regions.PutRoute(odd), regions.DeleteRoute(rs[4].Workspace),
		regions.DeleteKey("k1"), regions.DeleteCell("us-0"), regions.PutEdges(nil))
	if err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "index 11", func() bool { return r.Index() == 11 })
	if got, _ := r.Route(moved.Workspace); got != moved {
		t.Errorf("moved route: got %+v", got)
	}
	if got, _ := r.Route("Wodd"); got != odd {
		t.Errorf("route of an id of another form: got %+v", got)
	}
	if got, ok := r.Route(rs[4].Workspace); ok {
		t.Errorf("deleted route: got %+v", got)
	}
	if len(r.Keys()) != 1 || len(r.Cells()) != 1 || len(r.Edges()) != 0 || r.Len() != 250 {
		t.Errorf("after the deletes: %d keys, %d cells, %d edges, %d routes", len(r.Keys()), len(r.Cells()), len(r.Edges()), r.Len())
	}
}

func TestWithoutRoutesReadsTheRest(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, routes(20)))
	cfg := etcd.config("")
	cfg.WithoutRoutes = true
	r := run(t, cfg)
	if r.Len() != 0 || r.Index() != 10 || len(r.Cells()) != 2 {
		t.Errorf("got %d routes, index %d, %d cells", r.Len(), r.Index(), len(r.Cells()))
	}
	if err := p.Apply(t.Context(), 12, regions.PutRoute(route(50)), regions.PutCell(regions.Cell{ID: "eu-9", Region: "eu"})); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "the cell came by watch", func() bool { return len(r.Cells()) == 3 })
	if r.Len() != 0 {
		t.Errorf("got %d routes by watch", r.Len())
	}
}

func TestRestartFromDiskWithoutEtcd(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	rs := append(routes(100), topology.Route{Workspace: "Wodd", Cell: "eu-0", Epoch: 9})
	mustSync(t, etcd.publisher(), snapshot(10, rs))
	dir := t.TempDir()
	first := run(t, etcd.config(dir))
	gw := regions.Gateway{ID: "eu-0-gw-1", Cell: "eu-0", LinkAddr: "a:1", APIAddr: "a:2", Incarnation: 3}
	if _, err := first.RegisterGateway(t.Context(), gw); err != nil {
		t.Fatal(err)
	}
	await(t, first.Table, "the gateway is registered", func() bool { return len(first.Gateways("eu-0")) == 1 })
	etcd.stop() // before the registry ends, so that nothing is revoked
	want := first.Contents()
	first.stop()

	second := run(t, etcd.config(dir))
	if second.Connected() || !second.Known() || !holds(second.Table, rs) {
		t.Fatalf("from disk: connected %v, known %v, %d routes", second.Connected(), second.Known(), second.Len())
	}
	if diff := cmp.Diff(want, second.Contents()); diff != "" {
		t.Errorf("from disk (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]regions.Gateway{gw}, second.Gateways("eu-0")); diff != "" {
		t.Errorf("leased entries from disk (-want +got):\n%s", diff)
	}
}

func TestReadyWithNothingAndMerge(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	etcd.stop()
	r := run(t, etcd.config(t.TempDir()))
	if r.Known() || r.Connected() {
		t.Fatalf("known %v, connected %v with an empty disk and no etcd", r.Known(), r.Connected())
	}
	if n := r.Merge(routes(5)); n != 5 || !r.Known() || !holds(r.Table, routes(5)) {
		t.Errorf("Merge changed %d, known %v, %d routes", n, r.Known(), r.Len())
	}
}

func TestEtcdStopsAndStarts(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	mustSync(t, etcd.publisher(), snapshot(10, routes(20)))
	r := run(t, etcd.config(""))
	for _, s := range []topology.ServerID{"cs-1", "cs-2"} {
		if _, err := r.RegisterServer(t.Context(), regions.Server{ID: s, Cell: "eu-0", Incarnation: 1}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, r.Table, "both servers are registered", func() bool { return len(r.Servers("eu-0")) == 2 })
	etcd.stop()
	await(t, r.Table, "the absence is noticed", func() bool { return !r.Connected() })
	if !holds(r.Table, routes(20)) || len(r.Servers("eu-0")) != 2 {
		t.Errorf("without etcd: %d routes, %d servers", r.Len(), len(r.Servers("eu-0")))
	}
	etcd.start()
	await(t, r.Table, "etcd is back", r.Connected)
	p := etcd.publisher()
	mustSync(t, p, snapshot(11, routes(21)))
	await(t, r.Table, "the new route came", func() bool { return holds(r.Table, routes(21)) })
	if len(r.Servers("eu-0")) != 2 {
		t.Errorf("after the restart: %d servers", len(r.Servers("eu-0")))
	}
}

func TestWipedEtcdDoesNotWipeTheTable(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	mustSync(t, etcd.publisher(), snapshot(10, routes(30)))
	r := run(t, etcd.config(""))
	if _, err := r.RegisterServer(t.Context(), regions.Server{ID: "cs-1", Cell: "eu-0", Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "the server is registered", func() bool { return len(r.Servers("eu-0")) == 1 })
	etcd.stop()
	await(t, r.Table, "the absence is noticed", func() bool { return !r.Connected() })
	etcd.conf.Dir = t.TempDir()
	etcd.start()
	await(t, r.Table, "the new etcd is followed", r.Connected)
	if !holds(r.Table, routes(30)) || len(r.Keys()) != 2 || len(r.Servers("eu-0")) != 1 {
		t.Fatalf("after the wipe: %d routes, %d keys, %d servers", r.Len(), len(r.Keys()), len(r.Servers("eu-0")))
	}
	p := etcd.publisher()
	if index, _, err := p.Index(t.Context()); err != nil || index != 0 {
		t.Fatalf("index of the wiped etcd: %d, %v", index, err)
	}
	mustSync(t, p, snapshot(11, append(routes(5), topology.Route{Workspace: "Wnew", Cell: "eu-0", Epoch: 1})))
	await(t, r.Table, "the new publication came", func() bool { return r.Index() == 11 && r.Len() >= 31 })
	live, err := p.LiveEdges(t.Context())
	if err != nil || len(live) != 0 {
		t.Errorf("live edges: %v, %v", live, err)
	}
	again := etcd.client()
	waitKey(t, again, "/parley/v1/live/servers/eu-0/cs-1", true)
}

func TestCompactionMeansToLoadAgain(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, routes(30)))
	dir := t.TempDir()
	r := run(t, etcd.config(dir))
	addr := etcd.conf.ClientAddr
	etcd.stop()
	await(t, r.Table, "the absence is noticed", func() bool { return !r.Connected() })
	// Elsewhere, so that the registry does not see it: deletes, then a compaction.
	etcd.conf.ClientAddr = freeAddr(t)
	etcd.start()
	p = etcd.publisher()
	mustSync(t, p, snapshot(12, routes(10)))
	c := etcd.client()
	resp, err := c.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	etcd.stop()
	etcd.conf.ClientAddr = addr
	etcd.start()
	await(t, r.Table, "exactly the ten routes are left", func() bool { return holds(r.Table, routes(10)) })
}

func TestPreferredRouteWinsUntilEtcdCatchesUp(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	p := etcd.publisher()
	mustSync(t, p, snapshot(10, routes(10)))
	r := run(t, etcd.config(""))
	ws := workspace(1) // eu-1, epoch 2
	told := topology.Route{Workspace: ws, Cell: "us-1", Epoch: 5}
	for _, stale := range []topology.Epoch{1, 2} {
		if r.Prefer(topology.Route{Workspace: ws, Cell: "us-1", Epoch: stale}) {
			t.Errorf("epoch %d won over 2", stale)
		}
	}
	if !r.Prefer(told) {
		t.Error("a higher epoch did not win")
	}
	if got, _ := r.Route(ws); got != told {
		t.Errorf("after Prefer: %+v", got)
	}
	// etcd on its way: still lower.
	if err := p.Apply(t.Context(), 11, regions.PutRoute(topology.Route{Workspace: ws, Cell: "eu-2", Epoch: 4})); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "index 11", func() bool { return r.Index() == 11 })
	if got, _ := r.Route(ws); got != told {
		t.Errorf("a lower epoch of etcd won: %+v", got)
	}
	caughtUp := topology.Route{Workspace: ws, Cell: "us-2", Epoch: 5}
	if err := p.Apply(t.Context(), 12, regions.PutRoute(caughtUp)); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "index 12", func() bool { return r.Index() == 12 })
	if got, _ := r.Route(ws); got != caughtUp {
		t.Errorf("after etcd caught up: %+v", got)
	}
}

func TestUnreadableEntryKeepsWhatWasKnown(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	mustSync(t, etcd.publisher(), snapshot(10, routes(10)))
	r := run(t, etcd.config(""))
	c := etcd.client()
	for _, k := range []string{"routes/" + string(workspace(1)), "cells/eu-0", "keys/k1"} {
		if _, err := c.Put(t.Context(), "/parley/v1/"+k, "\x00nonsense"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(t.Context(), "/parley/v1/cells/eu-9", `{"id":"eu-9","region":"eu","state":"active"}`); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "what came after the nonsense", func() bool { return len(r.Cells()) == 3 })
	if !holds(r.Table, routes(10)) || len(r.Keys()) != 2 {
		t.Errorf("got %d routes, %d keys", r.Len(), len(r.Keys()))
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   regions.Config
		field string
	}{
		"region":    {regions.Config{Endpoints: []string{"x:1"}}, "region"},
		"endpoints": {regions.Config{Region: "eu"}, "endpoints"},
		"empty one": {regions.Config{Region: "eu", Endpoints: []string{""}}, "endpoints"},
		"ttl":       {regions.Config{Region: "eu", Endpoints: []string{"x:1"}, LeaseTTL: 1}, "lease_ttl"},
	} {
		_, err := regions.Open(c.cfg)
		if d := problem.DocumentOf(err); d.Kind != problem.Invalid || d.Field != c.field {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
