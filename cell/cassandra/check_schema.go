package cassandra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/gocql/gocql"

	"parley/cell/history"
	"parley/internal/problem"
)

// cluster looks at what all nodes share: the datacenter, the keyspace, the tables.
func (f *findings) cluster(ctx context.Context, cfg Config, s *gocql.Session) {
	nodes, err := datacenters(ctx, s)
	if err != nil {
		f.fault("the cluster's nodes can't be listed: %s", err.Error())
		return
	}
	if n := nodes[cfg.Datacenter]; n == 0 {
		f.fault("the cluster has no datacenter %q, but %s: mend datacenter", cfg.Datacenter, strings.Join(slices.Sorted(maps.Keys(nodes)), ", "))
		return
	} else if n < cfg.Replication {
		f.fault("datacenter %s has %d nodes, too few for replication %d", cfg.Datacenter, n, cfg.Replication)
	}
	if !f.keyspace(ctx, cfg, s) {
		return
	}
	f.tables(ctx, cfg, s)
}

// datacenters counts the cluster's nodes.
func datacenters(ctx context.Context, s *gocql.Session) (map[string]int, error) {
	nodes := make(map[string]int)
	for _, table := range []string{"local", "peers"} {
		rows := s.Query(`SELECT data_center FROM system.` + table).WithContext(ctx).Consistency(gocql.One).Iter()
		var dc string
		for rows.Scan(&dc) {
			nodes[dc]++
		}
		if err := rows.Close(); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// keyspace says whether there is one.
func (f *findings) keyspace(ctx context.Context, cfg Config, s *gocql.Session) bool {
	var (
		replication map[string]string
		durable     bool
	)
	err := s.Query(`SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = ?`, cfg.Keyspace).
		WithContext(ctx).Consistency(gocql.One).Scan(&replication, &durable)
	if errors.Is(err, gocql.ErrNotFound) {
		f.note(fmt.Sprintf("there is no keyspace %s yet: it will be made, with its tables and replication %d in %s", cfg.Keyspace, cfg.Replication, cfg.Datacenter))
		return false
	}
	if err != nil {
		f.fault("keyspace %s can't be looked at: %s", cfg.Keyspace, err.Error())
		return false
	}
	_, class, _ := cutLast(replication["class"], ".")
	delete(replication, "class")
	if class != "NetworkTopologyStrategy" || len(replication) != 1 || replication[cfg.Datacenter] != strconv.Itoa(cfg.Replication) {
		f.fault("keyspace %s has replication %s %v; the config says %d in %s only. ALTER KEYSPACE and repair, or mend the config",
			cfg.Keyspace, class, replication, cfg.Replication, cfg.Datacenter)
	}
	if !durable {
		f.fault("keyspace %s has durable_writes false: it would lose messages. ALTER KEYSPACE %s WITH durable_writes = true", cfg.Keyspace, cfg.Keyspace)
	}
	return true
}

// cutLast cuts around the last sep; all of s is after if there is none.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// table is what must hold of one: deletions outlive a replica that was away, reads
// mend what they find, compaction takes no write time for a time, and nothing that
// is kept for good has a time to live.
type table struct {
	graceMin int // gc_grace_seconds
	ttl      int // default_time_to_live at least; 0 = none
}

func tables() map[string]table {
	kept := table{graceMin: 864000}
	return map[string]table{
		"fence": kept, "log": kept, "mark": kept, "message": kept, "reply": kept,
		"dirty": {graceMin: 10800}, "dedupe": {graceMin: 10800, ttl: int(history.Window.Seconds())},
	}
}

func (f *findings) tables(ctx context.Context, cfg Config, s *gocql.Session) {
	rows := s.Query(`SELECT table_name, gc_grace_seconds, default_time_to_live, read_repair, compaction FROM system_schema.tables WHERE keyspace_name = ?`, cfg.Keyspace).
		WithContext(ctx).Consistency(gocql.One).Iter()
	var (
		name, repair string
		grace, ttl   int
		compaction   map[string]string
		there        = make(map[string]bool)
	)
	for rows.Scan(&name, &grace, &ttl, &repair, &compaction) {
		there[name] = true
		want, ours := tables()[name]
		if !ours {
			continue
		}
		at := cfg.Keyspace + "." + name
		if grace < want.graceMin {
			f.fault("table %s has gc_grace_seconds %d: what was deleted could come back. ALTER TABLE %s WITH gc_grace_seconds = %d", at, grace, at, want.graceMin)
		}
		if want.ttl == 0 && ttl != 0 || ttl < want.ttl {
			f.fault("table %s has default_time_to_live %d: it would forget too early. ALTER TABLE %s WITH default_time_to_live = %d", at, ttl, at, want.ttl)
		}
		if repair != "BLOCKING" {
			f.fault("table %s has read_repair %s: what one read has seen, the next might not. ALTER TABLE %s WITH read_repair = 'BLOCKING'", at, repair, at)
		}
		if class := compaction["class"]; strings.HasSuffix(class, "TimeWindowCompactionStrategy") {
			f.fault("table %s has TimeWindowCompactionStrategy, which takes write times for times. "+
				"ALTER TABLE %s WITH compaction = {'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}", at, at)
		}
	}
	if err := rows.Close(); err != nil {
		f.fault("the tables of keyspace %s can't be looked at: %s", cfg.Keyspace, err.Error())
		return
	}
	f.schema(ctx, cfg, s, there)
}

// foreign says whether a keyspace has tables of our names that we have not made:
// every migration begins with the lock's.
func (f *findings) foreign(keyspace string, there map[string]bool) bool {
	if there["schema_lock"] || there["schema_version"] {
		return false
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(tables())) {
		if there[name] {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return false
	}
	f.fault("keyspace %s has a table %s that Parley has not made: name a keyspace of the cell's own", keyspace, strings.Join(names, ", "))
	return true
}

// schema compares what was made with what this release knows.
func (f *findings) schema(ctx context.Context, cfg Config, s *gocql.Session, there map[string]bool) {
	all, err := steps()
	if err != nil {
		f.add(err)
		return
	}
	have := 0
	if f.foreign(cfg.Keyspace, there) {
		return
	}
	if there["schema_version"] {
		if have, err = readVersion(ctx, s, cfg.Keyspace); err != nil {
			// Another process may be making it: who opens the store waits for that.
			f.missing(problem.Wrap(err, problem.Unavailable, "Cassandra: table %s.schema_version can't be read at quorum: are enough nodes up?", cfg.Keyspace))
			return
		}
	}
	switch {
	case have > len(all):
		f.add(errFuture(cfg.Keyspace, have, len(all)))
	case have < len(all):
		f.note(fmt.Sprintf("keyspace %s is at version %d: migrations up to %s will be run", cfg.Keyspace, have, all[len(all)-1].name))
	default:
		for _, name := range slices.Sorted(maps.Keys(tables())) {
			if !there[name] {
				f.fault("keyspace %s has no table %s, though its migration was run: restore it", cfg.Keyspace, name)
			}
		}
	}
}
