package drill

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"parley/internal/roles"
)

// engineSets are the sets of engines that the cells store in, in the order of the
// regions; see tools/engines. They must be up, and empty.
var engineSets = [...]string{"cell-1", "cell-2"} //nolint:gochecknoglobals // a constant table

// datacenter is Cassandra's name of where the sets' nodes are.
const datacenter = "dc1"

// engines asks the script where a set's engines are, and writes what a cell's config
// says of them.
func (l *layout) engines(ctx context.Context, script, set string) (roles.Engines, error) {
	e := roles.DefaultCell().Stores
	out, err := exec.CommandContext(ctx, script, "env", set).Output() //nolint:gosec // drills say what to run
	if err != nil {
		return e, fmt.Errorf("%s env %s: %w: are the engines up?", script, set, err)
	}
	at := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		at[name] = strings.Trim(value, `"'`)
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
		return e, fmt.Errorf("where is the Postgres of %s? %w", set, err)
	}
	if word, ok := u.User.Password(); ok { // no config holds one
		e.Postgres.PasswordFile = filepath.Join(l.dir, set+"-postgres-password")
		if err := os.WriteFile(e.Postgres.PasswordFile, []byte(word), 0o600); err != nil {
			return e, err
		}
		u.User = url.User(u.User.Username())
	}
	e.Postgres.URL = u.String()
	return e, nil
}

// engine does something to an engine of the target, or to one of its nodes. Who
// dials one that was killed is refused, as without a wire.
func (w *world) engine(ctx context.Context, do, what string) error {
	ctx, cancel := context.WithTimeout(ctx, engineMax)
	defer cancel()
	if do == "start" {
		for _, to := range w.wiresTo(what) {
			if err := to.Accept(); err != nil {
				return err
			}
		}
	}
	out, err := exec.CommandContext(ctx, w.cfg.Engines, do, engineSets[0], what).CombinedOutput() //nolint:gosec // drills say what to run
	if err != nil {
		return fmt.Errorf("%s %s %s: %w: %s", do, engineSets[0], what, err, out)
	}
	if do == "kill" {
		for _, to := range w.wiresTo(what) {
			to.Refuse()
		}
	}
	return nil
}
