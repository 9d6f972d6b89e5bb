package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"parley/internal/failpoint"
	"parley/internal/problem"
)

// State is where a Switch stands.
type State string

// States of a Switch.
const (
	Starting State = "starting"
	Serving  State = "serving"
	Draining State = "draining"
	Stopped  State = "stopped"
)

// Switch is several parts that belong together, such as a gateway with its API
// and its entry in the registry, and can be stopped and started again by name
// while the rest of the role runs on. It is a Part itself.
type Switch struct {
	name     string
	make     func() ([]Part, error)
	drainMax time.Duration
	log      *slog.Logger
	orders   chan order
	ended    chan struct{} // closed when the role has ended

	mu    sync.Mutex
	state State
}

type order struct {
	start, crash bool
	done         chan error // one slot
}

// NewSwitch makes a Switch that is on from the start. parts makes the parts
// anew for each start.
func NewSwitch(name string, drainMax time.Duration, log *slog.Logger, parts func() ([]Part, error)) *Switch {
	return &Switch{name: name, make: parts, drainMax: drainMax, log: log, orders: make(chan order), ended: make(chan struct{}), state: Starting}
}

// Name is the switch's name.
func (s *Switch) Name() string { return s.name }

// State is where it stands.
func (s *Switch) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Switch) set(st State) {
	s.mu.Lock()
	s.state = st
	s.mu.Unlock()
}

// Part is the switch as a part of its role. An end of the role drains it.
func (s *Switch) Part() Part { return Part{Name: s.name, Run: s.run} }

// Stop drains and stops the parts, and waits for it. Stopped ones stay so.
func (s *Switch) Stop(ctx context.Context) error { return s.ask(ctx, order{}) }

// Start starts the parts anew, and waits until they are ready.
func (s *Switch) Start(ctx context.Context) error { return s.ask(ctx, order{start: true}) }

// Crash lets the parts fall dead; Unsupported in builds that can't.
func (s *Switch) Crash(ctx context.Context) error {
	if !failpoint.Enabled {
		return problem.New(problem.Unsupported, "this build can't be broken: build with -tags failpoints")
	}
	return s.ask(ctx, order{crash: true})
}

func (s *Switch) ask(ctx context.Context, o order) error {
	o.done = make(chan error, 1)
	select {
	case s.orders <- o:
	case <-s.ended:
		return problem.New(problem.Unavailable, "%s has ended with its role", s.name)
	case <-ctx.Done():
		return problem.Wrap(ctx.Err(), problem.Unavailable, "%s does not take orders now", s.name)
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return problem.Wrap(ctx.Err(), problem.Unknown, "%s has not done it yet", s.name)
	}
}

// run follows orders until ctx ends.
func (s *Switch) run(ctx context.Context, ready func()) error {
	defer close(s.ended)
	defer s.set(Stopped)
	on, err := s.begin(ctx)
	if err == nil {
		err = on.untilReady(ctx)
	}
	if err != nil {
		return err
	}
	s.set(Serving)
	ready()
	for {
		var ended chan error
		if on != nil {
			ended = on.ended
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%s: %w", s.name, orEarly(err))
		case <-ctx.Done():
			if on == nil {
				return nil
			}
			on.cancel(context.Cause(ctx))
			return <-on.ended
		case o := <-s.orders:
			on, err = s.follow(ctx, on, o)
			o.done <- err
		}
	}
}

// follow carries an order out and returns what runs then.
func (s *Switch) follow(ctx context.Context, on *spell, o order) (*spell, error) {
	switch {
	case o.start && on != nil:
		return on, nil
	case o.start:
		s.set(Starting)
		on, err := s.begin(ctx)
		if err == nil {
			err = on.untilReady(ctx)
		}
		if err != nil {
			s.set(Stopped)
			return nil, err
		}
		s.set(Serving)
		return on, nil
	case on == nil:
		return nil, nil
	}
	s.set(Draining)
	var why error
	if o.crash {
		why = failpoint.ErrCrash
	}
	on.cancel(why)
	err := <-on.ended
	s.set(Stopped)
	if o.crash {
		err = nil // the dead do not complain
	}
	return nil, err
}

// spell is one time that the parts are on.
type spell struct {
	cancel context.CancelCauseFunc
	ready  chan struct{}
	ended  chan error // one slot
}

func (s *Switch) begin(ctx context.Context) (*spell, error) {
	parts, err := s.make()
	if err != nil {
		return nil, err
	}
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	on := &spell{cancel: cancel, ready: make(chan struct{}), ended: make(chan error, 1)}
	go func() {
		on.ended <- Run(own, func() { close(on.ready) }, s.drainMax, s.log, parts...)
	}()
	return on, nil
}

func (on *spell) untilReady(ctx context.Context) error {
	select {
	case <-on.ready:
		return nil
	case err := <-on.ended:
		return orEarly(err)
	case <-ctx.Done():
		on.cancel(context.Cause(ctx))
		return errors.Join(ctx.Err(), <-on.ended)
	}
}

func orEarly(err error) error {
	if err == nil {
		return problem.New(problem.Internal, "ended by itself")
	}
	return err
}
