//go:build engines

package redisdb

import (
	"context"
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"parley/cell/readstate"
)

func TestMain(m *testing.M) {
	quiet()
	goleak.VerifyTestMain(m)
}

// servers is the kinds of Redis that the suites run on.
var servers = []struct{ name, variable, mode string }{
	{"single", "PARLEY_TEST_REDIS", modeSingle},
	{"cluster", "PARLEY_TEST_REDIS_CLUSTER", modeCluster},
}

// eachServer runs a test on a plain server and on a cluster, with a prefix of its own.
func eachServer(t *testing.T, run func(t *testing.T, cfg Config)) {
	t.Helper()
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			cfg := Config{Addrs: testAddrs(t, s.variable), Mode: s.mode, KeyPrefix: testPrefix()}
			t.Cleanup(func() { wipe(t, cfg) })
			run(t, cfg)
		})
	}
}

func testPrefix() string { return "test-" + strings.ToLower(rand.Text()) }

func testAddrs(tb testing.TB, variable string) []string {
	tb.Helper()
	v := os.Getenv(variable)
	if v == "" {
		tb.Fatalf("%s names no server: run `make test-engines`, or set it to host:port", variable)
	}
	return strings.Split(v, ",")
}

// wipe removes all keys of a prefix.
func wipe(tb testing.TB, cfg Config) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a, err := cfg.access()
	if err != nil {
		tb.Fatal(err)
	}
	l, err := a.findLayout(ctx, cfg.Mode, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for _, addr := range l.nodes {
		c := redis.NewClient(a.options(addr))
		it := c.Scan(ctx, 0, "{"+cfg.KeyPrefix+":*", 1000).Iterator()
		for it.Next(ctx) {
			if err := c.Del(ctx, it.Val()).Err(); err != nil {
				tb.Error(err)
			}
		}
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	}
}

// open is Open for the time of a test.
func open(tb testing.TB, cfg Config, deps Deps) *DB {
	tb.Helper()
	d, err := Open(tb.Context(), cfg, deps)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

// journal is one in memory, which can be away.
type journal struct {
	mu      sync.Mutex
	entries []readstate.Entry
	away    error
	replays int
}

func (j *journal) Append(ctx context.Context, es []readstate.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.away != nil {
		return j.away
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	j.entries = append(j.entries, es...)
	return nil
}

// Replay hands over the last entry of each key, and some older ones.
func (j *journal) Replay(_ context.Context, fn func([]readstate.Entry) error) error {
	j.mu.Lock()
	es, away := slices.Clip(j.entries), j.away
	j.replays++
	j.mu.Unlock()
	if away != nil {
		return away
	}
	last := map[string]int{}
	for i, e := range es {
		last[string(e.Key)] = i
	}
	var out []readstate.Entry
	for i, e := range es {
		if last[string(e.Key)] == i || i%7 == 0 {
			out = append(out, e)
		}
	}
	return fn(out)
}

func (j *journal) set(away error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.away = away
}

// eventually waits until ok, at most for limit.
func eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	late := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}
