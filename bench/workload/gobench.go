package workload

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"parley/internal/problem"
)

// Drivers are the benchmarks that lie beside the drivers: each measures its driver
// and the bare engine in one run.
type Drivers struct{}

// driver is one of them.
type driver struct {
	pkg, bench     string
	workload       string
	measure, floor string
	target         Target
	ours, theirs   figure
}

// figure is where a benchmark tells one: the sub-benchmark ("" = itself) and the unit.
type figure struct{ sub, unit string }

func drivers() []driver {
	return []driver{
		{
			"cell/cassandra", "BenchmarkPage", "history page of 50, Cassandra", "p50, ms", "one raw range read",
			Target{"first", 1.5, true},
			figure{"/driver", "p50-ms"},
			figure{"/raw", "p50-ms"},
		},
		{
			"cell/redisdb", "BenchmarkMarks", "read-state marks, Redis", "marks/s", "raw pipelined writes",
			Target{"first", 0.6, false},
			figure{"", "marks/s"},
			figure{"", "raw/s"},
		},
		{
			"cell/search/elastic", "BenchmarkPut", "indexing, Elasticsearch", "documents/s", "raw bulks",
			Target{"first", 0.7, false},
			figure{"", "docs/s"},
			figure{"", "raw-docs/s"},
		},
	}
}

// Bounds of a benchmark.
const (
	buildMax   = 8 * time.Minute
	driverMax  = 3 * time.Minute
	driverTime = "2s"
)

// Run runs each benchmark a few times, on engines without a cell.
func (Drivers) Run(ctx context.Context, e *Env) (rows []Row, err error) {
	dir, remove, err := e.scratch("drivers")
	if err != nil {
		return nil, err
	}
	defer remove()
	set := e.cellSet(0, quick)
	bins := make([]string, len(drivers()))
	for i, d := range drivers() { // before the engines: compilers take what memory and time there is
		e.Say("building " + d.bench)
		bins[i] = filepath.Join(dir, d.bench)
		if err := e.build(ctx, d, bins[i]); err != nil {
			return nil, err
		}
	}
	e.Say("starting engines")
	if err := set.Wipe(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if failed := set.Down(context.WithoutCancel(ctx)); err == nil {
			err = failed
		}
	}()
	if err := set.Up(ctx); err != nil {
		return nil, err
	}
	env := os.Environ()
	at, err := set.Variables(ctx)
	if err != nil {
		return nil, err
	}
	for name, value := range at {
		env = append(env, name+"="+value)
	}
	for i, d := range drivers() {
		row, err := e.driver(ctx, d, bins[i], env)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (e *Env) build(ctx context.Context, d driver, to string) error {
	ctx, cancel := context.WithTimeout(ctx, buildMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-tags", "engines", "-c", "-o", to, "./"+d.pkg) //nolint:gosec // a package of ours
	cmd.Dir = e.Root
	if out, err := cmd.CombinedOutput(); err != nil {
		return problem.Wrap(err, problem.Unavailable, "%s can't be built in %s: %s", d.pkg, e.Root, out)
	}
	return nil
}

func (e *Env) driver(ctx context.Context, d driver, bin string, env []string) (Row, error) {
	row := Row{
		Workload: d.workload, Measure: d.measure, Against: d.floor, Targets: []Target{d.target},
		Notes: []string{fmt.Sprintf("%s of %s, %s each time", d.bench, d.pkg, driverTime)},
	}
	var ours, theirs []float64
	for run := range e.Runs {
		e.Say(fmt.Sprintf("run %d of %d: %s", run+1, e.Runs, d.bench))
		said, err := e.bench(ctx, d, bin, env)
		if err != nil {
			return row, err
		}
		for _, f := range []struct {
			figure
			into *[]float64
		}{{d.ours, &ours}, {d.theirs, &theirs}} {
			v, ok := f.of(d.bench, said)
			if !ok {
				return row, problem.New(problem.Internal, "%s%s does not tell %s:\n%s", d.bench, f.sub, f.unit, said)
			}
			*f.into = append(*f.into, v)
		}
	}
	row.set(ours, theirs)
	return row, nil
}

func (e *Env) bench(ctx context.Context, d driver, bin string, env []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, driverMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-test.run", "^$", "-test.bench", "^"+d.bench+"$", "-test.benchtime", driverTime) //nolint:gosec // built by us
	cmd.Dir, cmd.Env = filepath.Join(e.Root, d.pkg), env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", problem.Wrap(err, problem.Unavailable, "%s: %v:\n%s", d.bench, err, out.String())
	}
	return out.String(), nil
}

// of reads the figure from what a benchmark has printed: lines of a name, a count,
// and values with their units.
func (f figure) of(bench, said string) (float64, bool) {
	for line := range strings.Lines(said) {
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		name := words[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of CPUs
			name = name[:i]
		}
		if name != bench+f.sub {
			continue
		}
		for i := 2; i+1 < len(words); i += 2 {
			if words[i+1] == f.unit {
				v, err := strconv.ParseFloat(words[i], 64)
				return v, err == nil
			}
		}
	}
	return 0, false
}
