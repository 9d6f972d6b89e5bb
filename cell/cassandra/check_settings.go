package cassandra

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/gocql/gocql"
)

// settings looks at what a node would do that the store can't live with. Nodes of
// which it may not be read are trusted, and noted.
func (f *findings) settings(ctx context.Context, s *gocql.Session, cfg Config, host string) {
	rows := s.Query(`SELECT name, value FROM system_views.settings`).WithContext(ctx).Consistency(gocql.One).Iter()
	is := make(map[string]string)
	var name, value string
	for rows.Scan(&name, &value) {
		is[name] = value
	}
	if err := rows.Close(); err != nil {
		f.note(fmt.Sprintf("the settings of %s can't be read (%v): look yourself that commitlog_sync is group or batch, and grant SELECT on system_views", host, err))
		return
	}
	f.judge(is, cfg, host)
}

// judge says which of a node's settings must be others.
func (f *findings) judge(is map[string]string, cfg Config, host string) {
	switch sync := is["commitlog_sync"]; {
	case sync != "periodic":
	case cfg.AllowPeriodicCommitlog:
		f.note(host + " has commitlog_sync periodic: if it is killed, it loses messages that it has acknowledged")
	default:
		f.fault("%s has commitlog_sync periodic: killed (kill -9, power cut) it loses messages that it has acknowledged. "+
			"Set group or batch in its cassandra.yaml; allow_periodic_commitlog takes the risk", host)
	}
	switch paxos := is["paxos_variant"]; {
	case strings.Contains(paxos, "without_linearizable"):
		f.fault("%s has paxos_variant %s: who owns a shard must be read linearizably. Set v2", host, paxos)
	case paxos == "v1":
		f.note(host + " has paxos_variant v1: v2 makes takeovers cheaper under contention")
	}
	if is["user_timestamps_enabled"] == "false" {
		f.fault("%s forbids write timestamps (user_timestamps_enabled): the store's order is in them", host)
	}
	for _, guard := range []string{"maximum_timestamp_fail_threshold", "minimum_timestamp_fail_threshold"} {
		if v := is[guard]; v != "" && v != "null" {
			f.fault("%s refuses some write timestamps (%s is %s): the store's are no times. Take the setting out", host, guard, v)
		}
	}
	if most, ok := kib(is["max_mutation_size"]); ok && most < (rowBytesMax+(1<<20))>>10 {
		f.fault("%s takes writes of up to %s; the longest changes need 4 MiB. Set commitlog_segment_size to 8MiB or more", host, is["max_mutation_size"])
	}
}

// kib reads a size in KiB as Cassandra writes it.
func kib(s string) (int, bool) {
	for unit, factor := range map[string]int{"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			v, err := strconv.Atoi(n)
			return v * factor, err == nil
		}
	}
	return 0, false
}
