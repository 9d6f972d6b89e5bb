// Package site runs cells on real engines, with an edge, etcd and a control plane,
// each a process of its own, to be measured.
package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"parley/bench/cluster"
	"parley/bench/process"
	"parley/cell/search/elastic"
	"parley/internal/engineset"
	"parley/internal/problem"
)

// Config is a site's.
type Config struct {
	Binary  string          // of parley
	Etcd    string          // the etcd to run
	Dir     string          // for data, configs and logs; it must be empty
	Engines []engineset.Set // one for each cell
	// OwnIndex has cells search in an index of their own, not in Elasticsearch.
	OwnIndex bool
}

// Site is a running one.
type Site struct {
	*layout

	cfg   Config
	procs []*process.Process // in the order of their start
	// Took is from the engines' start in empty directories until everything serves.
	Took time.Duration
}

// Bounds of a site's start and of calls to it.
const (
	drainMax  = 5 * time.Second
	downMax   = 2 * time.Minute
	callMax   = 10 * time.Second
	cliMax    = time.Minute
	seedMax   = 10 * time.Minute
	settleMax = 15 * time.Minute
	askEvery  = 250 * time.Millisecond
)

// Workspace is the one in a cell, by the cell's number.
func Workspace(cell int) string { return fmt.Sprintf("bench-%d", cell+1) }

