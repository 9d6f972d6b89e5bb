// Package workload is the benchmarks themselves: each sets up a server and its
// floor, measures them in turns, and returns rows of a table.
//
// Floor and Parley are measured A B A B … in one run on one machine: what the
// neighbours do to one they do to the other, and only the ratio counts.
package workload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"parley/bench/cluster"
	"parley/bench/load"
	"parley/bench/process"
	"parley/internal/problem"
)

// Env is what workloads run with.
type Env struct {
	Parley string   // the binary
	Hub    []string // the command that runs the floor hub
	// Etcd and Engines are what cells on real engines need beside: the etcd to run, and
	// tools/engines/engines. Root is the source tree's, whose Go benchmarks are run.
	Etcd, Engines, Root string
	Dir                 string // for data; on the disk that is to be measured
	Runs                int    // pairs of runs
	Warm                time.Duration
	For                 time.Duration // of each run
	Floor               bool          // measure the floor, too
	// Profile, if not 0, is how long Parley's CPU is profiled in an extra run.
	Profile  time.Duration
	Profiles string // a directory to keep the profiles in; "" = they are not kept
	// Say tells what is going on, in a line that the next replaces.
	Say func(line string)
}

// Validate finds what no workload can run with.
func (e *Env) Validate() error {
	switch {
	case e.Runs < 1 || e.Runs > 100:
		return problem.Field("runs", "must be 1 to 100")
	case e.For < 100*time.Millisecond || e.For > 10*time.Minute:
		return problem.Field("for", "must be 100 ms to 10 min")
	case e.Warm < 0 || e.Warm > time.Minute:
		return problem.Field("warm", "must be 0 to 1 min")
	}
	if e.Say == nil {
		e.Say = func(string) {}
	}
	return nil
}

