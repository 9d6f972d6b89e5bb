package channel_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/channel"
	"parley/internal/topology"
)

func TestConfig_FaultsAreListedTogether(t *testing.T) {
	cfg := channel.Default()
	cfg.QueueMax, cfg.BatchMax = 1, 0
	err := cfg.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"id", "queue_max", "batch_max"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not name %s", err, field)
		}
	}
	cfg = channel.Default()
	cfg.ID = "cs-1"
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := channel.New(cfg, channel.Deps{}); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("without anything to work on: %v", err)
	}
}

func TestMetrics_LiveAsLongAsTheServer(t *testing.T) {
	c := newCell(t)
	reg := prometheus.NewRegistry()
	with := func(_ *channel.Config, d *channel.Deps) { d.Metrics = reg }
	s := c.start("cs-1", with)
	c.channel(1, "U1")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		if m := f.GetMetric()[0].GetCounter(); m != nil {
			seen[f.GetName()] = m.GetValue()
		}
	}
	if seen["parley_channel_changes_total"] != 1 {
		t.Errorf("counters %v", seen)
	}
	s.kill()
	c.start("cs-1", with) // the same names again
}

// The holder lives and does not see that another should own its shards: it has
// its time, then they are taken.
func TestOwners_AStuckHolderHasItsGrace(t *testing.T) {
	c := newCell(t)
	const grace = 300 * time.Millisecond
	seeing := func(ids ...topology.ServerID) func(*channel.Config, *channel.Deps) {
		return func(cfg *channel.Config, d *channel.Deps) {
			cfg.HandoverGrace = grace
			d.Live = func() []topology.ServerID { return ids }
		}
	}
	c.start("cs-1", seeing("cs-1"))
	refs := c.channels(24)
	began := time.Now()
	b := c.start("cs-2", seeing("cs-1", "cs-2"))
	eventually(t, "the second has its share", func() bool { return owned(b, refs) > 0 })
	if took := time.Since(began); took < grace {
		t.Errorf("taken after %v", took)
	}
}
