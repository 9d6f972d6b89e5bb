package channelnet

import "github.com/prometheus/client_golang/prometheus"

// metrics are of the calling side.
type metrics struct {
	connected prometheus.Gauge
	lost      prometheus.Counter
	calls     prometheus.Counter
	messages  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "parley", Subsystem: "channelnet", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
	}
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts(name("connected", "Other processes of the cell with channel servers that are in reach."))),
		lost:      counter("lost_total", "Connections to other processes that broke."),
		calls:     counter("calls_total", "Requests to channel servers of other processes."),
		messages:  counter("messages_total", "Messages that those requests went in."),
	}
	if r != nil {
		for _, c := range []prometheus.Collector{m.connected, m.lost, m.calls, m.messages} {
			_ = r.Register(c) // a second one in the process counts unseen
		}
	}
	return m
}
