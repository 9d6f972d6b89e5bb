package regions_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"parley/internal/problem"
	"parley/regions"
)

// waitKey waits until etcd has, or has no more, a key.
func waitKey(t *testing.T, c *clientv3.Client, key string, there bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		resp, err := c.Get(ctx, key)
		if err != nil {
			t.Fatalf("waiting for %s: %v", key, err)
		}
		if (len(resp.Kvs) > 0) == there {
			return
		}
		w, stop := context.WithCancel(ctx)
		<-c.Watch(w, key, clientv3.WithRev(resp.Header.Revision+1))
		stop()
	}
}

func TestVanishedHolderExpires(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	r := run(t, etcd.config(""))
	// A holder that dies without a word: a lease that nobody renews.
	c := etcd.client()
	lease, err := c.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Put(t.Context(), "/parley/v1/live/gateways/eu-0/gw-1", `{"id":"gw-1","cell":"eu-0","incarnation":1}`, clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.RegisterGateway(t.Context(), regions.Gateway{ID: "gw-2", Cell: "eu-0"}); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "both are there", func() bool { return len(r.Gateways("eu-0")) == 2 })
	await(t, r.Table, "one is gone", func() bool { return len(r.Gateways("eu-0")) == 1 })
	if got := r.Gateways("eu-0")[0].ID; got != "gw-2" {
		t.Errorf("left is %s", got)
	}
}

func TestRegistrationIsRevokedAtTheEnd(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	holder, watcher := run(t, etcd.config("")), run(t, etcd.config(""))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gw := regions.Gateway{ID: "gw-1", Cell: "eu-0", LinkAddr: "a:1", APIAddr: "a:2", Incarnation: 2}
	g, err := holder.RegisterGateway(ctx, gw)
	if err != nil {
		t.Fatal(err)
	}
	edge := regions.Edge{ID: "eu-edge-7", Region: "eu", URL: "https://e7"}
	e, err := holder.RegisterEdge(t.Context(), edge)
	if err != nil {
		t.Fatal(err)
	}
	await(t, watcher.Table, "both came", func() bool { return len(watcher.Gateways("eu-0")) == 1 && len(watcher.LiveEdges()) == 1 })
	gw.Draining = true
	if err := g.UpdateGateway(gw); err != nil {
		t.Fatal(err)
	}
	await(t, watcher.Table, "it drains", func() bool { return watcher.Gateways("eu-0")[0].Draining })
	if diff := cmp.Diff([]regions.Gateway{gw}, watcher.Gateways("eu-0")); diff != "" {
		t.Errorf("gateways (-want +got):\n%s", diff)
	}
	cancel()
	await(t, watcher.Table, "the gateway left", func() bool { return len(watcher.Gateways("eu-0")) == 0 })
	<-g.Done()
	if diff := cmp.Diff([]regions.Edge{edge}, watcher.Edges()); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
	holder.stop()
	<-e.Done()
	await(t, watcher.Table, "the edge left with its registry", func() bool { return len(watcher.LiveEdges()) == 0 })
}

func TestSilentCellKeepsItsGateways(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	r := run(t, etcd.config(""))
	c := etcd.client()
	// Their leases end one after the other, as when a cell is cut off from etcd.
	for _, id := range []string{"gw-1", "gw-2"} {
		lease, err := c.Grant(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), "/parley/v1/live/gateways/eu-0/"+id, `{"id":"`+id+`","cell":"eu-0"}`, clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		await(t, r.Table, id+" is there", func() bool { return len(r.Gateways("eu-0")) > 0 })
		if id == "gw-1" {
			continue
		}
		waitKey(t, c, "/parley/v1/live/gateways/eu-0/gw-1", false)
		waitKey(t, c, "/parley/v1/live/gateways/eu-0/gw-2", false)
	}
	// What comes later than the ends of the leases, so that they were seen.
	if _, err := c.Put(t.Context(), "/parley/v1/cells/eu-0", `{"id":"eu-0","region":"eu"}`); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "the cell came", func() bool { return len(r.Cells()) == 1 })
	if got := r.Gateways("eu-0"); len(got) != 2 {
		t.Errorf("of a cell that fell silent: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := r.RegisterGateway(ctx, regions.Gateway{ID: "gw-3", Cell: "eu-0"}); err != nil {
		t.Fatal(err)
	}
	await(t, r.Table, "only the live one is left", func() bool {
		got := r.Gateways("eu-0")
		return len(got) == 1 && got[0].ID == "gw-3"
	})
}

