// Package engineset is the engines of a cell as tools/engines runs them on this
// machine, for what drills and measures cells on real engines.
package engineset

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"parley/internal/roles"
)

// Set is one set of engines.
type Set struct {
	Script string   // tools/engines/engines
	Name   string   // of the set, such as cell-1
	Env    []string // beside this process's own
}

// Bounds of the script's calls. An up has a deadline of its own for each node.
const (
	upMax   = 5 * time.Minute
	callMax = time.Minute
)

// datacenter is Cassandra's name of where the sets' nodes are.
const datacenter = "dc1"

func (s Set) call(ctx context.Context, most time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Script, args...) //nolint:gosec // the operator names it
	cmd.Env = append(os.Environ(), s.Env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", s.Script, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// Up starts the set and waits until all of it answers.
func (s Set) Up(ctx context.Context) error {
	_, err := s.call(ctx, upMax, "up", s.Name)
	return err
}

// Down stops it; data and logs are kept.
func (s Set) Down(ctx context.Context) error {
	_, err := s.call(ctx, callMax, "down", s.Name)
	return err
}

// Wipe stops it and removes its data.
func (s Set) Wipe(ctx context.Context) error {
	_, err := s.call(ctx, callMax, "wipe", s.Name)
	return err
}

// Node is one engine's process.
type Node struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	KiB  int64  `json:"rss_kib"` // resident, that of its children included
}

// Nodes are the set's, all of which must be up.
func (s Set) Nodes(ctx context.Context) ([]Node, error) {
	out, err := s.call(ctx, callMax, "status", s.Name, "-o", "json")
	if err != nil {
		return nil, err
	}
	var ns []Node
	return ns, json.Unmarshal(out, &ns)
}

// Variables are what tests read: PARLEY_TEST_….
func (s Set) Variables(ctx context.Context) (map[string]string, error) {
	out, err := s.call(ctx, callMax, "env", s.Name)
	if err != nil {
		return nil, fmt.Errorf("%w: are the engines up?", err)
	}
	at := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		at[name] = strings.Trim(value, `"'`)
	}
	return at, nil
}

// Stores is what the config of a cell on these engines says of them. Postgres's
// password goes into a file in dir.
func (s Set) Stores(ctx context.Context, dir string) (roles.Engines, error) {
	e := roles.DefaultCell().Stores
	at, err := s.Variables(ctx)
	if err != nil {
		return e, err
	}
	list := func(name string) []string { return strings.Split(at["PARLEY_TEST_"+name], ",") }
	e.Cassandra.Hosts, e.Cassandra.Datacenter = list("CASSANDRA"), datacenter
	e.Cassandra.Replication = len(e.Cassandra.Hosts)
	e.Kafka.Brokers = list("KAFKA")
	e.Kafka.Replication = len(e.Kafka.Brokers)
	e.Redis.Addrs, e.Redis.KeyPrefix = list("REDIS"), "parley"
	e.Elasticsearch.Addresses, e.Elasticsearch.Replicas = list("ELASTICSEARCH"), new(int)
	u, err := url.Parse(at["PARLEY_TEST_POSTGRES"])
	if err != nil {
		return e, fmt.Errorf("where is the Postgres of %s? %w", s.Name, err)
	}
	if word, ok := u.User.Password(); ok { // no config holds one
		e.Postgres.PasswordFile = filepath.Join(dir, s.Name+"-postgres-password")
		if err := os.WriteFile(e.Postgres.PasswordFile, []byte(word), 0o600); err != nil {
			return e, err
		}
		u.User = url.User(u.User.Username())
	}
	e.Postgres.URL = u.String()
	return e, nil
}
