//go:build engines

package kafka_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/cell/kafka"
)

// wantFault wants Check and Open to fail, with all these words.
func wantFault(t *testing.T, cfg kafka.Config, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := kafka.Check(ctx, cfg)
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("Check = %v\nwant it to say %q", err, w)
		}
	}
	db, err := kafka.Open(ctx, cfg, nil, nil)
	if err == nil {
		db.Close()
		t.Error("Open takes it")
	}
}

// listen answers every connection by what is given; nothing = silence.
func listen(t *testing.T, answer string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
			_, _ = c.Write([]byte(answer))
		}
		for _, c := range open {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return l.Addr().String()
}

func TestKafka_CheckTakesWhatIsRight(t *testing.T) {
	cfg := newPrefix(t)
	if err := kafka.Check(t.Context(), cfg); err != nil {
		t.Errorf("before the topics are there: %v", err)
	}
	open(t, cfg)
	if err := kafka.Check(t.Context(), cfg); err != nil {
		t.Errorf("after: %v", err)
	}
}

func TestKafka_CheckAddresses(t *testing.T) {
	for name, c := range map[string]struct{ addr, word string }{
		"nobody listens": {"127.0.0.1:1", "can't be reached"},
		"another server": {listen(t, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), "does not answer as Kafka does"},
		"garbage":        {listen(t, "\x00\x00\x00\x08\x00\x00\x00\x01garbage of some length"), "does not answer as Kafka does"},
		"silence":        {listen(t, ""), "does not answer"},
		"no such name":   {"no-such-host.invalid:9092", "mend brokers"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newConfig([]string{c.addr})
			wantFault(t, cfg, "kafka at "+c.addr, c.word)
		})
	}
	t.Run("one of several", func(t *testing.T) {
		cfg := newPrefix(t)
		cfg.Brokers = append(slices.Clip(cfg.Brokers), "127.0.0.1:1")
		if err := kafka.Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1: can't be reached") {
			t.Errorf("Check = %v", err)
		}
		open(t, cfg) // the others serve
	})
}

func TestKafka_CheckUser(t *testing.T) {
	cfg := newConfig(addresses(t))
	cfg.Username, cfg.PasswordFile = "ann", filepath.Join(t.TempDir(), "password")
	wantFault(t, cfg, "password_file")
	if err := os.WriteFile(cfg.PasswordFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFault(t, cfg, `kafka at `+cfg.Brokers[0]) // the set has no users
	cfg.Username, cfg.PasswordFile = "", ""
	cfg.CAFile = filepath.Join(t.TempDir(), "no.pem")
	wantFault(t, cfg, "ca_file")
}

func TestKafka_CheckTooFewBrokers(t *testing.T) {
	cfg := newConfig(addresses(t))
	cfg.Replication = len(cfg.Brokers) + 1
	wantFault(t, cfg, "brokers up", "replication")
}

// TestKafka_CheckTopics: every fault is named, with the command that mends it.
func TestKafka_CheckTopics(t *testing.T) {
	cfg := newPrefix(t)
	adm, err := admin(cfg.Brokers)
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	set := func(kv ...string) map[string]*string {
		m := map[string]*string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = &kv[i+1]
		}
		return m
	}
	changes := set("cleanup.policy", "compact", "min.insync.replicas", "9", "retention.ms", "1000", "unclean.leader.election.enable", "true", "max.message.bytes", "1000")
	if _, err := adm.CreateTopic(t.Context(), 5, 1, changes, cfg.Prefix+".changes"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(t.Context(), 16, 1, set("cleanup.policy", "delete"), cfg.Prefix+".readstate"); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 2; { // brokers tell one another a little later
		there, err := adm.ListTopics(t.Context(), cfg.Prefix+".changes", cfg.Prefix+".readstate")
		if n = len(there.Names()); err != nil || there.Error() != nil {
			n = 0
		}
		if t.Context().Err() != nil {
			t.Fatal("the topics do not appear")
		}
	}
	words := []string{
		cfg.Prefix + ".changes has 5 partitions, it needs 128", "--partitions 128",
		"cleanup.policy compact, it needs delete", "kafka-configs.sh --bootstrap-server " + cfg.Brokers[0],
		"min.insync.replicas 9, it needs", "retention.ms 1000, it needs 604800000", "unclean.leader.election.enable true",
		"max.message.bytes 1000", cfg.Prefix + ".readstate has cleanup.policy delete, it needs compact",
	}
	if cfg.Replication > 1 {
		words = append(words, "has 1 replicas, it needs 3")
	}
	wantFault(t, cfg, words...)
}
