package drill

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"parley/chaos/check"
)

// OK reports whether the drill went well: every check is green, and what else was
// measured is within its budget.
func (r Result) OK() bool { return r.Err == nil && r.fault() == "" }

// fault says what went wrong, in a line.
func (r Result) fault() string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.Drill.API > 0 && r.API > r.Drill.API:
		return fmt.Sprintf("an operator's write took %s, budget %s", short(r.API), short(r.Drill.API))
	case r.Storm != nil && (r.Storm.P99 > r.Drill.P99 || r.Storm.Max > r.Drill.Max):
		return fmt.Sprintf("the storm took p99 %s, max %s", short(r.Storm.P99), short(r.Storm.Max))
	}
	for _, c := range r.Report.Checks {
		if c.Verdict != check.OK {
			return fmt.Sprintf("%s: %s: %s", c.Name, c.Verdict, c.First)
		}
	}
	return ""
}

func (r Result) line() string {
	state := "ok"
	if !r.OK() {
		state = "FAILED: " + r.fault()
	}
	p := r.pause()
	return fmt.Sprintf("pause p50 %s p99 %s max %s, %d posts, %d unknown, %d refused, %.0f s: %s",
		short(p.P50), short(p.P99), short(p.Max), r.Swarm.OK, r.Swarm.Unknown, r.Swarm.Failed, r.Took.Seconds(), state)
}

func (r Result) pause() check.Pause { return r.Report.Pauses[r.Drill.Name] }

func short(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}

// WritePage writes the page that docs/drills.md is.
func WritePage(out io.Writer, results []Result, command, commit string) error {
	const head = "# Drills\n\nEach row is one fault under load, made in a cluster of real processes: three control nodes, an etcd of three per region,\n" +
		"two cells, two edges; the swarm talks in a workspace of the first cell through both edges, a control swarm in the other\n" +
		"cell. After each, every client's history, the final state and the append logs of the channel servers are checked\n" +
		"(`parley check --help` says for what). A pause is the longest time in which a client could not post or lacked events that\n" +
		"were due, over the clients of the swarm. Budgets are p99 / max.\n\n"
	if _, err := io.WriteString(out, head); err != nil {
		return err
	}
	return WriteTable(out, "", results, command, commit)
}

// WriteTable writes a row for each result, and those rows of an earlier table whose
// drills have no new one.
func WriteTable(out io.Writer, earlier string, results []Result, command, commit string) error {
	rows := map[string]string{}
	for line := range strings.Lines(earlier) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok {
			rows[name] = line
		}
	}
	for _, r := range results {
		rows[r.Drill.Name] = r.row(commit)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Written by `%s`, %d cores, %s; the last column names the commit that was drilled.\n\n", command, runtime.NumCPU(), runtime.Version())
	b.WriteString("| drill | fault | what clients saw | pause p50 | p99 | max | budget | verdict | at |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, d := range Drills() {
		b.WriteString(rows[d.Name])
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (r Result) row(commit string) string {
	verdict := "green"
	if !r.OK() {
		verdict = "**" + strings.ReplaceAll(r.fault(), "|", "/") + "**"
	}
	p := r.pause()
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s / %s | %s | %s |\n", r.Drill.Name, r.Drill.Title, r.saw(),
		short(p.P50), short(p.P99), short(p.Max), short(r.Drill.P99), short(r.Drill.Max), verdict, commit)
}

// saw is what clients saw of the fault, in words.
func (r Result) saw() string {
	s := fmt.Sprintf("%d posts acked", r.Swarm.OK)
	if r.Swarm.Failed > 0 {
		s += fmt.Sprintf(", %d refused", r.Swarm.Failed)
	}
	if r.Swarm.Unknown > 0 {
		s += fmt.Sprintf(", %d unknown", r.Swarm.Unknown)
	}
	if n := r.Report.Closes[r.Drill.Name]; n > 0 {
		s += fmt.Sprintf(", %d sockets reopened", n)
	} else {
		s += ", no socket closed"
	}
	if r.Drill.API > 0 {
		s += fmt.Sprintf("; an operator's write took %s (budget %s)", short(r.API), short(r.Drill.API))
	}
	if r.Storm != nil {
		s += fmt.Sprintf("; %d sockets back after p99 %s, max %s", r.Storm.Sockets, short(r.Storm.P99), short(r.Storm.Max))
	}
	return s + "; control swarm: " + short(time.Duration(r.Control.MaxUS)*time.Microsecond) + " at most"
}
