// Package fault breaks networks between processes of one machine: a Relay stands
// between edges and a gateway, a Wire between a cell and an engine. They delay, lose,
// reset or cut what passes.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Direction is a way through a Relay.
type Direction int

// Directions: up is from clients to the target, down its answers.
const (
	Up Direction = iota
	Down
	Both
)

// Conditions are what happens to datagrams of one direction. Zero passes all.
type Conditions struct {
	Delay  time.Duration
	Jitter time.Duration // Delay varies by up to this, either way; order is kept
	Loss   float64       // 0 to 1
	Cut    bool          // nothing passes
}

const (
	datagramMax = 1 << 16
	flowsMax    = 1024
	// queueMax bounds the datagrams that are delayed at once, per direction of a flow.
	queueMax = 1 << 14
	// idleMax is after how long without an answer a flow is forgotten.
	idleMax = 60 * time.Second
)

// Relay passes UDP datagrams on: each client has a flow with a socket of its own
// towards the target, so that answers find back.
type Relay struct {
	mu    sync.Mutex
	ways  [2]Conditions
	ends  []*end
	close chan struct{}
	work  sync.WaitGroup
}

// end is one address that the relay listens at, and its target.
type end struct {
	r      *Relay
	listen *net.UDPConn
	target *net.UDPAddr

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
}

type flow struct {
	conn     *net.UDPConn // to the target
	up, down *line
}

// NewRelay listens at the keys of targets (host:port, UDP) and passes on to their
// values. Close ends it.
func NewRelay(targets map[string]string) (*Relay, error) {
	r := &Relay{close: make(chan struct{})}
	for from, to := range targets {
		if err := r.add(from, to); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	for _, e := range r.ends {
		r.work.Go(e.read)
	}
	return r, nil
}

func (r *Relay) add(from, to string) error {
	target, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return fmt.Errorf("relay: the target %q: %w", to, err)
	}
	addr, err := net.ResolveUDPAddr("udp", from)
	if err != nil {
		return fmt.Errorf("relay: the address %q: %w", from, err)
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	r.ends = append(r.ends, &end{r: r, listen: conn, target: target, flows: map[netip.AddrPort]*flow{}})
	return nil
}

// Set changes the conditions of a direction, from now on.
func (r *Relay) Set(d Direction, c Conditions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d == Both {
		r.ways = [2]Conditions{c, c}
		return
	}
	r.ways[d] = c
}

func (r *Relay) conditions(d Direction) Conditions {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ways[d]
}

// Close ends the relay and waits for its goroutines.
func (r *Relay) Close() error {
	r.mu.Lock()
	select {
	case <-r.close:
		r.mu.Unlock()
		return nil
	default:
	}
	close(r.close)
	r.mu.Unlock()
	var errs []error
	for _, e := range r.ends {
		errs = append(errs, e.listen.Close())
		e.mu.Lock()
		for _, f := range e.flows {
			_ = f.conn.Close() // its reader may have closed it already
		}
		e.mu.Unlock()
	}
	r.work.Wait()
	return errors.Join(errs...)
}

// read takes what clients send.
func (e *end) read() {
	buf := make([]byte, datagramMax)
	for {
		n, from, err := e.listen.ReadFromUDPAddrPort(buf)
		if err != nil {
			return // closed
		}
		if f := e.flow(from); f != nil {
			f.up.pass(buf[:n])
		}
	}
}

// flow finds or makes a client's flow; nil when there are too many.
func (e *end) flow(from netip.AddrPort) *flow {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.flows[from]; f != nil {
		return f
	}
	if len(e.flows) >= flowsMax {
		return nil
	}
	conn, err := net.DialUDP("udp", nil, e.target)
	if err != nil {
		return nil
	}
	f := &flow{conn: conn}
	f.up = newLine(e.r, Up, func(b []byte) { _, _ = conn.Write(b) })                            // a lost datagram is a lost datagram
	f.down = newLine(e.r, Down, func(b []byte) { _, _ = e.listen.WriteToUDPAddrPort(b, from) }) // as above
	e.flows[from] = f
	e.r.work.Go(func() { e.answers(from, f) })
	e.r.work.Go(f.up.run)
	e.r.work.Go(f.down.run)
	return f
}

// answers takes what the target sends to one client, until it is idle.
func (e *end) answers(from netip.AddrPort, f *flow) {
	buf := make([]byte, datagramMax)
	for {
		_ = f.conn.SetReadDeadline(time.Now().Add(idleMax)) // fails only when closed, as the read will
		n, err := f.conn.Read(buf)
		switch {
		case err == nil:
			f.down.pass(buf[:n])
			continue
		case isRefused(err): // nobody listens there now: it may again
			continue
		}
		e.mu.Lock()
		delete(e.flows, from)
		e.mu.Unlock()
		_ = f.conn.Close() // as it is, mostly
		close(f.up.stop)
		close(f.down.stop)
		return
	}
}

// line is one direction of a flow. What is not delayed passes at once; the rest
// queues, in order.
type line struct {
	r    *Relay
	way  Direction
	send func([]byte)
	wake chan struct{} // holds one
	stop chan struct{}

	mu    sync.Mutex
	queue []late
	last  time.Time // when the last one queued is due
}

type late struct {
	due  time.Time
	data []byte
}

func newLine(r *Relay, way Direction, send func([]byte)) *line {
	return &line{r: r, way: way, send: send, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

func (l *line) pass(b []byte) {
	c := l.r.conditions(l.way)
	if c.Cut || (c.Loss > 0 && rand.Float64() < c.Loss) {
		return
	}
	l.mu.Lock()
	if c.Delay == 0 && len(l.queue) == 0 {
		l.mu.Unlock()
		l.send(b)
		return
	}
	defer l.mu.Unlock()
	if len(l.queue) >= queueMax {
		return
	}
	due := time.Now().Add(c.Delay)
	if c.Jitter > 0 {
		due = due.Add(rand.N(2*c.Jitter) - c.Jitter)
	}
	if due.Before(l.last) {
		due = l.last
	}
	l.last = due
	l.queue = append(l.queue, late{due, append([]byte(nil), b...)})
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends what is late when it is due.
func (l *line) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.mu.Lock()
		wait := time.Hour
		for len(l.queue) > 0 {
			if wait = time.Until(l.queue[0].due); wait > 0 {
				break
			}
			b := l.queue[0].data
			l.queue = l.queue[1:]
			l.mu.Unlock()
			l.send(b)
			l.mu.Lock()
			wait = time.Hour
		}
		l.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.wake:
		case <-l.stop:
			return
		}
	}
}