func TestLostLeaseIsTakenAgain(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	r := run(t, etcd.config(""))
	if _, err := r.RegisterServer(t.Context(), regions.Server{ID: "cs-1", Cell: "eu-0"}); err != nil {
		t.Fatal(err)
	}
	const key = "/parley/v1/live/servers/eu-0/cs-1"
	c := etcd.client()
	waitKey(t, c, key, true)
	resp, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	old := clientv3.LeaseID(resp.Kvs[0].Lease)
	if _, err := c.Revoke(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	waitKey(t, c, key, true)
	resp, err = c.Get(t.Context(), key)
	if err != nil || clientv3.LeaseID(resp.Kvs[0].Lease) == old {
		t.Errorf("registered again under lease %v, %v", resp.Kvs[0].Lease, err)
	}
}

func TestOlderRunDoesNotPushOutALaterOne(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	later, older := run(t, etcd.config("")), run(t, etcd.config(""))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := later.RegisterServer(ctx, regions.Server{ID: "cs-1", Cell: "eu-0", Incarnation: 8}); err != nil {
		t.Fatal(err)
	}
	await(t, older.Table, "the later one is registered", func() bool { return len(older.Servers("eu-0")) == 1 })
	if _, err := older.RegisterServer(t.Context(), regions.Server{ID: "cs-1", Cell: "eu-0", Incarnation: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := older.RegisterServer(t.Context(), regions.Server{ID: "cs-2", Cell: "eu-0", Incarnation: 7}); err != nil {
		t.Fatal(err)
	}
	await(t, later.Table, "the other is registered", func() bool { return len(later.Servers("eu-0")) == 2 })
	if got := later.Servers("eu-0")[0].Incarnation; got != 8 {
		t.Errorf("incarnation %d is registered, want 8", got)
	}
	cancel() // the later one leaves in order: now the older one may
	await(t, later.Table, "the older one is registered", func() bool {
		s := later.Servers("eu-0")
		return len(s) == 2 && s[0].Incarnation == 7
	})
}

func TestLoadsAreReported(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	r := run(t, etcd.config(""))
	load := regions.Load{Cell: "eu-0", Connections: 1, At: time.Unix(1_700_000_000, 0).UTC(), Top: make([]regions.TopWorkspace, 80)}
	for load.Connections = 1; load.Connections <= 3; load.Connections++ {
		if err := r.ReportLoad(load); err != nil {
			t.Fatal(err)
		}
	}
	await(t, r.Table, "the last report came", func() bool { return len(r.Loads()) == 1 && r.Loads()[0].Connections == 3 })
	if got := len(r.Loads()[0].Top); got != 50 {
		t.Errorf("the report names %d workspaces, want 50", got)
	}
	got, err := etcd.publisher().Loads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Loads(), got); diff != "" {
		t.Errorf("as the leader reads it (-want +got):\n%s", diff)
	}
}

func TestRegistrationIsChecked(t *testing.T) {
	t.Parallel()
	etcd := startEtcd(t)
	r := run(t, etcd.config(""))
	_, noID := r.RegisterGateway(t.Context(), regions.Gateway{Cell: "eu-0"})
	_, slash := r.RegisterServer(t.Context(), regions.Server{ID: "a/b", Cell: "eu-0"})
	_, elsewhere := r.RegisterEdge(t.Context(), regions.Edge{ID: "e", Region: "us", URL: "https://x"})
	for name, err := range map[string]error{"no id": noID, "slash": slash, "other region": elsewhere, "load": r.ReportLoad(regions.Load{})} {
		if !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: got %v, want kind invalid", name, err)
		}
	}
	r.stop()
	if _, err := r.RegisterServer(t.Context(), regions.Server{ID: "a", Cell: "eu-0"}); !problem.Is(err, problem.Unavailable) {
		t.Errorf("after Run: got %v, want kind unavailable", err)
	}
}
