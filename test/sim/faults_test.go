//go:build failpoints

package sim_test

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"parley/internal/failpoint"
	"parley/internal/topology"
)

var (
	seedsFlag = flag.Int("seeds", 0, "how many seeds a simulation runs (default: a few)")
	hourFlag  = flag.Duration("lasts", time.Hour, "simulated time of a run")
)

func seeds(t *testing.T, few int) int {
	t.Helper()
	if *seedsFlag > 0 {
		return *seedsFlag
	}
	return few
}

func hour(t *testing.T) time.Duration {
	t.Helper()
	return *hourFlag
}

// fault breaks something for a while and mends it.
type fault struct {
	name string
	do   func(w *world, r *rand.Rand)
}

// while is a random time.
func while(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

// takeovers are faults after which shards have another owner.
func takeovers() []fault {
	return []fault{
		{"a server stands still", func(w *world, r *rand.Rand) { w.pause(r, false) }},
		{"a server stands still, and its clock", func(w *world, r *rand.Rand) { w.pause(r, true) }},
		{"writes are late", func(w *world, r *rand.Rand) {
			w.during(while(r, 2*time.Second, 15*time.Second), failpoint.Order{Name: failpoint.ChannelCommit, Of: w.anyServer(r), Do: "block"})
		}},
		{"a server falls dead", func(w *world, r *rand.Rand) {
			id := serverID(r.IntN(servers))
			w.stop(string(id), failpoint.ErrCrash)
			time.Sleep(while(r, time.Second, 20*time.Second))
			w.startServer(id)
		}},
		{"a server hands over", func(w *world, r *rand.Rand) {
			id := serverID(r.IntN(servers))
			w.stop(string(id), nil)
			time.Sleep(while(r, time.Second, 10*time.Second))
			w.startServer(id)
		}},
	}
}

// ghosts are writes of an owner that arrive when the next one has begun, and the
// one after it takes over: what they leave above the next one's must be dead.
func ghosts() []fault {
	return []fault{{"writes are late, and owners change twice", func(w *world, r *rand.Rand) {
		still := func(id topology.ServerID) failpoint.Order {
			return failpoint.Order{Name: failpoint.Everywhere, Of: string(id), Do: "block"}
		}
		g, open := w.store.stall()
		time.Sleep(while(r, 0, time.Second))
		w.set(still(w.store.owner(firstRoom)), func() {
			select {
			case <-g.first:
			case <-time.After(leaseMax): // nobody wrote to it
			}
			w.set(still(w.store.owner(firstRoom)), func() {
				close(g.late)
				time.Sleep(while(r, 2*time.Second, 4*time.Second)) // longer than a ping: another takes over
			})
		})
		open()
	}}}
}

// moves are faults after which sessions are at another gateway, or edge.
func moves() []fault {
	return []fault{
		{"a gateway falls dead", func(w *world, r *rand.Rand) {
			i := r.IntN(gateways)
			w.stop(string(gatewayID(i)), failpoint.ErrCrash)
			time.Sleep(while(r, time.Second, 20*time.Second))
			w.startGateway(i)
		}},
		{"a gateway is drained", func(w *world, r *rand.Rand) {
			i := r.IntN(gateways)
			w.stop(string(gatewayID(i)), nil)
			time.Sleep(while(r, time.Second, 10*time.Second))
			w.startGateway(i)
		}},
		{"an edge is cut off from a gateway, one way", func(w *world, r *rand.Rand) {
			from, to := edgeHost(r.IntN(edges)), gatewayHost(r.IntN(gateways))
			if r.IntN(2) == 0 {
				from, to = to, from
			}
			heal := w.net.cutOff(from, to)
			time.Sleep(while(r, time.Second, 20*time.Second))
			heal()
		}},
		{"an edge is cut off from a gateway", func(w *world, r *rand.Rand) {
			a, b := edgeHost(r.IntN(edges)), gatewayHost(r.IntN(gateways))
			there, back := w.net.cutOff(a, b), w.net.cutOff(b, a)
			time.Sleep(while(r, time.Second, 20*time.Second))
			there()
			back()
		}},
	}
}

// allFaults are all there are.
func allFaults() []fault {
	return append(append(append(takeovers(), ghosts()...), moves()...),
		fault{"the weather is bad", func(w *world, r *rand.Rand) {
			w.net.weather(0.01+0.1*r.Float64(), while(r, 0, 100*time.Millisecond), while(r, 0, 100*time.Millisecond))
			time.Sleep(while(r, 5*time.Second, 30*time.Second))
			w.net.weather(0, time.Millisecond, time.Millisecond)
		}},
		fault{"publishes are lost", func(w *world, r *rand.Rand) {
			w.during(while(r, time.Second, 10*time.Second), failpoint.Order{Name: failpoint.ChannelPublish, Do: "drop", Count: 1 + r.IntN(5)})
		}},
		fault{"beacons are lost", func(w *world, r *rand.Rand) {
			w.during(while(r, time.Second, 15*time.Second), failpoint.Order{Name: failpoint.ChannelBeacon, Of: w.anyServer(r), Do: "drop"})
		}},
		fault{"a clock steps", func(w *world, r *rand.Rand) {
			by := "10m"
			if r.IntN(2) == 0 {
				by = "-10m"
			}
			w.during(while(r, 5*time.Second, 60*time.Second), failpoint.Order{Name: failpoint.ClockName, Of: w.anyServer(r), Do: "shift", For: by})
		}},
		fault{"an edge falls dead", func(w *world, r *rand.Rand) {
			i := r.IntN(edges)
			w.stop(edgeName(i), failpoint.ErrCrash)
			time.Sleep(while(r, time.Second, 10*time.Second))
			w.startEdge(i)
		}},
		fault{"an edge is drained", func(w *world, r *rand.Rand) {
			i := r.IntN(edges)
			w.stop(edgeName(i), nil)
			time.Sleep(while(r, time.Second, 10*time.Second))
			w.startEdge(i)
		}},
	)
}

func (w *world) anyServer(r *rand.Rand) string { return string(serverID(r.IntN(servers))) }

// set keeps an order while do runs.
func (w *world) set(o failpoint.Order, do func()) {
	undo, err := failpoint.Set(o)
	must(w.t, err)
	defer undo()
	do()
}

func (w *world) during(d time.Duration, o failpoint.Order) { w.set(o, func() { time.Sleep(d) }) }

// pause has a server stand still, longer or shorter than its lease.
func (w *world) pause(r *rand.Rand, clock bool) {
	id := w.anyServer(r)
	d := while(r, time.Second, 3*leaseMax)
	still := failpoint.Order{Name: failpoint.Everywhere, Of: id, Do: "block"}
	if clock {
		w.set(failpoint.Order{Name: failpoint.ClockName, Of: id, Do: "freeze"}, func() { w.during(d, still) })
		return
	}
	w.during(d, still)
}
