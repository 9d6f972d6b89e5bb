package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"parley/internal/failpoint"
)

// Drill is one fault, what it is done with, and the longest that a correct client
// may go without.
type Drill struct {
	Name  string
	Title string // what is done, in words
	Row   string // of the table of fault budgets
	Short bool   // is in the short form, too
	Quiet bool   // nobody talks after its fault began
	// Engines says that it is for cells on real engines, Embedded that it is not.
	Engines, Embedded bool
	// P99 and Max bound the pauses of the swarm's clients.
	P99, Max time.Duration
	// API bounds how long an operator's write may wait; 0 = it is not asked.
	API time.Duration
	Do  func(ctx context.Context, w *world) error
}

// The parts and processes that faults hit. The control swarm lives in the
// other region.
const (
	targetEdge = "eu-edge-1"
	gatewayOne = "eu-1-gw-1"
	serverOne  = "eu-1-cs-1"
	serverTwo  = "eu-1-cs-2"
)

// Drills are all of them, in the order in which they are run.
func Drills() []Drill {
	engines := append(faultsOfEngines(), faultsOfWires()...)
	for i := range engines {
		engines[i].Engines = true
	}
	return append(faultsOfOurs(), engines...)
}

func faultsOfOurs() []Drill { //nolint:funlen // a table
	return []Drill{
		{
			Name: "gateway-crash", Title: "one gateway of two falls dead", Row: "1", Short: true, P99: 1500 * time.Millisecond, Max: 3 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.crashAndRestart(ctx, gatewayOne, 6*time.Second) },
		}, {
			Name: "gateway-drain", Title: "one gateway of two is drained", Row: "2", Short: true, P99: 200 * time.Millisecond, Max: time.Second,
			Do: func(ctx context.Context, w *world) error { return w.stopAndRestart(ctx, gatewayOne, 3*time.Second) },
		}, {
			Name: "server-crash", Title: "one channel server of two falls dead", Row: "3", Short: true, P99: 4 * time.Second, Max: 6 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.crashAndRestart(ctx, serverOne, 6*time.Second) },
		}, {
			Name: "server-handover", Title: "one channel server of two hands its shards over", Row: "4", Short: true, P99: 300 * time.Millisecond, Max: time.Second,
			Do: func(ctx context.Context, w *world) error { return w.stopAndRestart(ctx, serverOne, 3*time.Second) },
		}, {
			Name: "server-pause", Title: "a channel server stands still while another takes over, then goes on", Row: "5", Short: true, P99: 4 * time.Second, Max: 6 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.pauseServer(ctx, false) },
		}, {
			Name: "server-pause-clock", Title: "the same, and its clock stood still, too", Row: "5", P99: 4 * time.Second, Max: 6 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.pauseServer(ctx, true) },
		}, {
			Name: "lost-publish", Title: "exactly one event is lost, then silence: a beacon repairs it", Row: "6", Short: true, Quiet: true, P99: 3 * time.Second, Max: 3 * time.Second,
			Do: losePublish,
		}, {
			Name: "lost-notice", Title: "the notice of a new private channel is lost: urev repairs it", Row: "6", P99: 2 * time.Second, Max: 2 * time.Second,
			Do: loseNotice,
		}, {
			Name: "removal", Title: "somebody is removed from a private channel under load", Row: "–", Short: true, P99: 2 * time.Second, Max: 2 * time.Second,
			Do: removeUnderLoad,
		}, {
			Name: "cell-kill", Title: "a whole cell is killed and started again", Row: "14", P99: 15 * time.Second, Max: 30 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.killAndRestart(ctx, 0, w.targetCell().names()...) },
		}, {
			Name: "edge-kill", Title: "an edge is killed", Row: "20", Short: true, P99: 3 * time.Second, Max: 8 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.killAndRestart(ctx, 6*time.Second, targetEdge) },
		}, {
			Name: "edge-drain", Title: "an edge is drained", Row: "21", P99: 500 * time.Millisecond, Max: 2 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.terminateAndRestart(ctx, targetEdge) },
		}, {
			Name: "raft-leader-kill", Title: "the Raft leader is killed", Row: "16", Short: true, P99: 2 * time.Second, Max: 2 * time.Second, API: 3 * time.Second,
			Do: killLeader,
		}, {
			Name: "raft-disk-stall", Title: "the Raft leader's disk stalls for 30 s", Row: "30", P99: 2 * time.Second, Max: 2 * time.Second, API: 8 * time.Second,
			Do: stallLeader,
		}, {
			Name: "control-gone", Title: "all control nodes are killed; new users log in", Row: "17", P99: 2 * time.Second, Max: 2 * time.Second,
			Do: func(ctx context.Context, w *world) error {
				return w.without(ctx, w.controlNames(), func() error { return w.logInNew(ctx, targetEdge) })
			},
		}, {
			Name: "etcd-gone", Title: "every etcd member of the region is killed; new users log in", Row: "18", P99: 2 * time.Second, Max: 6 * time.Second,
			Do: func(ctx context.Context, w *world) error {
				return w.without(ctx, w.etcdNames("eu"), func() error { return w.logInNew(ctx, targetEdge) })
			},
		}, {
			Name: "all-gone", Title: "control plane and etcd gone, a gateway and a channel server dead, an edge started cold, new users", Row: "19",
			P99: 4 * time.Second, Max: 8 * time.Second, Do: allGone,
		}, {
			Name: "wan", Title: "200 ± 50 ms and 1 % loss between edges and the cell", Row: "26", P99: 2 * time.Second, Max: 2 * time.Second,
			Do: slowLink,
		}, {
			Name: "one-way-cut", Title: "nothing comes from one gateway to the edges any more", Row: "25", Short: true, P99: 4 * time.Second, Max: 6 * time.Second,
			Do: cutOneWay,
		}, {
			Name: "reconnect-storm", Title: "all clients of an edge lose it at once", Row: "34", P99: 10 * time.Second, Max: 20 * time.Second,
			Do: storm,
		}, {
			Name: "slow-readers", Title: "500 sockets of a hot channel stop reading", Row: "27", P99: 2 * time.Second, Max: 2 * time.Second,
			Do: slowReaders,
		}, {
			Name: "noisy-workspace", Title: "another workspace of the cell posts many times its quota", Row: "37", P99: time.Second, Max: 2 * time.Second,
			Do: noisyNeighbour,
		}, {
			Name: "clock-steps", Title: "the channel servers' clocks step by +10 min and −10 min", Row: "28", Short: true, P99: 2 * time.Second, Max: 2 * time.Second,
			Do: stepClocks,
		}, {
			Name: "disk-full", Embedded: true, Title: "the cell's disk is full for 5 s", Row: "29", P99: 15 * time.Second, Max: 15 * time.Second,
			Do: fillDisk,
		},
	}
}

