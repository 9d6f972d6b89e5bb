package channel

import (
	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/topology"
)

// metrics are a server's measurements. No workspace or channel is a label.
type metrics struct {
	changes  prometheus.Counter
	refused  *prometheus.CounterVec
	commit   prometheus.Histogram
	batch    prometheus.Histogram
	takeover prometheus.Histogram
	lag      prometheus.Gauge
	held     prometheus.Gauge
	open     prometheus.Gauge
	retries  prometheus.Counter

	unemitted prometheus.Gauge
}

func newMetrics(server topology.ServerID) *metrics {
	labels := prometheus.Labels{"server": string(server)}
	return &metrics{
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_channel_changes_total", Help: "Changes committed and confirmed.", ConstLabels: labels,
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_channel_refused_total", Help: "Requests refused, by kind.", ConstLabels: labels,
		}, []string{"kind"}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_channel_commit_seconds", Help: "Time of a commit with its confirmation.", ConstLabels: labels,
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_channel_batch_changes", Help: "Changes in one commit.", ConstLabels: labels,
			Buckets: prometheus.ExponentialBuckets(1, 2, 13),
		}),
		takeover: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_channel_takeover_seconds", Help: "Time to raise the tokens of shards taken at once.", ConstLabels: labels,
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_channel_lag_changes", Help: "Confirmed changes that are not derived yet.", ConstLabels: labels,
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_channel_shards_held", Help: "Shards that the server holds.", ConstLabels: labels,
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_channel_open_channels", Help: "Channels that are open.", ConstLabels: labels,
		}),
		unemitted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "parley_channel_unemitted_changes", Help: "Derived changes that the event log lacks.", ConstLabels: labels,
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_channel_derive_failures_total", Help: "Attempts to derive that failed and are repeated.", ConstLabels: labels,
		}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.changes, m.refused, m.commit, m.batch, m.takeover, m.lag, m.held, m.open, m.retries, m.unemitted}
}

// register makes the metrics seen while the server runs; nowhere if reg is nil.
func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for _, c := range m.all() {
		if err := reg.Register(c); err != nil {
			m.unregister(reg)
			return err
		}
	}
	return nil
}

func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all() {
		reg.Unregister(c)
	}
}
