//go:build engines

package cassandra_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"parley/cell/cassandra"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/msglog/msglogtest"
	"parley/internal/problem"
	"parley/internal/topology"
)

// nodes are the three that the tests kill and start again, by the engines' script.
type nodes struct {
	script, set string
}

func threeNodes(t *testing.T) (cassandra.Config, nodes) {
	t.Helper()
	cfg := config(t)
	if len(cfg.Hosts) != 3 {
		t.Fatalf("PARLEY_TEST_CASSANDRA names %d nodes; this test kills one of three: `make test-engines` has such a set", len(cfg.Hosts))
	}
	n := nodes{script: os.Getenv("PARLEY_TEST_ENGINES"), set: os.Getenv("PARLEY_TEST_SET")}
	if n.script == "" || n.set == "" {
		t.Fatal("PARLEY_TEST_ENGINES and PARLEY_TEST_SET are not set: they name the script that kills nodes, and their set; `make test-engines` sets them")
	}
	return cfg, n
}

// do is kill (kill -9) or start of a node, 1 to 3; start returns when it serves.
func (n nodes) do(verb string, node int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, n.script, verb, n.set, fmt.Sprint("cassandra-", node)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s of node %d: %w\n%s", verb, node, err, out)
	}
	return nil
}

// outages kill one node after the other as the suite's stories go by, and start
// each again before the next.
type outages struct {
	nodes nodes
	t     *testing.T
	wg    sync.WaitGroup

	mu     sync.Mutex
	count  int           // stories that have begun
	kills  int           // outages
	until  int           // the story at which the present one ends
	over   chan struct{} // closed then; nil without one
	mended bool          // the node serves again
}

const (
	// storiesBetween begin on three nodes before each kill.
	storiesBetween = 12
	// storiesDown begin on two.
	storiesDown = 15
	killsMax    = 4
)

// story is told of each new instance.
func (o *outages) story() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.count++
	switch {
	case o.over != nil && o.count >= o.until:
		close(o.over)
		o.over, o.until = nil, o.count+storiesBetween
	case o.over == nil && o.mended && o.kills < killsMax && o.count >= o.until:
		o.over, o.until, o.mended = make(chan struct{}), o.count+storiesDown, false
		node, over := o.kills%3+1, o.over
		o.kills++
		o.wg.Go(func() { o.outage(node, over) }) // beside the story that begins
	}
}

