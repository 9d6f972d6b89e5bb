package workload

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"parley/bench/cluster"
	"parley/bench/load"
	"parley/internal/problem"
)

// Fanout is one channel that everybody follows.
type Fanout struct {
	Sockets  int
	InFlight int
}

// Run measures deliveries a second.
func (f Fanout) Run(ctx context.Context, e *Env) ([]Row, error) {
	if f.Sockets < 1 || f.Sockets > 50_000 || f.InFlight < 1 || f.InFlight > 10_000 {
		return nil, problem.Field("sockets", "must be 1 to 50,000, and posts in flight 1 to 10,000")
	}
	dir, remove, err := e.scratch("fanout")
	if err != nil {
		return nil, err
	}
	defer remove()
	sides, end, err := e.sides(
		func() (*side, error) {
			return e.parleySide(ctx, dir, cluster.Seed{Prefix: "fanout", Users: f.Sockets, Channels: 1, Members: f.Sockets}, 1, nil)
		},
		func() (*side, error) {
			follows := make([][]int, f.Sockets)
			for i := range follows {
				follows[i] = []int{1}
			}
			return e.hubSide(ctx, dir, false, follows)
		},
	)
	if err != nil {
		return nil, err
	}
	defer end()
	runs, err := e.interleave(ctx, sides, func(*side) load.Plan { return load.Plan{InFlight: f.InFlight, Warm: e.Warm, For: e.For} }, anyRun)
	if err != nil {
		return nil, err
	}
	r := Row{
		Workload: fmt.Sprintf("fan-out, %d sockets, %d in flight", f.Sockets, f.InFlight), Measure: "deliveries/s", Against: "raw hub",
		Targets: f.targets(),
	}
	r.compare(runs, func(m measured) float64 { return m.DeliveriesPerS })
	r.details(runs)
	r.Profile, err = e.profile(ctx, sides[0], load.Plan{InFlight: f.InFlight, Warm: e.Warm / 2}, filepath.Join(dir, fmt.Sprintf("fanout-%dx%d.pprof", f.Sockets, f.InFlight)))
	return []Row{r}, err
}

// targets are the table's where it has this size.
func (f Fanout) targets() []Target {
	switch f {
	case Fanout{1000, 16}:
		return ratioTargets(0.5, 0.75)
	case Fanout{5000, 16}:
		return ratioTargets(0.4, 0.7)
	case Fanout{1000, 1}:
		return ratioTargets(0.75, 0.92)
	default:
		return nil
	}
}

// sides starts Parley and, if it is asked for, the floor.
func (e *Env) sides(parley, floor func() (*side, error)) (sides []*side, end func(), err error) {
	end = func() {
		for _, s := range sides {
			s.close()
		}
	}
	for i, start := range []func() (*side, error){parley, floor} {
		if i == 1 && !e.Floor {
			break
		}
		s, err := start()
		if err != nil {
			end()
			return nil, nil, err
		}
		sides = append(sides, s)
	}
	return sides, end, nil
}

// profile makes an extra run of Parley with its CPU profiled: a profile costs a
// little, so it stays out of the figures.
func (e *Env) profile(ctx context.Context, s *side, p load.Plan, file string) ([]Share, error) {
	if e.Profile <= 0 {
		return nil, nil
	}
	p.For = e.Profile + time.Second
	if e.Profiles != "" {
		file = filepath.Join(e.Profiles, filepath.Base(file))
	}
	type made struct {
		ok  bool
		err error
	}
	done := make(chan made, 1)
	go func() {
		ok, err := s.parley.Profile(ctx, e.Profile, file)
		done <- made{ok, err}
	}()
	e.Say("parley: profiling")
	_, err := s.measure(ctx, p, nil)
	m := <-done
	switch {
	case err != nil:
		return nil, err
	case m.err != nil:
		return nil, m.err
	case !m.ok:
		return nil, nil
	}
	return shares(ctx, file)
}
