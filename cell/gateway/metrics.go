package gateway

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	sessions prometheus.Gauge
	frames   prometheus.Counter
	caughtUp prometheus.Counter
	posts    prometheus.Counter
	repairs  prometheus.Counter
	resets   prometheus.Counter
	lost     prometheus.Counter
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "parley", Subsystem: "gateway", Name: name, Help: help})
	}
	m := &metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "parley", Subsystem: "gateway", Name: "sessions", Help: "Sessions served."}),
		frames:   counter("group_frames_total", "Events sent to groups: one per link and event."),
		caughtUp: counter("catch_up_frames_total", "Events sent to single sessions to catch up."),
		posts:    counter("posts_total", "Messages that came by sockets."),
		repairs:  counter("repairs_total", "Gaps that were repaired from the log."),
		resets:   counter("resets_total", "Sessions told to load a channel afresh."),
		lost:     counter("router_lost_total", "Times that the router lost messages."),
	}
	if to == nil {
		return m, nil
	}
	var faults []error
	for _, c := range []prometheus.Collector{m.sessions, m.frames, m.caughtUp, m.posts, m.repairs, m.resets, m.lost} {
		faults = append(faults, to.Register(c))
	}
	return m, errors.Join(faults...)
}
