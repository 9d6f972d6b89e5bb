package workload

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"parley/bench/load"
)

// Stat is the median of runs and their spread.
type Stat struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Runs   []float64 `json:"runs"`
}

func statOf(vs []float64) Stat {
	if len(vs) == 0 {
		return Stat{}
	}
	sorted := slices.Sorted(slices.Values(vs))
	return Stat{Median: middle(sorted), Min: sorted[0], Max: sorted[len(sorted)-1], Runs: vs}
}

func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Target is what a row is held against: the ratio to the floor, or without one
// the figure itself.
type Target struct {
	Name   string  `json:"name"` // first or goal
	Value  float64 `json:"value"`
	AtMost bool    `json:"at_most"` // else at least
}

// Met reports whether a figure meets the target.
func (t Target) Met(v float64) bool {
	if t.AtMost {
		return v <= t.Value
	}
	return v >= t.Value
}

func ratioTargets(first, goal float64) []Target {
	return []Target{{Name: "first", Value: first}, {Name: "goal", Value: goal}}
}

func mostTargets(first, goal float64) []Target {
	return []Target{{"first", first, true}, {"goal", goal, true}}
}

// Share is a part of a CPU profile, in words.
type Share struct {
	What    string  `json:"what"`
	Percent float64 `json:"percent"`
}

// Row is a line of the table.
type Row struct {
	Workload string      `json:"workload"`
	Measure  string      `json:"measure"`
	Against  string      `json:"against,omitempty"`
	Parley   Stat        `json:"parley"`
	Floor    *Stat       `json:"floor,omitempty"`
	Ratio    float64     `json:"ratio,omitempty"` // of the medians
	Targets  []Target    `json:"targets,omitempty"`
	Counts   load.Counts `json:"counts"` // of Parley's and the floor's runs together
	Notes    []string    `json:"notes,omitempty"`
	Profile  []Share     `json:"profile,omitempty"`
}

// Held is what the targets are held against.
func (r *Row) Held() float64 {
	if r.Against != "" {
		return r.Ratio
	}
	return r.Parley.Median
}

// Judged reports whether there is anything to hold against the targets.
func (r *Row) Judged() bool { return len(r.Targets) > 0 && (r.Against == "" || r.Floor != nil) }

// set fills in the figures.
func (r *Row) set(parley, floor []float64) {
	r.Parley = statOf(parley)
	if len(floor) == 0 {
		return
	}
	f := statOf(floor)
	r.Floor = &f
	if f.Median > 0 {
		r.Ratio = r.Parley.Median / f.Median
	}
}

// compare fills in the figures of interleaved runs, Parley's first.
func (r *Row) compare(runs [][]measured, of func(measured) float64) {
	figures := make([][]float64, 2)
	for i, ms := range runs {
		for _, m := range ms {
			figures[i] = append(figures[i], of(m))
			r.Counts = plus(r.Counts, m.Counts)
		}
	}
	r.set(figures[0], figures[1])
}

func plus(a, b load.Counts) load.Counts {
	return load.Counts{
		Posts: a.Posts + b.Posts, Delivered: a.Delivered + b.Delivered, Refused: a.Refused + b.Refused, Lost: a.Lost + b.Lost,
		Doubled: a.Doubled + b.Doubled, Disorder: a.Disorder + b.Disorder, Broken: a.Broken + b.Broken,
	}
}

// details notes latencies and what server and generator cost.
func (r *Row) details(runs [][]measured) {
	for i, ms := range runs {
		name := [...]string{"Parley", "floor"}[i]
		r.Notes = append(r.Notes, fmt.Sprintf("%s: %.0f posts/s; delivery p50 %s, p99 %s; ack p50 %s, p99 %s; CPU of the server %s, of the generator %s per delivery",
			name, median(ms, func(m measured) float64 { return m.PostsPerS }),
			span(ms, func(m measured) time.Duration { return m.Delivery.P50 }), span(ms, func(m measured) time.Duration { return m.Delivery.P99 }),
			span(ms, func(m measured) time.Duration { return m.Ack.P50 }), span(ms, func(m measured) time.Duration { return m.Ack.P99 }),
			span(ms, func(m measured) time.Duration { return perDelivery(m, m.serverCPU) }),
			span(ms, func(m measured) time.Duration { return perDelivery(m, m.ClientCPU) })))
	}
}

func perDelivery(m measured, cpu time.Duration) time.Duration {
	return time.Duration(float64(cpu) / max(m.DeliveriesPerS*m.Took.Seconds(), 1))
}

func median(ms []measured, of func(measured) float64) float64 {
	vs := make([]float64, len(ms))
	for i, m := range ms {
		vs[i] = of(m)
	}
	return statOf(vs).Median
}

// span is the median of durations, in three digits.
func span(ms []measured, of func(measured) time.Duration) string {
	return Short(time.Duration(median(ms, func(m measured) float64 { return float64(of(m)) })))
}

// Short is a duration in about three digits.
func Short(d time.Duration) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// sortShares puts the largest first.
func sortShares(s []Share) {
	slices.SortFunc(s, func(a, b Share) int { return cmp.Compare(b.Percent, a.Percent) })
}

// quantile is a value of a sorted copy.
func quantile(vs []float64, q float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(vs))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
