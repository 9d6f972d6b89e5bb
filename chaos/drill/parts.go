package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"parley/internal/failpoint"
)

// targetCell is the cell that faults hit.
func (w *world) targetCell() cell { return w.regions[0].cell }

// host is the process of the target that a gateway or channel server is in.
func (w *world) host(part string) (unit, error) {
	for _, u := range w.targetCell().units {
		if u.hosts(part) {
			return u, nil
		}
	}
	return unit{}, fmt.Errorf("no process of the cell hosts %s", part)
}

// alone reports whether a part has its process for itself: then faults hit that.
func (u unit) alone() bool { return len(u.gateways)+len(u.servers) == 1 }

// order stops, starts or crashes a part of the target.
func (w *world) order(ctx context.Context, part, do string) error {
	u, err := w.host(part)
	if err != nil {
		return err
	}
	if !u.alone() {
		_, err := w.call(ctx, http.MethodPost, u.name, "/parts/"+part+"/"+do, nil)
		return err
	}
	p, err := w.proc(u.name)
	if err != nil {
		return err
	}
	switch do {
	case "crash":
		return p.Kill()
	case "stop":
		return p.Stop(ctx, drainMax+5*time.Second)
	default:
		return w.start(ctx, u.name)
	}
}

// armed are the processes that a failpoint of the target is set in: that of its
// part, or all.
func (w *world) armed(of string) []string {
	if u, err := w.host(of); err == nil {
		return []string{u.name}
	}
	return w.targetCell().names()
}

// arm sets a failpoint in the target.
func (w *world) arm(ctx context.Context, o failpoint.Order) error {
	for _, name := range w.armed(o.Of) {
		if err := w.armIn(ctx, name, o); err != nil {
			return err
		}
	}
	return nil
}

// armIn sets a failpoint in a process.
func (w *world) armIn(ctx context.Context, name string, o failpoint.Order) error {
	_, err := w.call(ctx, http.MethodPost, name, "/failpoints", o)
	return err
}

// mend takes all failpoints of processes back; those of the target, if none is named.
func (w *world) mend(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		names = w.targetCell().names()
	}
	for _, name := range names {
		if _, err := w.call(ctx, http.MethodDelete, name, "/failpoints", nil); err != nil {
			return err
		}
	}
	return nil
}

// untilHit waits until a failpoint of one of the processes was used; of the target,
// if none is named. A fault that nobody met shows nothing.
func (w *world) untilHit(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		names = w.targetCell().names()
	}
	ctx, cancel := context.WithTimeout(ctx, orderMax)
	defer cancel()
	for {
		for _, name := range names {
			b, err := w.call(ctx, http.MethodGet, name, "/failpoints", nil)
			if err != nil {
				return err
			}
			if n, err := hits(b); err != nil || n > 0 {
				return err
			}
		}
		if err := w.wait(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// pauseFor is how long a channel server stands still: longer than it takes others to
// find out.
const pauseFor = 7 * time.Second

// pauseServer lets a channel server stand still.
func (w *world) pauseServer(ctx context.Context, clock bool) error {
	u, err := w.host(serverOne)
	if err != nil {
		return err
	}
	if clock {
		if err := w.arm(ctx, failpoint.Order{Name: failpoint.ClockName, Of: serverOne, Do: "freeze"}); err != nil {
			return err
		}
	}
	if u.alone() {
		return errors.Join(w.pauseProcess(ctx, u.name, pauseFor), w.mend(ctx, u.name))
	}
	if err := w.arm(ctx, failpoint.Order{Name: failpoint.Everywhere, Of: serverOne, Do: "block"}); err != nil {
		return err
	}
	if err := w.wait(ctx, pauseFor); err != nil {
		return err
	}
	return errors.Join(w.untilHit(ctx), w.mend(ctx))
}

// pauseProcess stops a process where it stands, and lets it go on.
func (w *world) pauseProcess(ctx context.Context, name string, d time.Duration) error {
	p, err := w.proc(name)
	if err != nil {
		return err
	}
	if err := p.Pause(); err != nil {
		return err
	}
	err = w.wait(ctx, d)
	return errors.Join(err, p.Continue())
}
