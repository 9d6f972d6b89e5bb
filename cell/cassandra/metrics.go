package cassandra

import (
	"context"
	"errors"

	"github.com/gocql/gocql"
	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/problem"
)

// queries name the statements, for metrics. A write of several statements goes by
// its first.
func queries() map[string]string {
	return map[string]string{
		fenceRead: "fence_read", fenceFirst: "fence_raise", fenceRaise: "fence_raise",
		logInsert: "log_append", logDelete: "log_cut", logRead: "log_read", logTimes: "log_times", logAbove: "log_above", logLast: "log_last", logDrop: "log_drop",
		dirtyInsert: "dirty_add", dirtyRead: "dirty_list", dirtyGet: "dirty_get", dirtyDelete: "dirty_remove",
		markRead: "mark_read", markApplied: "mark_applied", markEmitted: "mark_emitted", floorRead: "floor_read", floorSet: "floor_set",
		messageInsert: "message_put", threadUpdate: "thread_put", replyInsert: "reply_put", dedupeInsert: "dedupe_put",
		pageBack: "page_back", pageForward: "page_forward", messageGet: "message_get", threadRead: "thread_read", dedupeGet: "dedupe_get",
	}
}

// otherQuery is what none of them is, such as the client's own.
const otherQuery = "other"

// metrics are this process's view of the nodes. They count attempts: what a caller
// sees is in the metrics of who calls.
type metrics struct {
	reg      prometheus.Registerer // nil = nowhere
	names    map[string]string
	seconds  *prometheus.HistogramVec
	failures *prometheus.CounterVec
	repeats  *prometheus.CounterVec
	connects *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "parley", Subsystem: "cassandra", Name: name, Help: help}, labels)
	}
	return &metrics{
		reg: reg, names: queries(),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "parley_cassandra_attempt_seconds", Help: "Time of one attempt of a query, or of a page of it, at one node.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"query"}),
		failures: counter("failures_total", "Attempts that failed, by reason.", "query", "reason"),
		repeats:  counter("repeats_total", "Attempts at a further node: the one before had failed, or was slow and a second one was asked beside it.", "why"),
		connects: counter("connects_total", "Connections to nodes that were tried, by result.", "result"),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.seconds, m.failures, m.repeats, m.connects}
}

func (m *metrics) register() error {
	if m.reg == nil {
		return nil
	}
	if err := m.reg.Register(m); err != nil {
		return problem.Wrap(err, problem.Internal, "the message store's metrics are registered already")
	}
	return nil
}

func (m *metrics) unregister() {
	if m.reg != nil {
		m.reg.Unregister(m)
	}
}

// ObserveQuery implements gocql.QueryObserver.
func (m *metrics) ObserveQuery(ctx context.Context, q gocql.ObservedQuery) {
	m.attempt(ctx, q.Statement, q.End.Sub(q.Start).Seconds(), q.Err)
}

// ObserveBatch implements gocql.BatchObserver.
func (m *metrics) ObserveBatch(ctx context.Context, b gocql.ObservedBatch) {
	first := ""
	if len(b.Statements) > 0 {
		first = b.Statements[0]
	}
	m.attempt(ctx, first, b.End.Sub(b.Start).Seconds(), b.Err)
}

// ObserveConnect implements gocql.ConnectObserver.
func (m *metrics) ObserveConnect(c gocql.ObservedConnect) {
	result := "ok"
	if c.Err != nil {
		result = "failed"
	}
	m.connects.WithLabelValues(result).Inc()
}

func (m *metrics) attempt(ctx context.Context, statement string, seconds float64, err error) {
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		m.repeats.WithLabelValues("slow").Inc() // the other one was first
		return
	}
	name, ok := m.names[statement]
	if !ok {
		name = otherQuery
	}
	m.seconds.WithLabelValues(name).Observe(seconds)
	if err != nil {
		m.failures.WithLabelValues(name, reason(err)).Inc()
	}
}

// reason sorts errors of attempts by what an operator would look at.
func reason(err error) string {
	switch code(err) {
	case gocql.ErrCodeUnavailable:
		return "unavailable" // too few replicas are up, as the coordinator knows
	case gocql.ErrCodeReadTimeout, gocql.ErrCodeWriteTimeout, gocql.ErrCodeCASWriteUnknown:
		return "replicas" // too few answered it in time
	case gocql.ErrCodeOverloaded, gocql.ErrCodeBootstrapping:
		return "overloaded"
	}
	switch {
	case refused(err):
		return "refused"
	case errors.Is(err, gocql.ErrTimeoutNoResponse), errors.Is(err, context.DeadlineExceeded):
		return "silence"
	case errors.Is(err, context.Canceled):
		return "given_up" // by who asked
	case code(err) >= 0:
		return "server"
	default:
		return "connection"
	}
}
