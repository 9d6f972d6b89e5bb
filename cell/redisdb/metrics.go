package redisdb

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connected  prometheus.Gauge
	dropped    prometheus.Counter
	reconnects prometheus.Counter
	rebuilds   prometheus.Counter
	pending    prometheus.Gauge
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "parley", Subsystem: "redis", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "parley", Subsystem: "redis", Name: name, Help: help})
	}
	m := &metrics{
		connected:  gauge("router_connected", "Redis nodes whose topics are subscribed to."),
		dropped:    counter("router_dropped_total", "Messages that could not be published."),
		reconnects: counter("router_reconnects_total", "Times that a node's topics were subscribed to again."),
		rebuilds:   counter("read_state_rebuilds_total", "Times that read state was filled again from its journal."),
		pending:    gauge("read_state_pending", "Marks that wait for the journal."),
	}
	if to == nil {
		return m, nil
	}
	var faults []error
	for _, c := range []prometheus.Collector{m.connected, m.dropped, m.reconnects, m.rebuilds, m.pending} {
		faults = append(faults, to.Register(c))
	}
	return m, errors.Join(faults...)
}
