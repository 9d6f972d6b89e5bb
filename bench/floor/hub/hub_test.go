package hub_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/bench/floor/hub"
	"parley/bench/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a hub and returns its address.
func start(t *testing.T, sync string) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	addr, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- hub.Run(ctx, hub.Config{Addr: "127.0.0.1:0", Sync: sync}, func(a string) { addr <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-addr:
		return a
	case err := <-done:
		done <- nil
		t.Fatal(err)
		return ""
	}
}

func connect(t *testing.T, addr string, tokens ...string) *load.Load {
	t.Helper()
	cfg := load.Config{Name: "test"}
	for _, token := range tokens {
		cfg.Sockets = append(cfg.Sockets, load.Socket{Addr: addr, Token: token})
	}
	l, err := load.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// Every socket of a channel gets every post once, in order, and nobody else does:
// the load finds anything else.
func TestHub_FansOut(t *testing.T) {
	dir := t.TempDir()
	for _, sync := range []string{"", filepath.Join(dir, "log")} {
		l := connect(t, start(t, sync), "Ca", "Ca.Cb", "Cb", "Ca.Cb")
		r, err := l.Run(t.Context(), load.Plan{InFlight: 8, For: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Posts == 0 || r.Faults() != 0 || r.Delivered != 3*r.Posts {
			t.Errorf("sync %q: %+v; want 3 deliveries of every post and no fault", sync, r.Counts)
		}
		if r.Delivery.P99 <= 0 || r.Ack.P99 <= 0 || r.PostsPerS <= 0 {
			t.Errorf("sync %q: nothing was measured: %+v", sync, r)
		}
		if sync == "" {
			continue
		}
		if st, err := os.Stat(sync); err != nil || st.Size() < r.Posts*load.BodyBytes {
			t.Errorf("%d posts were acked; on disk are %v (%v)", r.Posts, st, err)
		}
	}
}

func TestHub_SecondRunGoesOnWhereTheFirstEnded(t *testing.T) {
	l := connect(t, start(t, ""), "Ca", "Ca")
	for range 2 {
		r, err := l.Run(t.Context(), load.Plan{InFlight: 2, For: 50 * time.Millisecond})
		if err != nil || r.Posts == 0 || r.Faults() != 0 {
			t.Fatalf("%+v, %v", r.Counts, err)
		}
	}
}
