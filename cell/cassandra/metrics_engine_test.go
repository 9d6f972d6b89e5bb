//go:build engines

package cassandra_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/cassandra"
	"parley/cell/msglog"
)

// TestCassandra_Metrics: what is asked is counted by query, every query has a name,
// and a store that is opened anew counts again.
func TestCassandra_Metrics(t *testing.T) {
	cfg := keyspace(t)
	reg := prometheus.NewPedanticRegistry()
	for range 2 {
		db, err := cassandra.Open(t.Context(), cfg, "eu-1", nil, reg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Log().Fences(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := db.Log().Raise(t.Context(), "cs-1", []msglog.Claim{{Shard: 1}}); err != nil {
			t.Error(err)
		}
		counted := map[string]uint64{}
		found, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					counted[f.GetName()+" "+l.GetValue()] += m.GetHistogram().GetSampleCount() + uint64(m.GetCounter().GetValue())
				}
			}
		}
		for _, want := range []string{"parley_cassandra_attempt_seconds fence_read", "parley_cassandra_attempt_seconds fence_raise", "parley_cassandra_connects_total ok"} {
			if counted[want] == 0 {
				t.Errorf("%s is not counted: %v", want, counted)
			}
		}
		for what := range counted {
			if strings.HasPrefix(what, "parley_cassandra_failures_total") {
				t.Errorf("%s is counted", what)
			}
		}
		if _, err := cassandra.Open(t.Context(), cfg, "eu-1", nil, reg); err == nil {
			t.Error("two stores count into one place")
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}