// Start wipes the engines, starts them and everything on them, and makes a
// workspace in each cell.
func Start(ctx context.Context, cfg Config) (s *Site, err error) {
	s = &Site{cfg: cfg}
	if s.layout, err = newLayout(ctx, cfg.Dir, len(cfg.Engines)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	for _, e := range cfg.Engines {
		if err := e.Wipe(ctx); err != nil {
			return s, err
		}
	}
	began := time.Now()
	if err := together(
		func() error { return s.startEngines(ctx) },
		func() error { return s.startControl(ctx) },
	); err != nil {
		return s, err
	}
	if err := s.startServing(ctx); err != nil {
		return s, err
	}
	s.Took = time.Since(began)
	for i, c := range s.cells {
		if _, err := s.CLI(ctx, cliMax, "workspace", "create", "--slug", Workspace(i), "--region", string(region), "--pin", string(c.id)); err != nil {
			return s, err
		}
	}
	return s, nil
}

// together does some things side by side.
func together(do ...func() error) error {
	errs := make([]error, len(do))
	var all sync.WaitGroup
	for i, f := range do {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (s *Site) startEngines(ctx context.Context) error {
	var ups []func() error
	for _, e := range s.cfg.Engines {
		ups = append(ups, func() error { return e.Up(ctx) })
	}
	return together(ups...)
}

// startControl starts etcd and the control plane, and records what there is.
func (s *Site) startControl(ctx context.Context) error {
	args, err := s.etcdArgs()
	if err != nil {
		return err
	}
	if err := s.start(ctx, s.etcd.Name, s.cfg.Etcd, args, dials(s.etcd.Client)); err != nil {
		return err
	}
	file, err := s.controlConfig()
	if err != nil {
		return err
	}
	if err := s.role(ctx, "control", control, file, s.controlAdmin); err != nil {
		return err
	}
	if _, err := s.CLI(ctx, cliMax, "region", "create", string(region), "--etcd", s.etcd.Client); err != nil {
		return err
	}
	for _, c := range s.cells {
		if _, err := s.CLI(ctx, cliMax, "cell", "create", string(c.id), "--region", string(region)); err != nil {
			return err
		}
	}
	return nil
}

// startServing starts the cells, side by side, and then the edge.
func (s *Site) startServing(ctx context.Context) error {
	for i, c := range s.cells {
		stores, err := s.cfg.Engines[i].Stores(ctx, s.Dir)
		if err != nil {
			return err
		}
		if s.cfg.OwnIndex {
			stores.Elasticsearch = elastic.Config{}
		}
		if c.file, err = s.cellConfig(c, stores); err != nil {
			return err
		}
	}
	var cells []func() error
	made := make([]*process.Process, len(s.cells))
	for i, c := range s.cells {
		cells = append(cells, func() (err error) {
			made[i], err = s.launch(ctx, string(c.id), s.cfg.Binary, []string{"cell", "--config", c.file}, answers("http://"+c.admin+"/readyz"))
			return err
		})
	}
	err := together(cells...)
	for _, p := range made {
		if p != nil {
			s.procs = append(s.procs, p)
		}
	}
	if err != nil {
		return err
	}
	file, err := s.edgeConfig()
	if err != nil {
		return err
	}
	return s.role(ctx, "edge", edgeID, file, s.eAdmin)
}

func (s *Site) role(ctx context.Context, role, name, file, admin string) error {
	return s.start(ctx, name, s.cfg.Binary, []string{role, "--config", file}, answers("http://"+admin+"/readyz"))
}

func (s *Site) start(ctx context.Context, name, path string, args []string, serves func(context.Context) error) error {
	p, err := s.launch(ctx, name, path, args, serves)
	if err == nil {
		s.procs = append(s.procs, p)
	}
	return err
}

func (s *Site) launch(ctx context.Context, name, path string, args []string, serves func(context.Context) error) (*process.Process, error) {
	return process.Start(ctx, process.Config{Name: name, Path: path, Args: args, Serves: serves, Log: filepath.Join(s.Dir, name+".log")})
}

// dials says that a process serves once it takes connections.
func dials(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// answers says that a process serves once a GET is answered with 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := get(ctx, url)
		return err
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{}).Do(req)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return b.Bytes(), err
}

// Stop stops everything, in the reverse order of its start.
func (s *Site) Stop() error {
	for _, p := range slices.Backward(s.procs) {
		p.Stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), downMax)
	defer cancel()
	var downs []func() error
	for _, e := range s.cfg.Engines {
		downs = append(downs, func() error { return e.Down(ctx) })
	}
	return together(downs...)
}

// Edge is the edge's host:port.
func (s *Site) Edge() string { return s.edge }

// CellConfig is the file of a cell's config.
func (s *Site) CellConfig(cell int) string { return s.cells[cell].file }

// Environ is what parley's commands need to find the site.
func (s *Site) Environ() []string {
	return []string{
		"PARLEY_CONTROL=https://" + s.api, "PARLEY_TOKEN=" + s.token, "PARLEY_CA=" + s.CAFile(), "PARLEY_EDGE=http://" + s.edge,
	}
}

// CLI runs parley's command line as an operator would.
func (s *Site) CLI(ctx context.Context, most time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.cfg.Binary, args...) //nolint:gosec // the operator names it
	cmd.Env = append(os.Environ(), s.Environ()...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, problem.Wrap(err, problem.Unavailable, "parley %s: %v: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// Seed makes people and channels in a cell's workspace.
func (s *Site) Seed(ctx context.Context, cell int, seed cluster.Seed) (p cluster.People, err error) {
	out, err := s.CLI(ctx, seedMax, append([]string{"seed", "--workspace", Workspace(cell), "-o", "json"}, seed.Args()...)...)
	if err == nil {
		err = json.Unmarshal(out, &p)
	}
	return p, err
}

// Alive is nil while all of its processes run.
func (s *Site) Alive() error {
	for _, p := range s.procs {
		if err := p.Alive(); err != nil {
			return err
		}
	}
	return nil
}

// CPU is what Parley's processes have used.
func (s *Site) CPU() (sum time.Duration, err error) {
	for _, p := range s.procs {
		d, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// Memory is what is resident, in bytes: of Parley's processes, and of the engines.
// Pages that Postgres's processes share count in each.
func (s *Site) Memory(ctx context.Context) (parley, engines int64, err error) {
	for _, p := range s.procs {
		n, err := p.RSS()
		if err != nil {
			return 0, 0, err
		}
		parley += n
	}
	for _, e := range s.cfg.Engines {
		nodes, err := e.Nodes(ctx)
		if err != nil {
			return 0, 0, err
		}
		for _, n := range nodes {
			engines += n.KiB << 10
		}
	}
	return parley, engines, nil
}

// lags are the metrics of what waits in a cell.
func lags() []string {
	return []string{"parley_channel_lag_changes", "parley_channel_unemitted_changes", "parley_worker_lag_events"}
}

// lagsEach is how many of them a cell tells: two a channel server, one a worker. A
// worker leaves its own out while it can't tell.
const lagsEach = 2*partsEach + 2

// Behind is how many changes and events wait in a cell to be derived, emitted and
// handled.
func (s *Site) Behind(ctx context.Context, cell int) (float64, error) {
	b, err := get(ctx, "http://"+s.cells[cell].admin+"/metrics")
	if err != nil {
		return 0, err
	}
	n, told, err := waiting(string(b))
	if err == nil && told < lagsEach {
		err = fmt.Errorf("cell %s tells %d of %d lags", s.cells[cell].id, told, lagsEach)
	}
	return n, err
}

// waiting sums up the lags in a page of metrics, and says how many there were.
func waiting(page string) (sum float64, told int, err error) {
	for line := range strings.Lines(page) {
		name, _, _ := strings.Cut(line, "{")
		if !slices.Contains(lags(), name) {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, 0, err
		}
		sum += v
		told++
	}
	return sum, told, nil
}

// Settle waits until nothing waits in any cell.
func (s *Site) Settle(ctx context.Context, say func(behind float64)) error {
	ctx, cancel := context.WithTimeout(ctx, settleMax)
	defer cancel()
	t := time.NewTicker(askEvery)
	defer t.Stop()
	for {
		sum := 0.0
		var errs error
		for i := range s.cells {
			n, err := s.Behind(ctx, i)
			sum += n
			errs = errors.Join(errs, err)
		}
		if errs == nil && sum == 0 {
			return nil
		}
		if say != nil {
			say(sum)
		}
		select {
		case <-ctx.Done():
			return problem.Wrap(errors.Join(errs, ctx.Err()), problem.Unavailable, "%.0f changes and events still wait to be worked on", sum)
		case <-t.C:
		}
	}
}
