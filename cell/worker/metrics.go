package worker

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lagWait bounds how long a scrape waits for the lag.
const lagWait = time.Second

type descs struct{ handled, retries, lag *prometheus.Desc }

func newDescs(group string) descs {
	labels := prometheus.Labels{"group": group}
	return descs{
		handled: prometheus.NewDesc("parley_worker_handled_total", "Events handled.", nil, labels),
		retries: prometheus.NewDesc("parley_worker_retries_total", "Batches, reads and commits that failed and were tried again.", nil, labels),
		lag:     prometheus.NewDesc("parley_worker_lag_events", "Events that wait to be handled.", nil, labels),
	}
}

// Describe implements prometheus.Collector.
func (w *Worker) Describe(to chan<- *prometheus.Desc) {
	to <- w.descs.handled
	to <- w.descs.retries
	to <- w.descs.lag
}

// Collect implements prometheus.Collector. The lag is left out while the event
// log doesn't answer.
func (w *Worker) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(w.descs.handled, prometheus.CounterValue, float64(w.Handled()))
	to <- prometheus.MustNewConstMetric(w.descs.retries, prometheus.CounterValue, float64(w.Retries()))
	ctx, cancel := context.WithTimeout(context.Background(), lagWait)
	defer cancel()
	if lag, err := w.Lag(ctx); err == nil {
		to <- prometheus.MustNewConstMetric(w.descs.lag, prometheus.GaugeValue, float64(lag))
	}
}
