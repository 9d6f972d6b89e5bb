// Package drill breaks a cluster of real processes, one fault after the other,
// under the load of a swarm, and checks after each that no promise was broken and
// no pause was longer than its budget.
package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"parley/chaos/check"
	"parley/chaos/history"
	"parley/chaos/swarm"
)

// Config says what is drilled, and with what.
type Config struct {
	Binary string // parley, built with the tag failpoints
	Etcd   string // etcd, built from its Go module
	// Engines is the script tools/engines/engines: the cells store in its sets, and
	// the first one's parts are processes. "" = embedded stores.
	Engines string
	Dir     string // for data, logs and histories
	Short   bool   // only the drills of the short form, with shorter waits
	Only    []string
	Script  swarm.Script
	Speed   float64
	Away    time.Duration // how long an engine is away, in its drills; 0 = as long as each says
	Out     io.Writer     // for people
	Log     *slog.Logger
}

// Result is what one drill found.
type Result struct {
	Drill   Drill
	Took    time.Duration
	Err     error // of the drill itself
	Report  check.Report
	API     time.Duration // the longest operator's write
	Control swarm.Progress
	Swarm   swarm.Progress
	Storm   *stormResult
}

// Spans of a drill: the steady state before its fault, and after it.
const (
	steady    = 3 * time.Second
	recovery  = 4 * time.Second
	settleMax = 30 * time.Second
	quietFor  = 1500 * time.Millisecond
	quietMax  = 60 * time.Second
)

// Run runs the drills, and returns what each found. The error is of the cluster
// itself; whether the drills went well, the results say.
func Run(ctx context.Context, cfg Config) (results []Result, err error) {
	drills, err := cfg.drills()
	if err != nil {
		return nil, err
	}
	w, err := build(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	for _, d := range drills {
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		fmt.Fprintf(cfg.Out, "%-23s %s … ", d.Name, d.Title)
		r := w.run(ctx, d)
		fmt.Fprintln(cfg.Out, r.line())
		results = append(results, r)
		if err := w.heal(ctx); err != nil {
			return results, fmt.Errorf("after %s the cluster does not heal: %w", d.Name, err)
		}
	}
	if cfg.Engines != "" {
		return results, w.storesAgree(ctx)
	}
	return results, nil
}

// ackOfEngines is what one ack of a hundred takes without any fault when a machine of
// two cores has a dozen engines on it. Budgets are for what faults add.
//
// The short form runs wherever tests do, also on a machine that is busy with others'
// work: there it looks for broken promises, and for pauses that mean that something hangs.
const (
	ackOfEngines = 500 * time.Millisecond
	ackAnywhere  = 5 * time.Second
)

// all are the drills that suit the cells' stores.
func (c Config) all() (out []Drill) {
	for _, d := range Drills() {
		switch {
		case c.Engines != "" && c.Short:
			d.P99, d.Max = d.P99+ackAnywhere, d.Max+ackAnywhere
		case c.Engines != "" && !d.Engines:
			d.P99, d.Max = d.P99+ackOfEngines, d.Max+ackOfEngines
		}
		if c.Engines == "" && !d.Engines || c.Engines != "" && !d.Embedded {
			out = append(out, d)
		}
	}
	return out
}

func (c Config) drills() ([]Drill, error) {
	var out []Drill
	for _, d := range c.all() {
		if len(c.Only) > 0 && !slices.Contains(c.Only, d.Name) || len(c.Only) == 0 && c.Short && !d.Short {
			continue
		}
		out = append(out, d)
	}
	for _, name := range c.Only {
		if !slices.ContainsFunc(out, func(d Drill) bool { return d.Name == name }) {
			return nil, fmt.Errorf("there is no drill %q; `parley chaos list` names them", name)
		}
	}
	return out, nil
}

// run runs one drill from its steady state to its verdict.
func (w *world) run(ctx context.Context, d Drill) (r Result) {
	began := time.Now()
	r = Result{Drill: d}
	defer func() { r.Took = time.Since(began) }()
	c, err := w.muster(ctx, d.Name)
	if err != nil {
		r.Err = err
		return r
	}
	appends := w.appendsFrom()
	listen, hangUp := context.WithCancel(ctx)
	talk, silence := context.WithCancel(listen)
	w.mu.Lock()
	w.swarm, w.silenced, w.apiTook, w.storm = c, silence, 0, nil
	w.mu.Unlock()
	done := make(chan struct{})
	go func() { c.Run(listen, talk); close(done) }()
	r.Err = w.perform(ctx, d, c)
	silence()
	w.untilQuiet(ctx, c)
	c.rec.Add(history.Record{Kind: history.End})
	hangUp()
	<-done
	r.Err = errors.Join(r.Err, c.Conclude(ctx), c.rec.Close())
	r.Control, r.Swarm = c.Progress(history.RoleControl), c.Progress(history.RoleSwarm)
	r.API, r.Storm = w.apiTook, w.storm
	if r.Err != nil {
		return r
	}
	file, err := w.copyAppends(d.Name, appends)
	if err != nil {
		r.Err = err
		return r
	}
	r.Report, r.Err = judge(d, c.file, file)
	return r
}

// perform is the drill's story: steady state, fault, recovery.
func (w *world) perform(ctx context.Context, d Drill, c *crew) error {
	settle, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	if err := c.Settle(settle); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	if err := w.wait(ctx, steady); err != nil {
		return err
	}
	c.rec.Add(history.Record{Kind: history.Fault, Name: d.Name, State: history.Begin})
	err := d.Do(ctx, w)
	c.rec.Add(history.Record{Kind: history.Fault, Name: d.Name, State: history.Ended})
	if err != nil {
		return fmt.Errorf("the fault could not be made, or undone: %w", err)
	}
	if err := w.wait(ctx, recovery); err != nil {
		return err
	}
	c.rec.Add(history.Record{Kind: history.Healed})
	return w.wait(ctx, steady)
}

// untilQuiet waits until everything that is on its way has arrived.
func (w *world) untilQuiet(ctx context.Context, c *crew) {
	until := time.Now().Add(quietMax)
	last, since := int64(-1), time.Now()
	for time.Now().Before(until) && w.wait(ctx, 100*time.Millisecond) == nil {
		if now := c.Progress("").Frames; now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) >= quietFor && c.Idle() {
			return
		}
	}
}

