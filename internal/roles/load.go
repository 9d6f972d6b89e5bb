package roles

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/regions"
)

// loadEvery is how often a cell reports how busy it is: placement looks at trends
// of minutes.
const loadEvery = 3 * time.Second

// workspacesPage is how many rows are counted at once.
const workspacesPage = 1000

// Names of the counters that a report is made from.
const (
	changesCounter = "parley_channel_changes_total"
	framesCounter  = "parley_gateway_group_frames_total"
)

// reportLoad tells the region's registry how busy the cell is, or this process's
// part of it, until ctx ends.
func (w *cell) reportLoad(ctx context.Context, ready func()) error {
	ready()
	t := time.NewTicker(loadEvery)
	defer t.Stop()
	before, at := counters(w.metrics), time.Now()
	for {
		now := counters(w.metrics)
		took := max(time.Since(at), time.Millisecond).Seconds()
		load := regions.Load{
			Cell: w.ID, At: time.Now(),
			PostsPerS:      (now[changesCounter] - before[changesCounter]) / took,
			DeliveriesPerS: (now[framesCounter] - before[framesCounter]) / took,
		}
		before, at = now, time.Now()
		load.Connections = w.connections()
		if w.name() != string(w.ID) {
			load.Process = w.name()
		}
		if len(w.Gateways) > 0 { // every process would count the same
			load.Workspaces = w.countWorkspaces(ctx)
		}
		if err := w.registry.ReportLoad(load); err != nil {
			w.log.Warn("load not reported", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// connections is how many sessions the gateways serve.
func (w *cell) connections() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.gateways {
		n += g.Connections()
	}
	return n
}

// counters is the sum of each counter over its labels.
func counters(g prometheus.Gatherer) map[string]float64 {
	out := map[string]float64{}
	families, err := g.Gather()
	if err != nil {
		return out // a collector failed: the report shows no rates this time
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out[f.GetName()] += m.GetCounter().GetValue()
		}
	}
	return out
}

func (w *cell) countWorkspaces(ctx context.Context) (n int) {
	rows, err := w.rows.Workspaces(ctx, "", workspacesPage)
	for err == nil && len(rows) > 0 {
		for _, row := range rows {
			if row.Open() {
				n++
			}
		}
		rows, err = w.rows.Workspaces(ctx, rows[len(rows)-1].ID, workspacesPage)
	}
	return n
}
