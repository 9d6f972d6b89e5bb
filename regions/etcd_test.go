package regions_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"parley/internal/pki"
	"parley/internal/problem"
	"parley/regions"
)

func TestEtcdTakesOnlyClientsOfItsAuthority(t *testing.T) {
	t.Parallel()
	ca, err := pki.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(id pki.Identity) *pki.Bundle {
		b, err := ca.Issue(id, []string{"127.0.0.1", "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	dir := t.TempDir()
	if err := issue(pki.Identity{Region: "eu", Role: pki.RoleEtcd, Name: "etcd-1"}).Write(dir); err != nil {
		t.Fatal(err)
	}
	conf := regions.EtcdConfig{Dir: t.TempDir(), ClientAddr: freeAddr(t), PeerAddr: freeAddr(t), TLSDir: dir, Log: testLog(t)}
	etcd, err := regions.StartEtcd(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)

	client := issue(pki.Identity{Region: "eu", Role: pki.RoleControl, Name: "cp-1"}).Client(pki.RoleEtcd)
	p, err := regions.NewPublisher(regions.PublisherConfig{Region: "eu", Endpoints: []string{etcd.Endpoint()}, TLS: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	mustSync(t, p, snapshot(10, routes(10)))
	edge := issue(pki.Identity{Region: "eu", Role: pki.RoleEdge, Name: "eu-edge-1"}).Client(pki.RoleEtcd)
	r := run(t, regions.Config{Region: "eu", Endpoints: []string{etcd.Endpoint()}, TLS: edge, Log: testLog(t)})
	if !r.Connected() || !holds(r.Table, routes(10)) {
		t.Errorf("over TLS: connected %v, %d routes", r.Connected(), r.Len())
	}

	bare, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + conf.ClientAddr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bare.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := bare.Get(ctx, "x"); err == nil {
		t.Error("a client without a certificate was let in")
	}
}

func TestEtcdConfigIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := regions.StartEtcd(t.Context(), regions.EtcdConfig{Dir: t.TempDir(), ClientAddr: "127.0.0.1:0"}); !problem.Is(err, problem.Invalid) {
		t.Errorf("no peer address: got %v, want kind invalid", err)
	}
	s := startEtcd(t)
	taken := regions.EtcdConfig{Dir: t.TempDir(), ClientAddr: s.conf.ClientAddr, PeerAddr: freeAddr(t)}
	if _, err := regions.StartEtcd(t.Context(), taken); !problem.Is(err, problem.Unavailable) {
		t.Errorf("address in use: got %v, want kind unavailable", err)
	}
}
