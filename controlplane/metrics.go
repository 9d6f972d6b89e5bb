package controlplane

import (
	"errors"
	"strconv"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a node's.
type metrics struct {
	proposals *prometheus.HistogramVec // seconds, by outcome
}

func newMetrics() *metrics {
	return &metrics{proposals: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "parley_control_proposal_seconds", Help: "From a change's proposal to its answer, by outcome.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	}, []string{"outcome"})}
}

// register adds the metrics, once Raft runs.
func (n *Node) register(r *prometheus.Registry) error {
	if r == nil {
		return nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_control_" + name, Help: help}, value)
	}
	stat := func(name string) func() float64 {
		return func() float64 {
			v, err := strconv.ParseFloat(n.raft.Stats()[name], 64)
			if err != nil {
				return 0
			}
			return v
		}
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		n.metrics.proposals,
		gauge("is_leader", "1 on the leader.", func() float64 { return one(n.raft.State() == raft.Leader) }),
		gauge("disk_stalls", "1 while a write to the Raft log takes too long.", func() float64 { return one(n.stall.is()) }),
		gauge("term", "Raft's term.", func() float64 { return float64(n.raft.CurrentTerm()) }),
		gauge("commit_index", "The last entry that is committed.", func() float64 { return float64(n.raft.CommitIndex()) }),
		gauge("applied_index", "The last entry that the state has.", func() float64 { return float64(n.raft.AppliedIndex()) }),
		gauge("snapshot_index", "The last entry that a snapshot has.", stat("last_snapshot_index")),
		gauge("fsm_pending", "Entries that wait to be applied.", stat("fsm_pending")),
	} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
