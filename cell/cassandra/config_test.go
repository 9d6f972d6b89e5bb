package cassandra_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gocql/gocql"

	"parley/cell/cassandra"
	"parley/internal/problem"
)

func good() cassandra.Config {
	cfg := cassandra.Default()
	cfg.Hosts, cfg.Datacenter = []string{"10.0.0.1:9042"}, "dc1"
	return cfg
}

func TestConfig_EveryFaultIsNamed(t *testing.T) {
	if err := good().Validate(); err != nil {
		t.Fatalf("a good config: %v", err)
	}
	bad := cassandra.Config{
		Hosts: []string{"nohost", ":9042", "a:0"}, Keyspace: "Parley; DROP", Username: "u", CertFile: "c",
		Replication: 9, AttemptTimeout: 1, Connections: 99,
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{
		"nohost", `":9042"`, `"a:0"`, "keyspace", "datacenter", "replication", "password_file", "cert_file", "ca_file", "attempt_timeout", "connections",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in: %v", want, err)
		}
	}
	if err := cassandra.Check(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "datacenter") {
		t.Errorf("Check of a bad config: %v", err)
	}
}

// answer is an error as Cassandra sends it.
type answer struct {
	number int
	text   string
}

func (a answer) Code() int       { return a.number }
func (a answer) Message() string { return a.text }
func (a answer) Error() string   { return a.text }

func TestErrors_Kinds(t *testing.T) {
	unavailable := answer{gocql.ErrCodeUnavailable, "no quorum"}
	for _, c := range []struct {
		err      error
		attempts int
		want     problem.Kind
	}{
		{gocql.ErrNoConnections, 0, problem.Unavailable},
		{gocql.ErrNoConnections, 1, problem.Unknown}, // one is under way
		{unavailable, 1, problem.Unavailable},
		{unavailable, 2, problem.Unknown}, // the first attempt may have been stored
		{answer{gocql.ErrCodeOverloaded, ""}, 1, problem.Unavailable},
		{answer{gocql.ErrCodeWriteTimeout, ""}, 1, problem.Unknown},
		{answer{gocql.ErrCodeWriteFailure, ""}, 1, problem.Unknown},
		{gocql.ErrTimeoutNoResponse, 1, problem.Unknown},
		{gocql.ErrConnectionClosed, 1, problem.Unknown},
		{context.DeadlineExceeded, 1, problem.Unknown},
		{errors.New("broken pipe"), 1, problem.Unknown},
		{answer{gocql.ErrCodeInvalid, "Write request failed because disk usage exceeds failure threshold"}, 1, problem.Full},
		{answer{gocql.ErrCodeInvalid, "Write request failed because disk usage exceeds failure threshold"}, 2, problem.Unknown},
		{answer{gocql.ErrCodeInvalid, "unconfigured table"}, 1, problem.Internal},
	} {
		if got := problem.KindOf(cassandra.WriteError(c.err, c.attempts)); got != c.want {
			t.Errorf("write, %v after %d attempts: kind %s, want %s", c.err, c.attempts, got, c.want)
		}
	}
	for err, want := range map[error]problem.Kind{
		unavailable: problem.Unavailable, gocql.ErrTimeoutNoResponse: problem.Unavailable,
		context.Canceled: problem.Unavailable, answer{gocql.ErrCodeInvalid, "x"}: problem.Internal,
	} {
		if got := problem.KindOf(cassandra.ReadError(err)); got != want {
			t.Errorf("read, %v: kind %s, want %s", err, got, want)
		}
	}
	if problem.RetryAfterSeconds(cassandra.ReadError(unavailable)) != 1 {
		t.Error("an unavailable store does not say when to come back")
	}
}

// A call of several parts may say that nothing was done only if no part was.
func TestTogether_PartsAreUnknown(t *testing.T) {
	gone := problem.New(problem.Unavailable, "gone")
	full := problem.New(problem.Full, "full")
	for _, c := range []struct {
		errs []error
		want problem.Kind
	}{
		{[]error{gone, gone}, problem.Unavailable},
		{[]error{full}, problem.Full},
		{[]error{full, nil}, problem.Unknown},
		{[]error{nil, gone, nil}, problem.Unknown},
		{[]error{gone, problem.New(problem.Unknown, "lost")}, problem.Unknown},
	} {
		err := cassandra.Together(len(c.errs), func(i int) error { return c.errs[i] })
		if got := problem.KindOf(err); got != c.want {
			t.Errorf("%v: kind %s, want %s", c.errs, got, c.want)
		}
	}
	if err := cassandra.Together(100, func(int) error { return nil }); err != nil {
		t.Errorf("all good: %v", err)
	}
}

func TestMigrations_AreRepeatable(t *testing.T) {
	names, cql, err := cassandra.Steps()
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, s := range cql {
		if !strings.Contains(s, "IF NOT EXISTS") {
			t.Errorf("a step that was cut off can't be run again: %s", s)
		}
		if strings.Contains(s, "--") || strings.Contains(s, ";") {
			t.Errorf("badly cut: %s", s)
		}
	}
	got := cassandra.Statements("-- a; b\nCREATE x\n  y;\n\nCREATE z;\n")
	if fmt.Sprint(got) != "[CREATE x\n  y CREATE z]" {
		t.Errorf("cut into %q", got)
	}
	for release, want := range map[string]int{"5.0.8": 5, "4.1.3": 4, "6.0-SNAPSHOT": 6, "": 0, "x": 0} {
		if n := cassandra.Major(release); n != want {
			t.Errorf("version %q is %d, want %d", release, n, want)
		}
	}
}

func TestCheck_Settings(t *testing.T) {
	fine := map[string]string{"commitlog_sync": "group", "paxos_variant": "v2", "user_timestamps_enabled": "true", "max_mutation_size": "16384KiB"}
	if faults, notes := cassandra.Judge(fine, good()); len(faults)+len(notes) != 0 {
		t.Errorf("good settings: %v, %v", faults, notes)
	}
	for name, value := range map[string]string{
		"commitlog_sync": "periodic", "paxos_variant": "v2_without_linearizable_reads", "user_timestamps_enabled": "false",
		"max_mutation_size": "2MiB", "maximum_timestamp_fail_threshold": "1d",
	} {
		is := map[string]string{"commitlog_sync": "batch"}
		is[name] = value
		if faults, _ := cassandra.Judge(is, good()); len(faults) != 1 || !strings.Contains(faults[0].Error(), "node") {
			t.Errorf("%s %s: %v", name, value, faults)
		}
	}
	risky := good()
	risky.AllowPeriodicCommitlog = true
	faults, notes := cassandra.Judge(map[string]string{"commitlog_sync": "periodic", "paxos_variant": "v1"}, risky)
	if len(faults) != 0 || len(notes) != 2 {
		t.Errorf("periodic, allowed: %v, %v", faults, notes)
	}
}
