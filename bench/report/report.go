// Package report writes what workloads have measured: as a table, as JSON, as a
// page of the documentation, and in Go's benchmark format for benchstat.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"parley/bench/workload"
	"parley/internal/problem"
)

// JSON writes rows as they are.
func JSON(w io.Writer, rows []workload.Row) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}

// Table writes rows for a terminal.
func Table(w io.Writer, rows []workload.Row) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "WORKLOAD\tMEASURE\tPARLEY\tFLOOR\tRATIO\tFIRST\tGOAL\tFAULTS")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", r.Workload, r.Measure, stat(&r.Parley), stat(r.Floor), ratio(r), verdict(r, 0), verdict(r, 1), r.Counts.Faults())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		for _, n := range r.Notes {
			fmt.Fprintf(w, "%s: %s\n", r.Workload, n)
		}
		if len(r.Profile) > 0 {
			fmt.Fprintf(w, "%s: CPU: %s\n", r.Workload, profile(r))
		}
	}
	return nil
}

// Faults is an error if anything was lost, doubled or out of order.
func Faults(rows []workload.Row) error {
	for _, r := range rows {
		if c := r.Counts; c.Faults() > 0 {
			return problem.New(problem.Internal, "%s: %d lost, %d doubled, %d out of order, %d refused, %d sockets broken: all must be 0",
				r.Workload, c.Lost, c.Doubled, c.Disorder, c.Refused, c.Broken)
		}
	}
	return nil
}

// stat is a median and its spread.
func stat(s *workload.Stat) string {
	if s == nil {
		return "–"
	}
	return fmt.Sprintf("%s (%s … %s)", figure(s.Median), figure(s.Min), figure(s.Max))
}

// figure is a number in about three digits.
func figure(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func ratio(r workload.Row) string {
	if r.Floor == nil {
		return "–"
	}
	return fmt.Sprintf("%.2f", r.Ratio)
}

// verdict is the nth target and whether it is met.
func verdict(r workload.Row, n int) string {
	if n >= len(r.Targets) {
		return "–"
	}
	t := r.Targets[n]
	sign := "≥"
	if t.AtMost {
		sign = "≤"
	}
	s := fmt.Sprintf("%s %g", sign, t.Value)
	switch {
	case !r.Judged():
		return s
	case t.Met(r.Held()):
		return s + " pass"
	default:
		return s + " miss"
	}
}

const sharesShown = 8

func profile(r workload.Row) string {
	var parts []string
	for _, s := range r.Profile[:min(sharesShown, len(r.Profile))] {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", s.What, s.Percent))
	}
	return strings.Join(parts, "; ")
}
