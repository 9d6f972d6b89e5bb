package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"parley/chaos/fault"
	"parley/chaos/process"
	"parley/internal/topology"
)

// world is the cluster under drill: its processes, the relays between edges and
// cells, the wires between a cell and its engines, and what operators do to it.
type world struct {
	*layout
	cfg    Config
	procs  map[string]*process.Process
	relays map[topology.GatewayID]*fault.Relay
	wires  map[string]*fault.Wire // by engine and node, as cassandra-1
	web    *http.Client

	mu       sync.Mutex
	silenced context.CancelFunc // ends the talk of the drill under way
	swarm    *crew              // of the drill under way
	storm    *stormResult       // of the drill under way
	apiTook  time.Duration      // the longest operator's write of the drill under way
}

const (
	drainMax    = 15 * time.Second
	drainSpread = 6 * time.Second
	startMax    = 60 * time.Second
	orderMax    = 30 * time.Second
)

// wait lets time pass.
func (w *world) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// scaled is a long time, shorter in the short form.
func (w *world) scaled(d time.Duration) time.Duration {
	if w.cfg.Short {
		return d / 3
	}
	return d
}

func (w *world) proc(name string) (*process.Process, error) {
	p := w.procs[name]
	if p == nil {
		return nil, fmt.Errorf("there is no process %s", name)
	}
	return p, nil
}

func (w *world) kill(names ...string) error {
	for _, n := range names {
		p, err := w.proc(n)
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// servingNames are the processes of all cells and edges.
func (w *world) servingNames() (out []string) {
	for _, r := range w.regions {
		out = append(append(out, r.cell.names()...), string(r.edge.id))
	}
	return out
}

// start starts processes that have ended, all at once: some are ready only when
// the others are there.
func (w *world) start(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, n := range names {
		all.Go(func() {
			p, err := w.proc(n)
			if err == nil {
				err = p.Start(ctx)
			}
			errs[i] = err
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// killAndRestart kills processes, and starts them again after a while.
func (w *world) killAndRestart(ctx context.Context, after time.Duration, names ...string) error {
	if err := w.kill(names...); err != nil {
		return err
	}
	if err := w.wait(ctx, after); err != nil {
		return err
	}
	return w.start(ctx, names...)
}

func (w *world) terminateAndRestart(ctx context.Context, name string) error {
	p, err := w.proc(name)
	if err != nil {
		return err
	}
	if err := p.Stop(ctx, drainMax+5*time.Second); err != nil {
		return err
	}
	return w.start(ctx, name)
}

// without has something done while processes are gone.
func (w *world) without(ctx context.Context, names []string, do func() error) error {
	if err := w.kill(names...); err != nil {
		return err
	}
	if err := w.wait(ctx, w.scaled(9*time.Second)); err != nil {
		return err
	}
	err := do()
	return errors.Join(err, w.start(ctx, names...))
}

func (w *world) controlNames() (out []string) {
	for _, n := range w.control {
		out = append(out, n.id)
	}
	return out
}

func (w *world) etcdNames(region topology.RegionID) (out []string) {
	for _, r := range w.regions {
		for _, m := range r.etcd {
			if r.id == region {
				out = append(out, m.Name)
			}
		}
	}
	return out
}

// forgetDisk kills a process and removes what it keeps.
func (w *world) forgetDisk(name string) error {
	if err := w.kill(name); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(w.Dir, name))
}

// adminOf is where a process takes orders.
func (w *world) adminOf(name string) string {
	for _, r := range w.regions {
		for _, u := range r.cell.units {
			if u.name == name {
				return "http://" + u.admin
			}
		}
		if string(r.edge.id) == name {
			return "http://" + r.edge.admin
		}
	}
	for _, n := range w.control {
		if n.id == name {
			return "http://" + n.admin
		}
	}
	return ""
}

// call asks a process's admin listener.
func (w *world) call(ctx context.Context, method, name, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, orderMax)
	defer cancel()
	var in bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&in).Encode(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, w.adminOf(name)+path, &in)
	if err != nil {
		return nil, err
	}
	res, err := w.web.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	out, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s of %s: %s: %s", method, path, name, res.Status, out)
	}
	return out, err
}

func (w *world) crashAndRestart(ctx context.Context, part string, after time.Duration) error {
	return w.offAndOn(ctx, part, "crash", after)
}

func (w *world) stopAndRestart(ctx context.Context, part string, after time.Duration) error {
	return w.offAndOn(ctx, part, "stop", after)
}

func (w *world) offAndOn(ctx context.Context, part, how string, after time.Duration) error {
	if err := w.order(ctx, part, how); err != nil {
		return err
	}
	if err := w.wait(ctx, after); err != nil {
		return err
	}
	return w.order(ctx, part, "start")
}

// cli runs parley's command line as an operator would.
func (w *world) cli(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.cfg.Binary, args...) //nolint:gosec // drills say what to run
	var edges []string
	for _, r := range w.regions {
		edges = append(edges, r.edge.url())
	}
	cmd.Env = append(os.Environ(),
		"PARLEY_CONTROL="+strings.Join(w.controlURLs(), ","), "PARLEY_TOKEN="+w.token,
		"PARLEY_CA="+w.CAFile(), "PARLEY_EDGE="+strings.Join(edges, ","))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("parley %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// leader is the name of the control node that leads.
func (w *world) leader(ctx context.Context) (string, error) {
	out, err := w.cli(ctx, "raft", "list-peers", "-o", "json")
	if err != nil {
		return "", err
	}
	var list struct {
		Peers []struct {
			ID     string `json:"id"`
			Leader bool   `json:"leader"`
		} `json:"peers"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return "", err
	}
	for _, p := range list.Peers {
		if p.Leader {
			return p.ID, nil
		}
	}
	return "", errors.New("no control node leads")
}

// slowTry is when a failed try of an operator's command is worth a line.
const slowTry = 5 * time.Second

// operate is an operator's write, repeated until it is taken; how long that took
// counts against the drill.
func (w *world) operate(ctx context.Context) error {
	began := time.Now()
	for {
		tried := time.Now()
		_, err := w.cli(ctx, "cell", "cordon", "us-1")
		if err == nil {
			_, err = w.cli(ctx, "cell", "uncordon", "us-1")
		}
		if err == nil {
			w.mu.Lock()
			w.apiTook = max(w.apiTook, time.Since(began))
			w.mu.Unlock()
			return nil
		}
		if time.Since(began) > startMax {
			return err
		}
		if d := time.Since(tried); d > slowTry {
			fmt.Fprintf(w.cfg.Out, "\n  a try of %s failed: %v ", d.Round(time.Millisecond), err)
		}
		if err := w.wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
