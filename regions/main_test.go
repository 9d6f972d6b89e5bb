package regions_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of these tests.
const patience = 20 * time.Second

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// server is an etcd that a test can stop and start again.
type server struct {
	t    testing.TB
	conf regions.EtcdConfig
	etcd *regions.Etcd
}

func startEtcd(tb testing.TB) *server {
	tb.Helper()
	s := &server{t: tb, conf: regions.EtcdConfig{Dir: tb.TempDir(), ClientAddr: freeAddr(tb), PeerAddr: freeAddr(tb)}}
	s.start()
	tb.Cleanup(s.stop)
	return s
}

func (s *server) start() {
	s.t.Helper()
	e, err := regions.StartEtcd(s.t.Context(), s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.etcd = e
}

func (s *server) stop() { s.etcd.Close() }

func (s *server) endpoints() []string { return []string{"http://" + s.conf.ClientAddr} }

// client is a plain etcd client, to look at the store from outside.
func (s *server) client() *clientv3.Client {
	s.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.endpoints(), Logger: zap.NewNop(), DialTimeout: time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *server) publisher() *regions.Publisher {
	s.t.Helper()
	p, err := regions.NewPublisher(regions.PublisherConfig{Region: "eu", Endpoints: s.endpoints(), PageSize: 7, Log: testLog(s.t)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.Close() })
	return p
}

func (s *server) config(dir string) regions.Config {
	return regions.Config{
		Region: "eu", Endpoints: s.endpoints(), Dir: dir, PageSize: 7, Log: testLog(s.t),
		ReadyWait: 300 * time.Millisecond, SaveEvery: time.Millisecond, LeaseTTL: 2 * time.Second,
	}
}

// running is a registry under test.
type running struct {
	*regions.Registry
	stop func()
}

// run runs a registry until the test, or a call of stop, ends it.
func run(tb testing.TB, cfg regions.Config) running {
	tb.Helper()
	r, err := regions.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- r.Run(ctx, func() { close(ready) }) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			tb.Error("Run did not end")
		}
	}
	tb.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(patience):
		tb.Fatal("the registry did not become ready")
	}
	return running{Registry: r, stop: stop}
}

// await waits until cond holds of the table.
func await(tb testing.TB, table *regions.Table, what string, cond func() bool) {
	tb.Helper()
	timeout := time.After(patience)
	for {
		changed := table.Changed()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			tb.Fatalf("waited in vain until %s", what)
		}
	}
}

func workspace(n int) topology.WorkspaceID {
	var id ulid.ULID
	id[0], id[13], id[14], id[15] = 1, byte(n>>16), byte(n>>8), byte(n)
	return topology.WorkspaceID("W" + id.String())
}

func route(n int) topology.Route {
	return topology.Route{Workspace: workspace(n), Cell: topology.CellID(fmt.Sprintf("eu-%d", n%3)), Epoch: topology.Epoch(n%5 + 1)}
}

func routes(n int) []topology.Route {
	out := make([]topology.Route, n)
	for i := range out {
		out[i] = route(i)
	}
	return out
}

func key(kid string) token.Key {
	private := ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-len(kid)), kid...))
	return token.Key{
		KID: kid, Private: private, Public: private.Public().(ed25519.PublicKey),
		NotBefore: time.Unix(1_700_000_000, 0).UTC(), NotAfter: time.Unix(1_800_000_000, 0).UTC(),
	}
}

func snapshot(index uint64, rs []topology.Route) regions.Snapshot {
	return regions.Snapshot{
		Index: index, Routes: slices.Values(rs), Keys: []token.Key{key("k1"), key("k2")},
		Cells: []regions.Cell{{ID: "eu-0", Region: "eu", State: "active"}, {ID: "us-0", Region: "us", State: "cordoned"}},
		Edges: []regions.Edge{{ID: "eu-edge-1", Region: "eu", URL: "https://eu"}, {ID: "us-edge-1", Region: "us", URL: "https://us"}},
	}
}

func mustSync(tb testing.TB, p *regions.Publisher, s regions.Snapshot) regions.SyncReport {
	tb.Helper()
	rep, err := p.Sync(tb.Context(), s)
	if err != nil {
		tb.Fatalf("Sync: %v", err)
	}
	return rep
}

// holds reports whether the table has exactly these routes.
func holds(table *regions.Table, rs []topology.Route) bool {
	if table.Len() != len(rs) {
		return false
	}
	for _, want := range rs {
		if got, ok := table.Route(want.Workspace); !ok || got != want {
			return false
		}
	}
	return true
}

// testLog shows what a failed test's parts said.
func testLog(tb testing.TB) *slog.Logger {
	tb.Helper()
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
