//go:build engines

package cassandra_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/cassandra"
	"parley/cell/history"
	"parley/cell/history/historytest"
	"parley/cell/msglog"
	"parley/cell/msglog/msglogtest"
	"parley/internal/topology"
)

// TestMain lets the random tests make fewer tries than over a store in memory:
// each step of theirs is hundreds of reads over a network.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f != nil && f.Value.String() == f.DefValue {
		_ = flag.Set("rapid.checks", "3")
	}
	// A closed session of the client's goes on waiting, for up to ten seconds, for nodes
	// to agree on their schema, and for one that has come back.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/gocql/gocql.(*Conn).awaitSchemaAgreement"),
		goleak.IgnoreAnyFunction("github.com/gocql/gocql.(*Session).handleNodeUp"))
}

// config is that of the cluster under test, with a keyspace that is not there.
func config(tb testing.TB) cassandra.Config {
	tb.Helper()
	hosts := os.Getenv("PARLEY_TEST_CASSANDRA")
	if hosts == "" {
		tb.Fatal("PARLEY_TEST_CASSANDRA is not set: it names the nodes, host:port,…; `make test-engines` sets it")
	}
	cfg := cassandra.Default()
	cfg.Hosts = strings.Split(hosts, ",")
	cfg.Datacenter = "dc1"
	cfg.Replication = min(3, len(cfg.Hosts))
	cfg.Keyspace = "parley_test_" + strings.ToLower(rand.Text()[:10])
	cfg.AttemptTimeout = 10 * time.Second // a machine that does much else
	return cfg
}

// keyspace makes one with its tables, and drops it at the end.
func keyspace(tb testing.TB) cassandra.Config {
	tb.Helper()
	cfg := config(tb)
	makeKeyspace(tb, cfg)
	return cfg
}

func makeKeyspace(tb testing.TB, cfg cassandra.Config) {
	tb.Helper()
	dropAtEnd(tb, cfg)
	db, err := cassandra.Open(tb.Context(), cfg, "cell", nil, nil)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
}

func dropAtEnd(tb testing.TB, cfg cassandra.Config) {
	tb.Helper()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s, err := cassandra.Dial(ctx, cfg)
		if err != nil {
			tb.Errorf("drop: %v", err)
			return
		}
		defer s.Close()
		if err := s.Query("DROP KEYSPACE IF EXISTS " + cfg.Keyspace).WithContext(ctx).Exec(); err != nil {
			tb.Errorf("drop: %v", err)
		}
	})
}

// wire is a client's network: cut, all its connections break and no new one is
// made.
type wire struct {
	net.Dialer
	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

var errCut = errors.New("the wire is cut")

func (w *wire) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := w.Dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut {
		_ = c.Close()
		return nil, errCut
	}
	w.conns = append(w.conns, c)
	return c, nil
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// instance is a part of a keyspace of its own, by the names of its cell and its
// workspaces: to make a keyspace for each of hundreds would take hours.
type instance struct {
	cfg  cassandra.Config
	rows uint64
	n    int64
	wire *wire
	db   *cassandra.DB
}

var instances atomic.Int64

func newInstance(cfg cassandra.Config, rows uint64) (*instance, error) {
	in := &instance{cfg: cfg, rows: rows, n: instances.Add(1)}
	return in, in.open()
}

func (in *instance) open() (err error) {
	in.wire = &wire{}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	in.db, err = cassandra.Connect(ctx, in.cfg, topology.CellID(fmt.Sprint("cell", in.n)), in.rows, in.wire, nil)
	return err
}

// Crash ends the client as kill -9 would; the nodes live on.
func (in *instance) Crash() error {
	in.wire.cut()
	if err := in.db.Close(); err != nil {
		return err
	}
	return in.open()
}

func (in *instance) Break() error {
	in.wire.cut()
	return nil
}

func (in *instance) Close() error { return in.db.Close() }

// own names a channel of the instance.
func (in *instance) own(ch topology.ChannelRef) topology.ChannelRef {
	ch.Workspace = topology.WorkspaceID(fmt.Sprint(in.n, "-")) + ch.Workspace
	return ch
}

type logInstance struct{ *instance }

func (in logInstance) Store() msglog.Store { return ownLog{in.db.Log(), in.instance} }

// ownLog is the instance's part of a message store.
type ownLog struct {
	msglog.Store
	in *instance
}

func (l ownLog) Append(ctx context.Context, s topology.Shard, t topology.Token, ws []msglog.Write) error {
	own := make([]msglog.Write, len(ws))
	for i, w := range ws {
		own[i] = msglog.Write{Channel: l.in.own(w.Channel), Rows: w.Rows}
	}
	return l.Store.Append(ctx, s, t, own)
}

func (l ownLog) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	return l.Store.Tail(ctx, l.in.own(ch), from, limit)
}

