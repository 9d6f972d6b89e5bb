package regions

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// While its disk is nearly full an embedded etcd refuses changes and answers reads; it
// takes changes again when there is room, without a restart, and says both once.
func TestEtcd_OutlastsAFullDisk(t *testing.T) {
	t.Parallel()
	var free atomic.Uint64
	free.Store(roomMin)
	var said lines
	etcd, err := StartEtcd(t.Context(), EtcdConfig{
		Dir: t.TempDir(), ClientAddr: someAddr(t), PeerAddr: someAddr(t),
		Log:  slog.New(slog.NewTextHandler(&said, nil)),
		free: func(string) (uint64, error) { return free.Load(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoint()}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	until := func(want error) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := client.Put(ctx, "k", "v"); errors.Is(err, want) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("waited in vain for a put to end with %v", want)
			}
		}
	}
	until(nil)
	for range 2 {
		free.Store(roomMin - 1)
		until(rpctypes.ErrNoSpace)
		if got, err := client.Get(ctx, "k"); err != nil || len(got.Kvs) != 1 {
			t.Errorf("a read while the disk is full: %v, %v", got, err)
		}
		free.Store(roomMin)
		until(nil)
	}
	etcd.Close()
	for _, line := range []string{"the disk is nearly full", "the disk has room again"} {
		if n := strings.Count(said.String(), line); n != 2 {
			t.Errorf("%q was said %d times of 2", line, n)
		}
	}
}

func someAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // its number is what is wanted
	return l.Addr().String()
}

// lines is a log that several goroutines write.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
