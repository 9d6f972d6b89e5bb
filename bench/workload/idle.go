package workload

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"parley/bench/cluster"
	"parley/bench/load"
	"parley/internal/problem"
)

// Idle is sockets that say nothing but their heartbeats.
type Idle struct {
	Sockets  int
	Channels int // that each socket follows
}

const (
	idleMembers = 100 // of each channel
	// idleSettle lets the people be told who is there, and the server give back what
	// connecting needed for a moment: it is idle only then.
	idleSettle = 30 * time.Second
	idleWait   = 5 * time.Second
)

// Run measures the memory of the whole process, edge and cell, with the sockets
// against without. Each run is a new process, so that what seeding left behind
// can't hold sockets later.
func (i Idle) Run(ctx context.Context, e *Env) ([]Row, error) {
	if i.Sockets < idleMembers || i.Sockets > 50_000 || i.Sockets%idleMembers != 0 || i.Channels < 1 || i.Channels > 100 {
		return nil, problem.Field("sockets", "must be a multiple of %d up to 50,000, in 1 to 100 channels each", idleMembers)
	}
	dir, remove, err := e.scratch("idle")
	if err != nil {
		return nil, err
	}
	defer remove()
	people, err := i.seed(ctx, e, dir)
	if err != nil {
		return nil, err
	}
	r := Row{
		Workload: fmt.Sprintf("idle, %d sockets with %d channels each", i.Sockets, i.Channels), Measure: "edge + cell RSS per socket, KB",
		Targets: mostTargets(20, 6.5),
	}
	var parley, floor, peaks []float64
	for run := range e.Runs {
		e.Say(fmt.Sprintf("run %d of %d", run+1, e.Runs))
		kb, peak, counts, err := i.parley(ctx, e, dir, people)
		if err != nil {
			return nil, err
		}
		parley, peaks, r.Counts = append(parley, kb), append(peaks, peak), plus(r.Counts, counts)
		if !e.Floor {
			continue
		}
		if kb, err = i.hub(ctx, e, dir); err != nil {
			return nil, err
		}
		floor = append(floor, kb)
	}
	r.set(parley, floor)
	r.Notes = append(r.Notes, fmt.Sprintf("Right after connecting, garbage included: %.1f KB per socket. The kernel's buffers are not in it.", statOf(peaks).Median))
	if r.Floor != nil {
		r.Notes = append(r.Notes, "The floor is the raw hub's memory per socket; the target is absolute.")
	}
	return []Row{r}, nil
}

func (i Idle) seed(ctx context.Context, e *Env, dir string) (cluster.People, error) {
	e.Say("parley: making people")
	c, err := cluster.Start(ctx, cluster.Config{Binary: e.Parley, Dir: filepath.Join(dir, "data")})
	if err != nil {
		return cluster.People{}, err
	}
	defer c.Stop()
	return c.Seed(ctx, cluster.Seed{Prefix: "idle", Users: i.Sockets, Channels: i.Sockets * i.Channels / idleMembers, Members: idleMembers})
}

// parley starts the cluster again and measures it without and with sockets.
func (i Idle) parley(ctx context.Context, e *Env, dir string, people cluster.People) (kb, peak float64, sum load.Counts, err error) {
	c, err := cluster.Start(ctx, cluster.Config{Binary: e.Parley, Dir: filepath.Join(dir, "data")})
	if err != nil {
		return 0, 0, sum, err
	}
	defer c.Stop()
	if err := pause(ctx, idleWait); err != nil {
		return 0, 0, sum, err
	}
	if err := c.Collect(ctx); err != nil {
		return 0, 0, sum, err
	}
	before, err := c.RSS()
	if err != nil {
		return 0, 0, sum, err
	}
	l, err := e.connect(ctx, c, people, nil)
	if err != nil {
		return 0, 0, sum, err
	}
	defer l.Close()
	full, err := c.RSS()
	if err != nil {
		return 0, 0, sum, err
	}
	if err := l.Stay(ctx, idleWait); err != nil {
		return 0, 0, sum, err
	}
	if err := c.Collect(ctx); err != nil {
		return 0, 0, sum, err
	}
	if err := l.Stay(ctx, idleSettle); err != nil {
		return 0, 0, sum, err
	}
	after, err := c.RSS()
	return i.per(after - before), i.per(full - before), l.Counts(), err
}

func (i Idle) hub(ctx context.Context, e *Env, dir string) (kb float64, err error) {
	p, addr, err := e.startHub(ctx, dir, false)
	if err != nil {
		return 0, err
	}
	defer p.Stop()
	before, err := p.RSS()
	if err != nil {
		return 0, err
	}
	cfg := load.Config{Name: "floor", Progress: e.progress("floor")}
	for n := range i.Sockets {
		ids := make([]string, i.Channels)
		for ch := range ids {
			ids[ch] = fmt.Sprintf("C%026d", (n+ch)%(i.Sockets*i.Channels/idleMembers))
		}
		cfg.Sockets = append(cfg.Sockets, load.Socket{Addr: addr, Token: strings.Join(ids, ".")})
	}
	l, err := load.Connect(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	if err := l.Stay(ctx, idleWait); err != nil {
		return 0, err
	}
	after, err := p.RSS()
	return i.per(after - before), err
}

func (i Idle) per(bytes int64) float64 { return float64(bytes) / float64(i.Sockets) / 1024 }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