func (l ownLog) Repair(ctx context.Context, s topology.Shard, t topology.Token, seals []msglog.Seal) error {
	own := make([]msglog.Seal, len(seals))
	for i, seal := range seals {
		own[i], own[i].Channel = seal, l.in.own(seal.Channel)
	}
	return l.Store.Repair(ctx, s, t, own)
}

func (l ownLog) Dirty(ctx context.Context, s topology.Shard) ([]topology.ChannelRef, error) {
	refs, err := l.Store.Dirty(ctx, s)
	for i := range refs {
		name, _ := strings.CutPrefix(string(refs[i].Workspace), fmt.Sprint(l.in.n, "-"))
		refs[i].Workspace = topology.WorkspaceID(name)
	}
	return refs, err
}

func (l ownLog) Clean(ctx context.Context, s topology.Shard, t topology.Token, ch topology.ChannelRef, upTo topology.Rev) error {
	return l.Store.Clean(ctx, s, t, l.in.own(ch), upTo)
}

func (l ownLog) Oldest(ctx context.Context, ch topology.ChannelRef) (topology.Rev, error) {
	return l.Store.Oldest(ctx, l.in.own(ch))
}

type historyInstance struct{ *instance }

func (in historyInstance) Store() history.Store { return ownHistory{in.db.History(), in.instance} }

// Sweep has nothing to do: keys have a time to live.
func (historyInstance) Sweep(context.Context, time.Time) error { return nil }

// ownHistory is the instance's part of a history.
type ownHistory struct {
	history.Store
	in *instance
}

func (h ownHistory) Apply(ctx context.Context, bs []history.Batch) error {
	own := make([]history.Batch, len(bs))
	for i, b := range bs {
		own[i] = history.Batch{Channel: h.in.own(b.Channel), Changes: b.Changes}
	}
	return h.Store.Apply(ctx, own)
}

func (h ownHistory) Mark(ctx context.Context, ch topology.ChannelRef) (history.Mark, error) {
	return h.Store.Mark(ctx, h.in.own(ch))
}

func (h ownHistory) SetEmitted(ctx context.Context, ch topology.ChannelRef, rev topology.Rev) error {
	return h.Store.SetEmitted(ctx, h.in.own(ch), rev)
}

func (h ownHistory) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	return h.Store.Page(ctx, h.in.own(ch), q)
}

func (h ownHistory) Thread(ctx context.Context, ch topology.ChannelRef, root, after topology.Seq, limit int) ([]history.Message, error) {
	return h.Store.Thread(ctx, h.in.own(ch), root, after, limit)
}

func (h ownHistory) Get(ctx context.Context, ch topology.ChannelRef, seq topology.Seq) (history.Message, error) {
	return h.Store.Get(ctx, h.in.own(ch), seq)
}

func (h ownHistory) Deduped(ctx context.Context, ch topology.ChannelRef, author topology.UserID, key string, now time.Time) (history.Deduped, bool, error) {
	return h.Store.Deduped(ctx, h.in.own(ch), author, key, now)
}

// TestCassandra_Log runs the message store's contract and the protocol on it, with
// buckets so small that every story crosses some.
func TestCassandra_Log(t *testing.T) {
	cfg := keyspace(t)
	msglogtest.Run(t, func() (msglogtest.Instance, error) {
		in, err := newInstance(cfg, 4)
		return logInstance{in}, err
	})
}

// TestCassandra_History runs the history's contract, with small buckets as well.
func TestCassandra_History(t *testing.T) {
	cfg := keyspace(t)
	historytest.Run(t, func() (historytest.Instance, error) {
		in, err := newInstance(cfg, 8)
		return historyInstance{in}, err
	})
}
