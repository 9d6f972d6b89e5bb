package kafka

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/problem"
)

// scrapeMax bounds how long a scrape waits for the brokers.
const scrapeMax = time.Second

// metrics are this process's view of the brokers.
type metrics struct {
	db       *DB
	reg      prometheus.Registerer // nil = nowhere
	seen     bool                  // registered
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	records  *prometheus.CounterVec
	foreign  prometheus.Counter
	lag      *prometheus.Desc
}

func newMetrics(d *DB, reg prometheus.Registerer) *metrics {
	return &metrics{
		db: d, reg: reg,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "parley_kafka_append_seconds", Help: "Time of an append, with its repeats.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"log"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_kafka_append_failures_total", Help: "Appends that failed, by kind.",
		}, []string{"log", "kind"}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_kafka_appended_total", Help: "Records appended.",
		}, []string{"log"}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_kafka_foreign_records_total", Help: "Records in the event log that are no events and were passed by.",
		}),
		lag: prometheus.NewDesc("parley_kafka_group_lag_events", "Events that a group has not committed, in all partitions.", []string{"group"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
	to <- m.lag
}

// Collect implements prometheus.Collector. Lags are left out while the brokers
// don't answer.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
	ctx, cancel := context.WithTimeout(m.db.ctx, scrapeMax)
	defer cancel()
	for name, lag := range m.db.events.lags(ctx) {
		to <- prometheus.MustNewConstMetric(m.lag, prometheus.GaugeValue, float64(lag), name)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.seconds, m.failures, m.records, m.foreign}
}

func (m *metrics) register() error {
	if m.reg == nil {
		return nil
	}
	if err := m.reg.Register(m); err != nil {
		return problem.Wrap(err, problem.Internal, "the event log's metrics are registered already")
	}
	m.seen = true
	return nil
}

func (m *metrics) unregister() {
	if m.seen {
		m.reg.Unregister(m)
	}
}

func (m *metrics) appended(n int, dur time.Duration, err error)  { m.note("changes", n, dur, err) }
func (m *metrics) journaled(n int, dur time.Duration, err error) { m.note("readstate", n, dur, err) }

func (m *metrics) note(log string, n int, dur time.Duration, err error) {
	m.seconds.WithLabelValues(log).Observe(dur.Seconds())
	if err != nil {
		m.failures.WithLabelValues(log, string(problem.KindOf(err))).Inc()
		return
	}
	m.records.WithLabelValues(log).Add(float64(n))
}

// lags is how far this process's groups are behind, all members together.
func (l *eventLog) lags(ctx context.Context) map[string]uint64 {
	l.mu.Lock()
	groups := maps.Clone(l.groups)
	l.mu.Unlock()
	if len(groups) == 0 {
		return nil
	}
	ends, err := l.Ends(ctx)
	if err != nil {
		return nil
	}
	out := map[string]uint64{}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		at, err := groups[name].reading.get(ctx)
		if err != nil {
			return out
		}
		for p, end := range ends {
			out[name] += uint64(end - min(at[p], end))
		}
	}
	return out
}
