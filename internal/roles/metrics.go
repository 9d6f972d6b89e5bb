package roles

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// metricSet is a role's metrics: those of the process, and a registry for each
// part, which begins anew when the part does.
type metricSet struct {
	process *prometheus.Registry

	mu    sync.Mutex
	parts map[string]*prometheus.Registry
}

func newMetricSet() *metricSet {
	return &metricSet{process: newMetrics(), parts: map[string]*prometheus.Registry{}}
}

// of is a new registry for a part, in place of what it had.
func (m *metricSet) of(part string) *prometheus.Registry {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := prometheus.NewRegistry()
	m.parts[part] = r
	return r
}

// Gather implements prometheus.Gatherer.
func (m *metricSet) Gather() ([]*dto.MetricFamily, error) {
	m.mu.Lock()
	all := prometheus.Gatherers{m.process}
	for _, name := range slices.Sorted(maps.Keys(m.parts)) {
		all = append(all, m.parts[name])
	}
	m.mu.Unlock()
	return all.Gather()
}
