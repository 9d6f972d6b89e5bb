package check

import (
	"fmt"
	"strings"
	"time"

	"parley/chaos/history"
)

// Verdict is what a check says. Inconclusive is not OK: there was too little to
// be sure.
type Verdict string

// Verdicts.
const (
	OK           Verdict = "ok"
	Violated     Verdict = "violated"
	Inconclusive Verdict = "inconclusive"
)

// Budget bounds the pauses of a fault's clients.
type Budget struct{ P99, Max time.Duration }

// Options are what a run should keep to.
type Options struct {
	Key      string            // of the seals; see history.Sealer
	Budgets  map[string]Budget // by fault; a fault without one is only measured
	MinPosts int               // acked during a fault, or it is inconclusive; 0 = 20
	// Quiet says that nobody talks after the run was healed.
	Quiet bool
	// ControlMax bounds a control client's operations; 0 = 2 s.
	ControlMax time.Duration
	Only       []string // names of checks; empty = all
}

const (
	minPostsNormal   = 20
	controlMaxNormal = 2 * time.Second
)

// Result is one check's.
type Result struct {
	Name     string  `json:"name"`
	Verdict  Verdict `json:"verdict"`
	Examined int     `json:"examined"`        // how many things of its kind it looked at
	First    string  `json:"first,omitempty"` // the first violation with its evidence, or what was missing
}

// Pause is how long the clients of a fault went without.
type Pause struct {
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Max     time.Duration `json:"max"`
	Clients int           `json:"clients"`
}

// Report is what all checks said.
type Report struct {
	Checks []Result         `json:"checks"`
	Pauses map[string]Pause `json:"pauses"` // by fault
	Closes map[string]int   `json:"closes"` // sockets of the swarm that closed during a fault
	Good   float64          `json:"good"`   // share of user-seconds in which everything due was in time
}

// Verdict is the worst of a report's.
func (r Report) Verdict() Verdict {
	v := OK
	for _, c := range r.Checks {
		switch c.Verdict {
		case Violated:
			return Violated
		case Inconclusive:
			v = Inconclusive
		case OK:
		}
	}
	return v
}

// finding collects what a check sees.
type finding struct {
	examined int
	first    string
	missing  string
}

// violate notes a violation; only the first is kept.
func (f *finding) violate(format string, args ...any) {
	if f.first == "" {
		f.first = fmt.Sprintf(format, args...)
	}
}

func (f *finding) lack(format string, args ...any) {
	if f.missing == "" {
		f.missing = fmt.Sprintf(format, args...)
	}
}

func (f *finding) result(name string) Result {
	switch {
	case f.first != "":
		return Result{name, Violated, f.examined, f.first}
	case f.missing != "":
		return Result{name, Inconclusive, f.examined, f.missing}
	case f.examined == 0:
		return Result{name, Inconclusive, 0, "there was nothing to look at"}
	default:
		return Result{name, OK, f.examined, ""}
	}
}

// Names are the checks, in the order in which they are made.
func Names() []string {
	var out []string
	for _, c := range checks() {
		out = append(out, c.name)
	}
	return out
}

type check struct {
	name string
	run  func(r *Run, o Options, f *finding)
}

func checks() []check {
	return []check{
		{"kept", kept},
		{"order", order},
		{"stream", stream},
		{"published", published},
		{"owner", owner},
		{"retry", retry},
		{"readstate", readstate},
		{"leak", leak},
		{"walls", walls},
		{"avail", avail},
		{"live", live},
		{"registry", registry},
	}
}

// Check makes the checks.
func (r *Run) Check(o Options) Report {
	if o.MinPosts == 0 {
		o.MinPosts = minPostsNormal
	}
	if o.ControlMax == 0 {
		o.ControlMax = controlMaxNormal
	}
	out := Report{Pauses: map[string]Pause{}, Closes: map[string]int{}}
	for _, c := range checks() {
		if len(o.Only) > 0 && !strings.Contains(","+strings.Join(o.Only, ",")+",", ","+c.name+",") {
			continue
		}
		var f finding
		c.run(r, o, &f)
		out.Checks = append(out.Checks, f.result(c.name))
	}
	for _, s := range r.faults {
		out.Pauses[s.name] = r.pause(s)
		out.Closes[s.name] = r.closes(s)
	}
	out.Good = r.good()
	return out
}

// closes counts the swarm's sockets that closed in a fault, or until all was healed.
func (r *Run) closes(s span) (n int) {
	r.each(func(p *person) {
		for _, l := range p.lines {
			if l.Kind == history.Close && p.role != history.RoleControl && l.AtUS >= s.begin && l.AtUS <= r.until(s) {
				n++
			}
		}
	})
	return n
}

// until is when a fault's effects have to be over.
func (r *Run) until(s span) int64 {
	if r.healed > s.begin {
		return r.healed
	}
	return max(s.end, s.begin)
}
