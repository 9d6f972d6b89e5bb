package engineset_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"parley/internal/engineset"
)

// script stands in for tools/engines/engines.
func script(t *testing.T, body string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "engines")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSet_StoresAreWhatTheScriptSays(t *testing.T) {
	dir := t.TempDir()
	s := engineset.Set{Name: "cell-1", Script: script(t, `[ "$1 $2" = "env cell-1" ] || exit 2
echo export PARLEY_TEST_CASSANDRA=127.0.0.11:9042,127.0.1.11:9042,127.0.2.11:9042
echo export PARLEY_TEST_KAFKA=127.0.0.11:9092
echo export PARLEY_TEST_REDIS=127.0.0.11:6379
echo export PARLEY_TEST_ELASTICSEARCH=http://127.0.0.11:9200
echo export PARLEY_TEST_POSTGRES=postgres://parley:word@127.0.0.11:5432/parley
`)}
	e, err := s.Stores(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Cassandra.Hosts) != 3 || e.Cassandra.Replication != 3 || e.Kafka.Replication != 1 {
		t.Errorf("%+v, %+v", e.Cassandra, e.Kafka)
	}
	if word, err := os.ReadFile(e.Postgres.PasswordFile); err != nil || string(word) != "word" {
		t.Errorf("the password's file holds %q, %v", word, err)
	}
	if strings.Contains(e.Postgres.URL, "word") {
		t.Errorf("a password is in the URL: %s", e.Postgres.URL)
	}
}

func TestSet_SaysWhatTheScriptComplainsOf(t *testing.T) {
	s := engineset.Set{Name: "cell-1", Script: script(t, "echo engines: port 9042 is busy >&2; exit 1")}
	if err := s.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "9042 is busy") {
		t.Errorf("got %v", err)
	}
}

func TestSet_NodesAreWhatStatusTells(t *testing.T) {
	s := engineset.Set{Name: "cell-1", Script: script(t, `echo '[{"set":"cell-1","name":"redis-1","state":"up","pid":7,"rss_kib":11000}]'`)}
	ns, err := s.Nodes(t.Context())
	if err != nil || len(ns) != 1 || ns[0] != (engineset.Node{Name: "redis-1", PID: 7, KiB: 11000}) {
		t.Errorf("%+v, %v", ns, err)
	}
}