// scratch makes a directory of one workload; remove ends it.
func (e *Env) scratch(name string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(e.Dir, "parley-bench-"+name+"-")
	if err != nil {
		return "", nil, problem.Wrap(err, problem.Unavailable, "no directory for data")
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil // what can't be removed is the system's to clean
}

// side is a server under measurement and the load on it.
type side struct {
	name   string
	proc   server
	load   traffic
	parley *cluster.Cluster // nil for a floor, and for cells on engines
}

// server is what is measured: a process, or several.
type server interface {
	CPU() (time.Duration, error)
	Alive() error
	Stop()
}

// traffic is the load on a server: sockets, or calls of it.
type traffic interface {
	Run(ctx context.Context, p load.Plan) (load.Result, error)
	Stay(ctx context.Context, d time.Duration) error
	Close()
}

func (s *side) close() {
	if s.load != nil {
		s.load.Close()
	}
	if s.proc != nil {
		s.proc.Stop()
	}
}

// measured is one run.
type measured struct {
	load.Result
	serverCPU time.Duration
}

// measure runs a plan on a side, while the others only stay alive.
func (s *side) measure(ctx context.Context, p load.Plan, others []*side) (m measured, err error) {
	idle, stop := context.WithCancel(ctx)
	stayed := make(chan struct{})
	go func() {
		defer close(stayed)
		for idle.Err() == nil && len(others) > 0 {
			for _, o := range others {
				_ = o.load.Stay(idle, 100*time.Millisecond) // a socket that breaks now shows in its own run
			}
		}
	}()
	defer func() {
		stop()
		<-stayed
	}()
	before, err := s.proc.CPU()
	if err != nil {
		return m, err
	}
	if m.Result, err = s.load.Run(ctx, p); err != nil {
		return m, errors.Join(err, s.proc.Alive())
	}
	after, err := s.proc.CPU()
	m.serverCPU = time.Duration(float64(after-before) * m.Took.Seconds() / (m.Took + p.Warm).Seconds())
	return m, err
}

// againMax is how often a run that does not fit is repeated.
const againMax = 3

func anyRun(*side, measured) bool { return true }

// interleave measures all sides in turns. A run that does not fit is made again
// with what plan then says.
func (e *Env) interleave(ctx context.Context, sides []*side, plan func(*side) load.Plan, fits func(*side, measured) bool) ([][]measured, error) {
	out := make([][]measured, len(sides))
	for run := range e.Runs {
		for i, s := range sides {
			e.Say(fmt.Sprintf("run %d of %d: %s", run+1, e.Runs, s.name))
			m, err := s.measure(ctx, plan(s), without(sides, s))
			for try := 0; err == nil && !fits(s, m) && try < againMax; try++ {
				before := m.Counts // whatever went wrong in it still counts
				m, err = s.measure(ctx, plan(s), without(sides, s))
				m.Counts = plus(m.Counts, before)
			}
			if err != nil {
				return nil, problem.Wrap(err, problem.KindOf(err), "%s: %s", s.name, problem.Show(err))
			}
			out[i] = append(out[i], m)
		}
	}
	return out, nil
}

func without(sides []*side, s *side) (out []*side) {
	for _, o := range sides {
		if o != s {
			out = append(out, o)
		}
	}
	return out
}

// progress turns a load's progress into lines.
func (e *Env) progress(name string) func(load.Progress) {
	return func(p load.Progress) {
		if p.Doing == load.Staying { // while another side is measured
			return
		}
		e.Say(fmt.Sprintf("%s: %s, %d sockets, %d posts, %d deliveries, %s left",
			name, p.Doing, p.Sockets, p.Posts, p.Delivered, p.Left.Round(100*time.Millisecond)))
	}
}

// startHub runs the floor hub; its store is a file in dir, if it is to have one.
func (e *Env) startHub(ctx context.Context, dir string, durable bool) (p *process.Process, addr string, err error) {
	args := append([]string(nil), e.Hub[1:]...)
	if durable {
		args = append(args, "--sync", filepath.Join(dir, "hub.log"))
	}
	const ready = "hub at "
	p, err = process.Start(ctx, process.Config{Name: "the hub", Path: e.Hub[0], Args: args, Ready: func(line string) (ok bool) {
		addr, ok = strings.CutPrefix(line, ready)
		return ok
	}})
	return p, addr, err
}

// hubSide is a hub with sockets that follow channels by number.
func (e *Env) hubSide(ctx context.Context, dir string, durable bool, follows [][]int) (_ *side, err error) {
	s := &side{name: "floor"}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	p, addr, err := e.startHub(ctx, dir, durable)
	if err != nil {
		return nil, err
	}
	s.proc = p
	cfg := load.Config{Name: "floor", Progress: e.progress(s.name)}
	for _, chs := range follows {
		ids := make([]string, len(chs))
		for i, n := range chs {
			ids[i] = fmt.Sprintf("C%026d", n) // as long as the real ones
		}
		cfg.Sockets = append(cfg.Sockets, load.Socket{Addr: addr, Token: strings.Join(ids, ".")})
	}
	return s, s.connected(load.Connect(ctx, cfg))
}

// connected takes a load, unless there is none.
func (s *side) connected(l *load.Load, err error) error {
	if err == nil {
		s.load = l
	}
	return err
}

// parleySide is a cluster with seeded people, of whom some have sockets.
func (e *Env) parleySide(ctx context.Context, dir string, seed cluster.Seed, edges int, online func(user int) bool) (_ *side, err error) {
	s := &side{name: "parley"}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	e.Say("parley: starting")
	s.parley, err = cluster.Start(ctx, cluster.Config{Binary: e.Parley, Dir: filepath.Join(dir, "data"), Edges: edges})
	if err != nil {
		return nil, err
	}
	s.proc = s.parley.Process
	e.Say("parley: making " + strconv.Itoa(seed.Users) + " people and " + strconv.Itoa(seed.Channels) + " channels")
	people, err := s.parley.Seed(ctx, seed)
	if err != nil {
		return nil, err
	}
	return s, s.connected(e.connect(ctx, s.parley, people, online))
}

// connect opens a socket for each user that is online, at the edges in turns.
func (e *Env) connect(ctx context.Context, c *cluster.Cluster, people cluster.People, online func(user int) bool) (*load.Load, error) {
	edges, err := c.Edges()
	if err != nil {
		return nil, err
	}
	return e.sockets(ctx, "bench", edges, people, online)
}

// sockets opens them; name is unique among the loads of one server.
func (e *Env) sockets(ctx context.Context, name string, edges []string, people cluster.People, online func(user int) bool) (*load.Load, error) {
	cfg := load.Config{Name: name, Progress: e.progress("parley")}
	for i, u := range people.Users {
		if online == nil || online(i) {
			cfg.Sockets = append(cfg.Sockets, load.Socket{Addr: edges[len(cfg.Sockets)%len(edges)], Token: u.Token})
		}
	}
	return load.Connect(ctx, cfg)
}
