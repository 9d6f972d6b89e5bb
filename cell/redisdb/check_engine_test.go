//go:build engines

package redisdb

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// fake is a port that gives one answer to whatever comes, but to a greeting.
func fake(t *testing.T, answer string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			for b := make([]byte, 1024); ; {
				n, err := c.Read(b)
				if err != nil {
					break
				}
				say := answer
				if strings.Contains(strings.ToLower(string(b[:n])), "hello") && answer[0] == '$' {
					say = "-ERR unknown command\r\n"
				}
				_, _ = c.Write([]byte(say))
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// TestCheck_SaysWhatIsWrong: the engine, the address, what, and how to mend it.
func TestCheck_SaysWhatIsWrong(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("xyz\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	closed := net.JoinHostPort("127.0.0.1", freePort(t, "127.0.0.1"))
	locked := newProcess(t, "--requirepass", "open sesame")
	evicting := newProcess(t, "--maxmemory-policy", "allkeys-lru")
	replica := newProcess(t, "--replicaof", strings.Replace(evicting.addr, ":", " ", 1))
	partial := newProcess(t, "--cluster-enabled", "yes", "--cluster-port", freePort(t, "127.0.0.1"))
	if err := partial.do("CLUSTER", "ADDSLOTSRANGE", "0", "999"); err != nil {
		t.Fatal(err)
	}
	single := testAddrs(t, "PARLEY_TEST_REDIS")[0]
	for name, tc := range map[string]struct {
		cfg  Config
		want []string
	}{
		"away":           {Config{Addrs: []string{closed}}, []string{"redis " + closed, "can't be reached"}},
		"no password":    {Config{Addrs: []string{locked.addr}}, []string{"redis " + locked.addr, "password_file"}},
		"wrong password": {Config{Addrs: []string{locked.addr}, PasswordFile: wrong}, []string{"user default is refused", "password_file"}},
		"wrong user":     {Config{Addrs: []string{locked.addr}, Username: "bob", PasswordFile: secret}, []string{"user bob is refused"}},
		"evicts":         {Config{Addrs: []string{evicting.addr}}, []string{"maxmemory-policy allkeys-lru", "noeviction"}},
		"replica":        {Config{Addrs: []string{replica.addr}}, []string{"read-only replica of " + evicting.addr}},
		"slots":          {Config{Addrs: []string{partial.addr}, Mode: modeCluster}, []string{"15384 of 16384 hash slots", "cluster_state"}},
		"not a cluster":  {Config{Addrs: []string{single}, Mode: modeCluster}, []string{"redis"}},
		"a cluster":      {Config{Addrs: testAddrs(t, "PARLEY_TEST_REDIS_CLUSTER")[:1], Mode: modeSingle}, []string{"it runs in mode cluster, the config says single"}},
		"old":            {Config{Addrs: []string{fake(t, bulk("redis_version:6.2.1\r\nredis_mode:standalone\r\n"))}}, []string{"version 6.2.1 is too old"}},
		"HTTP":           {Config{Addrs: []string{fake(t, "HTTP/1.1 400 Bad Request\r\n\r\n")}}, []string{"not Redis"}},
		"something else": {Config{Addrs: []string{fake(t, bulk("hello"))}}, []string{"not like Redis"}},
		"no file":        {Config{Addrs: []string{single}, PasswordFile: "/nowhere"}, []string{"password_file: /nowhere"}},
		"fields":         {Config{Addrs: []string{"nowhere"}, Mode: "x", KeyPrefix: "{"}, []string{"redis.addrs", "redis.mode", "redis.key_prefix"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.cfg.KeyPrefix == "" {
				tc.cfg.KeyPrefix = "check"
			}
			err := Check(t.Context(), tc.cfg)
			if err == nil {
				t.Fatal("nothing is said to be wrong")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in: %v", want, err)
				}
			}
			if d, err := Open(t.Context(), tc.cfg, Deps{}); err == nil {
				t.Errorf("Open started nevertheless: %v", d.Close())
			}
		})
	}
	if err := Check(t.Context(), Config{Addrs: []string{locked.addr}, PasswordFile: secret, KeyPrefix: "check"}); err != nil {
		t.Error(err)
	}
	eachServer(t, func(t *testing.T, cfg Config) {
		t.Helper()
		cfg.Mode = ""
		if err := Check(t.Context(), cfg); err != nil {
			t.Error(err)
		}
	})
}

// TestSentinel_FailOver: after the primary's death all parts work at the new one.
func TestSentinel_FailOver(t *testing.T) {
	primary := newProcess(t)
	host, port, _ := net.SplitHostPort(primary.addr)
	replica := newProcess(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0", "--replica-announce-ip", host)
	eventually(t, 20*time.Second, "the replica", func() bool {
		c := redis.NewClient(&redis.Options{Addr: replica.addr, MaxRetries: -1})
		defer c.Close() //nolint:errcheck // the test has its answer
		in, err := c.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(in, "master_link_status:up")
	})
	var sentinels []string
	for i := range 3 {
		file := filepath.Join(t.TempDir(), strconv.Itoa(i)+".conf")
		text := fmt.Sprintf("sentinel monitor cell %s %s 2\nsentinel down-after-milliseconds cell 1000\nsentinel failover-timeout cell 5000\nsentinel announce-ip %s\n", host, port, host)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		sentinels = append(sentinels, newSentinel(t, file).addr)
	}
	eventually(t, 20*time.Second, "the sentinels", func() bool {
		c := redis.NewClient(&redis.Options{Addr: sentinels[0], MaxRetries: -1})
		defer c.Close() //nolint:errcheck // the test has its answer
		s, err := c.Do(t.Context(), "SENTINEL", "CKQUORUM", "cell").Text()
		m, err2 := c.Do(t.Context(), "INFO", "sentinel").Text()
		return err == nil && err2 == nil && strings.HasPrefix(s, "OK 3") && strings.Contains(m, "slaves=1")
	})
	cfg := Config{Addrs: sentinels, MasterName: "cell", KeyPrefix: "failover"}
	if err := Check(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	j := &journal{}
	d := open(t, cfg, Deps{Name: "s1", Journal: j})
	u := user("U")
	put := func(seq int) bool {
		m, err := d.ReadState().Put(t.Context(), u, "C", seqMark(seq))
		return err == nil && m == seqMark(seq)
	}
	eventually(t, 5*time.Second, "a mark", func() bool { return put(1) })
	var e ear
	a := d.Bus().Attach(&e)
	defer a.Close()
	a.Follow("x")
	primary.kill()
	died := time.Now()
	eventually(t, 30*time.Second, "a message", func() bool {
		d.Bus().Publish("x", []byte("after"))
		return e.last() == "after"
	})
	t.Logf("heard after %s", time.Since(died).Round(10*time.Millisecond))
	if _, lost := e.count(); lost < 2 {
		t.Errorf("Lost %d times", lost)
	}
	eventually(t, 30*time.Second, "a mark", func() bool { return put(2) })
	t.Logf("marked after %s", time.Since(died).Round(10*time.Millisecond))
	if j.replays < 2 {
		t.Error("the new primary was not filled: it may lack what the old one had acknowledged")
	}
	if _, err := d.Presence().Set(t.Context(), "g1", nil); err != nil {
		t.Error(err)
	}
}