func (o *outages) outage(node int, over <-chan struct{}) {
	if err := o.nodes.do("kill", node); err != nil {
		o.t.Error(err)
	}
	<-over
	if err := o.nodes.do("start", node); err != nil {
		o.t.Error(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mended = true
}

// end makes the set whole again.
func (o *outages) end() {
	o.mu.Lock()
	if o.over != nil {
		close(o.over)
		o.over = nil
	}
	o.mu.Unlock()
	o.wg.Wait()
}

// TestCassandra_ThreeNodes_OneDiesUnderTheProtocol runs the whole contract and the
// protocol while nodes are killed and come back, one at a time: a quorum is there all
// the time, so nothing may fail.
func TestCassandra_ThreeNodes_OneDiesUnderTheProtocol(t *testing.T) {
	cfg, n := threeNodes(t)
	makeKeyspace(t, cfg)
	o := &outages{nodes: n, t: t, until: storiesBetween, mended: true}
	defer o.end()
	msglogtest.Run(t, func() (msglogtest.Instance, error) {
		o.story()
		in, err := newInstance(cfg, 4)
		return logInstance{in}, err
	})
	o.end()
	if o.kills < killsMax && !t.Failed() {
		t.Errorf("%d nodes were killed, want %d: too little was shown", o.kills, killsMax)
	}
}

// TestCassandra_ThreeNodes_QuorumLost: without a quorum every call ends within its
// deadline and none says that it is done; with it back the same client goes on, and
// what it was told is kept is there.
func TestCassandra_ThreeNodes_QuorumLost(t *testing.T) {
	cfg, n := threeNodes(t)
	makeKeyspace(t, cfg)
	cfg.AttemptTimeout = 2 * time.Second
	db := openTest(t, cfg)
	tok := raise(t, db.Log(), 0)
	now := time.Now()
	kept := posts(1, 3, now, "kept")
	if err := db.Log().Append(t.Context(), ref.Shard(), tok, write(ref, tok, 1, kept)); err != nil {
		t.Fatal(err)
	}
	for node := 2; node <= 3; node++ {
		defer func() { // whatever fails, the set is whole afterwards
			if err := n.do("start", node); err != nil {
				t.Error(err)
			}
		}()
		if err := n.do("kill", node); err != nil {
			t.Fatal(err)
		}
	}
	// The first calls meet nodes that nobody knows to be gone, later ones a coordinator
	// that knows.
	for round := range 5 {
		for name, call := range calls(db, tok, round) {
			const most = 3 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), most)
			begin := time.Now()
			err := call(ctx)
			cancel()
			if k := problem.KindOf(err); err == nil || k != problem.Unavailable && k != problem.Unknown {
				t.Errorf("%s without a quorum: %v; want kind unavailable or unknown", name, err)
			}
			if problem.RetryAfterSeconds(err) == 0 {
				t.Errorf("%s does not say when to come back: %v", name, err)
			}
			if took := time.Since(begin); took > most+time.Second {
				t.Errorf("%s took %v, with %v to end", name, took, most)
			}
		}
	}
	for node := 2; node <= 3; node++ {
		if err := n.do("start", node); err != nil {
			t.Fatal(err)
		}
	}
	back := time.Now()
	next := write(ref, tok, 2, posts(4, 1, now, "next"))
	await(t, func() bool { return db.Log().Append(t.Context(), ref.Shard(), tok, next) == nil }, "the quorum to be back")
	t.Logf("served again %v after the nodes did", time.Since(back).Round(time.Millisecond))
	rows, err := db.Log().Tail(t.Context(), ref, 1, 10)
	if err != nil || len(rows) != 4 {
		t.Fatalf("afterwards the log has %d rows, %v; want 4", len(rows), err)
	}
	for i, c := range kept {
		if string(rows[i].Blob) != string(c.Append(nil)) {
			t.Errorf("rev %d is another than what was acknowledged", c.Rev)
		}
	}
}

// calls are one of each kind. The rows are those that are there: a lost write of
// them must not matter.
func calls(db *cassandra.DB, tok topology.Token, round int) map[string]func(context.Context) error {
	same := posts(1, 3, time.UnixMilli(1), "kept")
	return map[string]func(context.Context) error{
		"Append": func(ctx context.Context) error {
			far := ref
			far.Workspace = "W-lost"
			return db.Log().Append(ctx, far.Shard(), tok, write(far, tok, uint64(round+1), same))
		},
		"Fences": func(ctx context.Context) error { _, err := db.Log().Fences(ctx); return err },
		"Raise": func(ctx context.Context) error {
			_, err := db.Log().Raise(ctx, "other", []msglog.Claim{{Shard: ref.Shard() + 1}})
			return err
		},
		"Tail": func(ctx context.Context) error { _, err := db.Log().Tail(ctx, ref, 1, 10); return err },
		"Page": func(ctx context.Context) error {
			_, err := db.History().Page(ctx, ref, history.PageQuery{Limit: 10})
			return err
		},
		"Apply": func(ctx context.Context) error {
			far := ref
			far.Workspace = "W-lost"
			return db.History().Apply(ctx, []history.Batch{{Channel: far, Changes: same}})
		},
	}
}

// dying is the way to nodes of which the first dies as it is asked.
type dying struct {
	net.Dialer

	asked atomic.Bool
}

func (d *dying) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, addr)
	if err == nil && d.asked.CompareAndSwap(false, true) {
		c = hangsUp{c}
	}
	return c, err
}

type hangsUp struct{ net.Conn }

func (hangsUp) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

func TestCassandra_StartsWhileANodeDies(t *testing.T) {
	cfg := keyspace(t)
	way := &dying{}
	db, err := cassandra.Connect(t.Context(), cfg, "cell", 8, way, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if !way.asked.Load() {
		t.Error("no node was asked")
	}
}
