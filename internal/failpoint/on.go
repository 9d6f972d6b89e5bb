//go:build failpoints

package failpoint

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"parley/internal/problem"
)

// Enabled says whether this build can be broken.
const Enabled = true

type armed struct {
	Order
	wait time.Duration
	hits int
	free chan struct{} // closed when the order is taken back
}

var (
	mu     sync.Mutex
	orders []*armed
	clocks = map[string]*clock{}
)

// find takes one use of the order for a place.
func find(name, of string, do ...string) *armed {
	mu.Lock()
	defer mu.Unlock()
	for _, o := range orders {
		if (o.Name != name && o.Name != Everywhere) || (o.Of != "" && o.Of != of) || (o.Count > 0 && o.hits >= o.Count) {
			continue
		}
		if slices.Contains(do, o.Do) {
			o.hits++
			return o
		}
	}
	return nil
}

// At does what is set at a place.
func At(ctx context.Context, name, of string) error {
	o := find(name, of, "block", "delay", "error", "crash")
	if o == nil {
		return nil
	}
	switch o.Do {
	case "crash":
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	case "error":
		return problem.New(problem.Unavailable, "a drill lets %s fail", name)
	case "delay":
		t := time.NewTimer(o.wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-o.free:
		}
		return nil
	}
	select {
	case <-o.free:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hang is At for what a pause holds up for longer than any deadline: what was
// about to be done is done late.
func Hang(name, of string) error { return At(context.Background(), name, of) }

// Drop reports whether what is about to leave a place should be lost.
func Drop(name, of string) bool { return find(name, of, "drop") != nil }

// Mutant reports whether a step is to be left out.
func Mutant(name string) bool { return find(name, "", "mutate") != nil }

// Set arms an order until undo is called.
func Set(o Order) (undo func(), err error) {
	a, err := arm(o)
	if err != nil {
		return nil, err
	}
	return func() { disarm(a) }, nil
}

// Crashed reports whether ctx was ended by ErrCrash.
func Crashed(ctx context.Context) bool { return errors.Is(context.Cause(ctx), ErrCrash) }

// clock is a part's clock, which a drill may move or stop.
type clock struct {
	shift  time.Duration
	frozen time.Time // zero = it goes
}

// Clock is the clock of one part.
func Clock(of string) func() time.Time {
	mu.Lock()
	defer mu.Unlock()
	c := clocks[of]
	if c == nil {
		c = &clock{}
		clocks[of] = c
	}
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		if !c.frozen.IsZero() {
			return c.frozen
		}
		return time.Now().Add(c.shift)
	}
}

// Handler takes an order by POST, lists the orders by GET, and takes them all
// back by DELETE.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			list(w)
		case http.MethodDelete:
			reset()
			w.WriteHeader(http.StatusNoContent)
		case http.MethodPost:
			var o Order
			d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
			d.DisallowUnknownFields()
			if err := d.Decode(&o); err != nil {
				problem.Write(w, problem.Wrap(err, problem.Invalid, "the body is no failpoint: %v", err))
				return
			}
			if _, err := arm(o); err != nil {
				problem.Write(w, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		default:
			problem.Write(w, problem.New(problem.Method, "GET, POST or DELETE"))
		}
	})
}

func arm(o Order) (*armed, error) {
	a := &armed{Order: o, free: make(chan struct{})}
	if o.For != "" {
		var err error
		if a.wait, err = time.ParseDuration(o.For); err != nil {
			return nil, problem.Field("for", "%v", err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if o.Name == ClockName {
		c := clocks[o.Of]
		switch {
		case c == nil:
			return nil, problem.Field("of", "there is no clock of %q", o.Of)
		case o.Do == "freeze":
			c.frozen = time.Now().Add(c.shift)
		case o.Do == "shift":
			c.shift, c.frozen = a.wait, time.Time{}
		default:
			return nil, problem.Field("do", "a clock can shift or freeze")
		}
		return a, nil
	}
	switch o.Do {
	case "block", "delay", "error", "drop", "crash", "mutate":
		orders = append(orders, a)
		return a, nil
	default:
		return nil, problem.Field("do", "must be block, delay, error, drop, crash or mutate")
	}
}

// disarm takes one order back.
func disarm(a *armed) {
	mu.Lock()
	defer mu.Unlock()
	if c := clocks[a.Of]; a.Name == ClockName && c != nil {
		c.shift, c.frozen = 0, time.Time{}
	}
	if i := slices.Index(orders, a); i >= 0 {
		orders = slices.Delete(orders, i, i+1)
		close(a.free)
	}
}

func reset() {
	mu.Lock()
	defer mu.Unlock()
	for _, o := range orders {
		close(o.free)
	}
	orders = nil
	for _, c := range clocks {
		c.shift, c.frozen = 0, time.Time{}
	}
}

func list(w http.ResponseWriter) {
	type line struct {
		Order
		Hits int `json:"hits"`
	}
	mu.Lock()
	out := []line{}
	for _, o := range orders {
		out = append(out, line{o.Order, o.hits})
	}
	mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the peer may be gone
}
