package report

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"parley/bench/workload"
)

// page is docs/benchmarks.md.
type page struct {
	began  time.Time
	env    workload.Env
	rows   []workload.Row
	failed []string
	// engines says that it is docs/benchmarks-engines.md.
	engines bool
}

const intro = `# Benchmarks

Written by ` + "`make bench`" + `; edits are lost. Each figure of Parley stands beside a floor: a program in ` + "`bench/floor`" + ` that does
only the raw operation, measured in the same run, in turns with Parley. Absolute figures mean little: server and load
generator share the machine's cores. The ratio is what counts.

- Server, floor and generator are processes of their own on one machine; TCP without TLS and QUIC over loopback; bodies
  of 300 bytes; one socket per user.
- Parley is the whole path: socket → edge → QUIC → cell → synced to disk → QUIC → edge → socket. The raw hub of the
  fan-outs stores nothing; the raw durable hub commits in groups with fdatasync before it acks or shows.
- A post in flight ends when it is acked and every socket has it; then the next is sent. Every socket's revs are checked.
  Faults (lost, doubled, out of order, refused, broken sockets) must be 0.
- Figures are medians of the runs, with the least and the most. A ratio is that of the medians.
- The fan-outs post through all sockets in turns. The typical load is searched: the posts in flight are doubled while
  the p99 of delivery stays well below 200 ms, and the best is measured; a run whose p99 is above is made again with
  fewer in flight.
- The cluster's other parts (control plane, etcd, workers) run in Parley's process, and idle while the floor is measured.
`

const introEngines = `# Benchmarks on real engines

Written by ` + "`make bench-engines`" + `; edits are lost. A cell on Cassandra, Kafka, Redis, Postgres and Elasticsearch, one node of each,
beside the engine alone, driven by a minimal client in the same run, in turns. Everything shares the machine's cores, and what
one side does not use the other has: the ratio is what counts.

- The cell, its edge, etcd and the control-plane node are processes of their own; so is the load generator. Posts go socket →
  edge → QUIC → cell → Cassandra → QUIC → edge → socket; each ends when it is acked and every socket of its channel has it.
- The floor of posts is a gocql client that writes as many rows in plain quorum writes, side by side, and waits for all. Both
  sides are searched: posts in flight are doubled while the p99 stays well below 200 ms, and the best is measured. Before
  each run all workers have caught up, so that neither pays for the other's backlog.
- Pages, marks and indexing are the benchmarks beside the drivers: driver and bare engine in one program.
- Engines have the JVM's second compiler (PARLEY_ENGINES_JIT=full), but for the two cells.
- Figures are medians of the runs, with the least and the most. A ratio is that of the medians.
`

func (p *page) write(ctx context.Context, w io.Writer) {
	if p.engines {
		fmt.Fprint(w, introEngines)
	} else {
		fmt.Fprint(w, intro)
	}
	fmt.Fprintf(w, "\n| machine | |\n| --- | --- |\n")
	for _, l := range p.machine(ctx) {
		fmt.Fprintf(w, "| %s | %s |\n", l[0], l[1])
	}
	targets := []string{"first", "goal"}
	if p.engines {
		targets = []string{"target"}
	}
	p.table(w, targets)
	p.details(w)
}

// table has a line for each row, and what was not measured.
func (p *page) table(w io.Writer, targets []string) {
	fmt.Fprintf(w, "\n## Results\n\n| workload | measure | Parley | floor | ratio | %s | faults |\n| --- | --- | --- | --- | --- |%s --- |\n",
		strings.Join(targets, " | "), strings.Repeat(" --- |", len(targets)))
	for _, r := range p.rows {
		floor := stat(r.Floor)
		if r.Floor != nil && r.Against != "" {
			floor = r.Against + ": " + floor
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |", r.Workload, r.Measure, stat(&r.Parley), floor, ratio(r))
		for n := range targets {
			fmt.Fprintf(w, " %s |", verdict(r, n))
		}
		fmt.Fprintf(w, " %d |\n", r.Counts.Faults())
	}
	if len(p.failed) > 0 {
		fmt.Fprintf(w, "\nNot measured:\n\n")
		for _, f := range p.failed {
			fmt.Fprintf(w, "- %s\n", f)
		}
	}
}

func (p *page) details(w io.Writer) {
	fmt.Fprintf(w, "\n## Details\n")
	for _, r := range p.rows {
		if len(r.Notes) == 0 && len(r.Profile) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n**%s**\n\n", r.Workload)
		for _, n := range r.Notes {
			fmt.Fprintf(w, "- %s\n", strings.TrimSpace(n))
		}
		if len(r.Profile) > 0 {
			fmt.Fprintf(w, "- Where Parley's CPU goes: %s.\n", profile(r))
		}
	}
	fmt.Fprintf(w, "\nTaken in %s.\n", time.Since(p.began).Round(time.Second))
}

// machine says on what all this was measured.
func (p *page) machine(ctx context.Context) [][2]string {
	out := [][2]string{
		{"CPU", fmt.Sprintf("%s, %d cores", cpuModel(), runtime.NumCPU())},
		{"system", kernel()},
		{"Go", runtime.Version()},
		{"commit", commit(ctx)},
		{"runs", fmt.Sprintf("%d of %s each, after %s unmeasured, unless the details say otherwise", p.env.Runs, p.env.For, p.env.Warm)},
		{"when", p.began.UTC().Format("2006-01-02 15:04 UTC")},
	}
	return out
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer func() { _ = f.Close() }() // it was read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return runtime.GOOS
	}
	return fmt.Sprintf("%s %s %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
}

// commit is the tree's; a build from elsewhere has none.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// gobench writes each run as a line of Go's benchmark format.
func gobench(w io.Writer, rows []workload.Row) {
	for _, r := range rows {
		// Go wants no small letter behind "Benchmark".
		name := "BenchmarkOf_" + strings.Map(func(c rune) rune {
			switch c {
			case ' ', ':', ',', '/':
				return '_'
			default:
				return c
			}
		}, r.Workload+" "+r.Measure)
		unit := strings.ReplaceAll(r.Measure, " ", "_")
		for _, v := range r.Parley.Runs {
			fmt.Fprintf(w, "%s/parley 1 %g %s\n", name, v, unit)
		}
		if r.Floor == nil {
			continue
		}
		for _, v := range r.Floor.Runs {
			fmt.Fprintf(w, "%s/floor 1 %g %s\n", name, v, unit)
		}
	}
}