// judge checks a drill's histories.
func judge(d Drill, files ...string) (check.Report, error) {
	run, err := check.Load(files...)
	if err != nil {
		return check.Report{}, err
	}
	o := check.Options{Key: history.DefaultKey, Quiet: d.Quiet, Budgets: map[string]check.Budget{d.Name: {P99: d.P99, Max: d.Max}}}
	if d.Quiet {
		o.MinPosts = 1
	}
	return run.Check(o), nil
}

// heal waits until every process and part is there again.
func (w *world) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for _, name := range append(w.servingNames(), w.controlNames()...) {
		if err := w.untilReady(ctx, name); err != nil {
			return err
		}
	}
	_, err := w.leader(ctx)
	return err
}

func (w *world) untilReady(ctx context.Context, name string) error {
	for {
		_, err := w.call(ctx, http.MethodGet, name, "/readyz", nil)
		if err == nil {
			return nil
		}
		if w.wait(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready: %w", name, err)
		}
	}
}

// appendFile is the append log of a cell's process, which a test build writes.
func (w *world) appendFile(name string) string { return filepath.Join(w.Dir, name, "append.jsonl") }

// appendsFrom is how far the cells' append logs have come.
func (w *world) appendsFrom() map[string]int64 {
	out := map[string]int64{}
	for _, r := range w.regions {
		for _, name := range r.cell.names() {
			if info, err := os.Stat(w.appendFile(name)); err == nil {
				out[name] = info.Size()
			}
		}
	}
	return out
}

// copyAppends writes what the cells appended since into one file of the drill.
func (w *world) copyAppends(name string, from map[string]int64) (file string, err error) {
	file = filepath.Join(w.cfg.Dir, name+".append.jsonl")
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buffered := bufio.NewWriter(out)
	for process, at := range from {
		if err := copyFrom(buffered, w.appendFile(process), at); err != nil {
			return "", err
		}
	}
	return file, buffered.Flush()
}

func copyFrom(out io.Writer, file string, at int64) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	if _, err := in.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return err
}
