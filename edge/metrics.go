package edge

import "github.com/prometheus/client_golang/prometheus"

// metrics count what an operator asks about; none has a label with a tenant.
type metrics struct {
	sockets   prometheus.Gauge
	links     prometheus.Gauge
	delivered prometheus.Counter
	slow      prometheus.Counter
	rehomed   prometheus.Counter
	repaired  prometheus.Counter
	requests  *prometheus.CounterVec
	retries   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "parley", Subsystem: "edge", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
	}
	gauge := func(n, help string) prometheus.Gauge { return prometheus.NewGauge(prometheus.GaugeOpts(name(n, help))) }
	m := &metrics{
		sockets:   gauge("sockets", "Open client sockets."),
		links:     gauge("links", "Links to gateways that are up."),
		delivered: counter("delivered_total", "Events put into sockets' queues."),
		slow:      counter("slow_total", "Sockets closed because they were too slow."),
		rehomed:   counter("rehomed_total", "Sessions opened at another gateway or link."),
		repaired:  counter("repaired_total", "Sessions resumed because of a gap on a link."),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts(name("requests_total", "Client HTTP requests by status.")),
			[]string{"code"}),
		retries: counter("retries_total", "Requests sent to another gateway or epoch."),
	}
	if r != nil {
		for _, c := range []prometheus.Collector{m.sockets, m.links, m.delivered, m.slow, m.rehomed, m.repaired, m.requests, m.retries} {
			_ = r.Register(c) // a second edge in the process counts unseen
		}
	}
	return m
}