func losePublish(ctx context.Context, w *world) error {
	if err := w.arm(ctx, failpoint.Order{Name: failpoint.ChannelPublish, Do: "drop", Count: 1}); err != nil {
		return err
	}
	if err := w.untilHit(ctx); err != nil {
		return err
	}
	w.silence()
	return w.wait(ctx, 4*time.Second)
}

func loseNotice(ctx context.Context, w *world) error {
	if err := w.arm(ctx, failpoint.Order{Name: failpoint.RosterNotice, Do: "drop", Count: 1}); err != nil {
		return err
	}
	ch, err := w.privateChannel(ctx, 0, []int{1})
	if err != nil {
		return err
	}
	return w.untilGained(ctx, 1, ch, 15*time.Second)
}

// removeUnderLoad takes a member out of a private channel while others post to it;
// that nothing reaches it afterwards is the checker's to see.
func removeUnderLoad(ctx context.Context, w *world) error {
	ch, err := w.privateChannel(ctx, 0, []int{1, 2, 3})
	if err != nil {
		return err
	}
	if err := w.postInto(ctx, 0, ch, 20); err != nil {
		return err
	}
	posting := make(chan error, 1)
	go func() { posting <- w.postInto(ctx, 2, ch, 100) }()
	if err := w.remove(ctx, 0, ch, 3); err != nil {
		return err
	}
	if err := w.postInto(ctx, 0, ch, 20); err != nil {
		return err
	}
	return <-posting
}

func killLeader(ctx context.Context, w *world) error {
	leader, err := w.leader(ctx)
	if err != nil {
		return err
	}
	if err := w.kill(leader); err != nil {
		return err
	}
	if err := w.operate(ctx); err != nil {
		return err
	}
	return w.start(ctx, leader)
}

func stallLeader(ctx context.Context, w *world) error {
	leader, err := w.leader(ctx)
	if err != nil {
		return err
	}
	if err := w.armIn(ctx, leader, failpoint.Order{Name: failpoint.RaftAppend, Do: "block"}); err != nil {
		return err
	}
	began := time.Now()
	if err := w.operate(ctx); err != nil {
		return err
	}
	if err := w.untilHit(ctx, leader); err != nil {
		return err
	}
	if err := w.wait(ctx, w.scaled(30*time.Second)-time.Since(began)); err != nil {
		return err
	}
	return w.mend(ctx, leader)
}

func allGone(ctx context.Context, w *world) error {
	if err := w.forgetDisk(targetEdge); err != nil { // it was stopped for that, and is still down
		return err
	}
	return w.without(ctx, append(w.controlNames(), w.etcdNames("eu")...), func() error {
		for _, part := range []string{gatewayOne, serverOne} {
			if err := w.order(ctx, part, "crash"); err != nil {
				return err
			}
		}
		err := w.start(ctx, targetEdge)
		if err == nil {
			err = w.logInNew(ctx, targetEdge)
		}
		return errors.Join(err, w.order(ctx, gatewayOne, "start"), w.order(ctx, serverOne, "start"))
	})
}

func stepClocks(ctx context.Context, w *world) error {
	for _, o := range []failpoint.Order{
		{Name: failpoint.ClockName, Of: serverOne, Do: "shift", For: "10m"},
		{Name: failpoint.ClockName, Of: serverTwo, Do: "shift", For: "-10m"},
	} {
		if err := w.arm(ctx, o); err != nil {
			return err
		}
	}
	if err := w.wait(ctx, 4*time.Second); err != nil {
		return err
	}
	return w.mend(ctx)
}

func fillDisk(ctx context.Context, w *world) error {
	if err := w.arm(ctx, failpoint.Order{Name: failpoint.DiskRoom, Do: "error"}); err != nil {
		return err
	}
	if err := w.wait(ctx, 5*time.Second); err != nil {
		return err
	}
	return errors.Join(w.untilHit(ctx), w.mend(ctx))
}

// hits is how often the failpoints of a process were used.
func hits(b []byte) (n int, err error) {
	var list []struct {
		Hits int `json:"hits"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return 0, fmt.Errorf("failpoints: %w", err)
	}
	for _, l := range list {
		n += l.Hits
	}
	return n, nil
}
