package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"parley/bench/workload"
	"parley/internal/problem"
)

// Config says what to run and where to write it.
type Config struct {
	Quick    bool
	Markdown string   // file of the page; "" = standard output
	Gobench  string   // file in Go's benchmark format; "" = none
	Only     []string // names of workloads; none = all
	Engines  bool     // the workloads of cells on real engines, in place of the others
	// Rows, if not "", is a file that rows are kept in: the page has those of workloads
	// that did not run this time, too, so that it can be made in parts.
	Rows string
}

// work is a workload and how long its runs are.
type work struct {
	name string
	runs int // 0 = as many as the others
	run  func(context.Context, *workload.Env) ([]workload.Row, error)
}

// all are the table's workloads, as large as the table has them or, quick, just
// large enough to go through every step.
func all(quick bool) []work {
	few := 3
	sockets, many, typical, idle, members := 1000, 5000, workload.TypicalSize(), workload.Idle{Sockets: 5000, Channels: 10}, workload.BytesSize()
	routes := workload.RoutesSize()
	if quick {
		few = 1
		sockets, many, idle, members = 200, 500, workload.Idle{Sockets: 500, Channels: 10}, workload.Bytes{Members: 500}
		typical = workload.Typical{Channels: 100, Members: 50, Online: 10, Sockets: 200}
		routes = workload.Routes{Table: 100_000, Published: 10_000, Changes: 50}
	}
	return []work{
		{"fan-out", 0, workload.Fanout{Sockets: sockets, InFlight: 16}.Run},
		{"large fan-out", 0, workload.Fanout{Sockets: many, InFlight: 16}.Run},
		{"single fan-out", 0, workload.Fanout{Sockets: sockets, InFlight: 1}.Run},
		{"typical", 0, typical.Run},
		{"idle", few, idle.Run}, // each a cold start, and memory hardly varies
		{"link", 0, workload.LinkSize().Run},
		{"bytes", few, members.Run}, // counted, not timed
		{"routes", 0, routes.Run},
		{"commit", 0, workload.CommitSize().Run},
	}
}

// onEngines are the workloads of cells on real engines.
func onEngines(quick bool) []work {
	posts, lag, cells := workload.EnginePostsSize(), workload.SearchLagSize(), workload.TwoCells{Load: 10 * time.Second}
	if quick {
		posts.Typical = workload.Typical{Channels: 100, Members: 10, Online: 10, Sockets: 200}
		lag.For, cells.Load = 5*time.Second, 2*time.Second
	}
	return []work{
		{"posts", 0, posts.Run},
		{"drivers", 0, workload.Drivers{}.Run},
		{"lag", 0, lag.Run},
		{"two-cells", 0, cells.Run},
	}
}

// chosen are the workloads to run.
func chosen(c Config) ([]work, error) {
	works := all(c.Quick)
	if c.Engines {
		works = onEngines(c.Quick)
	}
	if len(c.Only) == 0 {
		return works, nil
	}
	known := make([]string, len(works))
	for i, w := range works {
		known[i] = w.name
	}
	for _, name := range c.Only {
		if !slices.Contains(known, name) {
			return nil, problem.Field("only", "%q is none of %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(works, func(w work) bool { return !slices.Contains(c.Only, w.name) }), nil
}

// quickFor is the length of a quick run, quickRuns their number.
const (
	quickFor  = time.Second
	quickRuns = 2
)

// Run runs every workload and writes the page. A workload that fails is named in
// the page, and the others go on.
func Run(ctx context.Context, e *workload.Env, c Config, out io.Writer) error {
	env := *e
	if c.Quick {
		env.Runs, env.For, env.Warm = quickRuns, quickFor, quickFor/2
		env.Profile = min(env.Profile, quickFor)
	}
	works, err := chosen(c)
	if err != nil {
		return err
	}
	p := page{began: time.Now(), env: env, engines: c.Engines}
	var bench bytes.Buffer
	for _, w := range works {
		one := env
		if w.runs > 0 {
			one.Runs = min(w.runs, env.Runs)
		}
		one.Say = func(line string) { env.Say(w.name + ": " + line) }
		rows, err := w.run(ctx, &one)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			p.failed = append(p.failed, fmt.Sprintf("%s: %s", w.name, problem.Show(err)))
			continue
		}
		p.rows = append(p.rows, rows...)
		gobench(&bench, rows)
	}
	if p.rows, err = keep(c, p.rows); err != nil {
		return err
	}
	var b bytes.Buffer
	p.write(ctx, &b)
	if err := put(c.Gobench, bench.Bytes(), io.Discard); err != nil {
		return err
	}
	if err := put(c.Markdown, b.Bytes(), out); err != nil {
		return err
	}
	if len(p.failed) > 0 {
		return problem.New(problem.Internal, "%d workloads could not be measured: %s", len(p.failed), p.failed[0])
	}
	return Faults(p.rows)
}

// put writes to a file, or without a name to w.
func put(name string, b []byte, w io.Writer) error {
	if name == "" {
		_, err := w.Write(b)
		return err
	}
	if err := os.WriteFile(name, b, 0o644); err != nil { //nolint:gosec // a page for everybody
		return problem.Wrap(err, problem.Unavailable, "%s can't be written", name)
	}
	return nil
}

// keep adds kept rows of what was not measured now, and keeps all, in the order of
// their names' first coming.
func keep(c Config, rows []workload.Row) ([]workload.Row, error) {
	if c.Rows == "" {
		return rows, nil
	}
	var kept []workload.Row
	b, err := os.ReadFile(c.Rows)
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, problem.Wrap(err, problem.Invalid, "%s holds no rows", c.Rows)
	}
	for _, r := range rows {
		i := slices.IndexFunc(kept, func(k workload.Row) bool { return k.Workload == r.Workload && k.Measure == r.Measure })
		if i < 0 {
			kept = append(kept, r)
			continue
		}
		kept[i] = r
	}
	b, err = json.MarshalIndent(kept, "", "  ")
	if err == nil {
		err = put(c.Rows, b, nil)
	}
	return kept, err
}
