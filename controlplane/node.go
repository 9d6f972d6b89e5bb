package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"parley/controlplane/state"
	"parley/internal/ids"
	"parley/internal/problem"
)

// Node is one node of the control plane. New, then Run once.
type Node struct {
	cfg  Config
	deps Deps
	log  *slog.Logger
	fsm  *fsm
	raft *raft.Raft // set by Run
	lead *leader    // set by Run
	// stall is whether the disk of the Raft log stalls.
	stall   *stall
	metrics *metrics
	up      atomic.Bool // raft is set
	// caughtUp is the term in which this node, leading, has applied everything
	// that was committed in the terms before.
	caughtUp atomic.Uint64
}

// New checks the config; it touches nothing.
func New(cfg Config, deps Deps) (*Node, error) {
	cfg = cfg.withDefaults()
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.validate(deps); err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, deps: deps, log: deps.Log.With("node", cfg.ID), fsm: newFSM(), stall: newStall(), metrics: newMetrics()}, nil
}

// Bounds of Raft's work.
const (
	snapshotsKept = 3
	connsPerPeer  = 3
	ioMax         = 5 * time.Second
	proposeMax    = 5 * time.Second
	leaderWait    = 30 * time.Second
	notifications = 16
)

// Run joins the others, serves the API, and calls ready once there is a leader. It
// ends with ctx, handing leadership over first, or with an error when the log
// holds what this build does not know.
func (n *Node) Run(ctx context.Context, ready func()) (err error) {
	stopRaft, elected, err := n.startRaft()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopRaft()) }()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.lead = newLeader(n)
	led := make(chan struct{})
	go func() { defer close(led); n.lead.follow(run, elected) }()
	api := n.newAPI()
	served := make(chan error, 1)
	listening := make(chan struct{})
	go func() { served <- api.run(run, func() { close(listening) }) }()
	defer func() {
		cancel()
		<-led
		err = errors.Join(err, <-served)
	}()
	n.up.Store(true)
	if err := n.register(n.deps.Metrics); err != nil {
		return problem.Wrap(err, problem.Internal, "the metrics can't be registered")
	}
	if err := n.waitForLeader(ctx, listening, served); err != nil {
		return err
	}
	ready()
	select {
	case <-ctx.Done():
		return nil
	case <-n.fsm.halt:
		return n.fsm.why()
	case err := <-served:
		served <- nil
		return err
	}
}

// startRaft opens the log and starts Raft; stop hands leadership over and ends it.
func (n *Node) startRaft() (stop func() error, elected <-chan bool, err error) {
	dir := filepath.Join(n.cfg.Dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, problem.Wrap(err, problem.Internal, "the directory %s can't be made", dir)
	}
	if err := removeLeftovers(n.cfg.Dir); err != nil {
		return nil, nil, problem.Wrap(err, problem.Internal, "what a restore left in %s can't be removed", n.cfg.Dir)
	}
	log, err := wal.Open(dir)
	if err != nil {
		return nil, nil, problem.Wrap(err, problem.Internal, "the Raft log in %s can't be opened", dir)
	}
	logger := raftLogger(n.log)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Dir, snapshotsKept, logger)
	if err != nil {
		return nil, nil, errors.Join(problem.Wrap(err, problem.Internal, "the snapshots in %s can't be opened", n.cfg.Dir), log.Close())
	}
	layer, err := listen(n.deps.Net, n.cfg.RaftAddr, n.deps.Identity)
	if err != nil {
		return nil, nil, errors.Join(err, log.Close())
	}
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: connsPerPeer, Timeout: ioMax, Logger: logger,
	})
	watched := &watchedLog{LogStore: log, node: n.cfg.ID}
	notify := make(chan bool, notifications)
	conf := n.raftConfig(notify)
	conf.Logger = logger
	if err = n.bootstrap(log, snaps, transport, conf); err == nil {
		n.raft, err = raft.NewRaft(conf, n.fsm, watched, log, snaps, transport)
	}
	if err != nil {
		return nil, nil, errors.Join(problem.Wrap(err, problem.Internal, "Raft can't be started"), transport.Close(), log.Close())
	}
	watching, unwatch := context.WithCancel(context.Background())
	watcher := make(chan struct{})
	go func() { defer close(watcher); n.watch(watching, watched, layer) }()
	return func() error {
		unwatch()
		<-watcher
		if n.raft.State() == raft.Leader && len(n.cfg.Peers) > 1 {
			if err := n.raft.LeadershipTransfer().Error(); err != nil {
				n.log.Info("leadership was not handed over", "err", err)
			}
		}
		err := n.raft.Shutdown().Error()
		transport.CloseStreams() // those to peers; Close leaves them open
		return errors.Join(err, transport.Close(), log.Close())
	}, notify, nil
}

func (n *Node) raftConfig(notify chan bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.cfg.ID)
	c.HeartbeatTimeout, c.ElectionTimeout = n.cfg.Election, n.cfg.Election
	c.LeaderLeaseTimeout = n.cfg.Election / 2
	c.CommitTimeout = n.cfg.Election / 20
	c.SnapshotThreshold = n.cfg.SnapshotEvery
	c.NotifyCh = notify
	return c
}

// bootstrap begins a cluster on its very first start. All nodes begin with the
// same configuration, so that it does not matter who is first.
func (n *Node) bootstrap(log *wal.WAL, snaps raft.SnapshotStore, t raft.Transport, conf *raft.Config) error {
	has, err := raft.HasExistingState(log, log, snaps)
	if err != nil || has {
		return err
	}
	var all raft.Configuration
	for _, p := range n.cfg.Peers {
		all.Servers = append(all.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.RaftAddr)})
	}
	return raft.BootstrapCluster(conf, log, log, snaps, t, all)
}

func (n *Node) waitForLeader(ctx context.Context, listening <-chan struct{}, served chan error) error {
	select {
	case <-listening:
	case err := <-served:
		served <- nil
		return err
	case <-ctx.Done():
		return nil
	}
	limit := time.NewTimer(leaderWait)
	defer limit.Stop()
	look := time.NewTicker(n.cfg.Election / 20)
	defer look.Stop()
	for {
		_, id := n.raft.LeaderWithID()
		known := false
		n.fsm.read(func(s *state.State) { known = s.Initialised() })
		if id != "" && known {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil
		case <-n.fsm.halt:
			return n.fsm.why()
		case <-limit.C:
			n.log.Warn("no leader yet; serving what needs none", "dur", leaderWait)
			return nil
		}
	}
}

// by is who asks for a change, and from where.
type by struct {
	actor, from string
	token       string // id of the operator token
}

// propose puts an entry into the log and waits until it is applied here. The audit
// id is the entry's.
func (n *Node) propose(t state.Type, who by, body any) (audit string, index uint64, err error) {
	e, err := state.NewEntry(t, n.deps.Now(), body)
	if err != nil {
		return "", 0, err
	}
	e.Actor, e.From = who.actor, who.from
	if who.actor != "" {
		e.Audit = ids.New(ids.Audit)
	}
	b, err := e.Encode()
	if err != nil {
		return "", 0, problem.Wrap(err, problem.Internal, "the entry can't be encoded")
	}
	f := n.raft.Apply(b, proposeMax)
	began := time.Now()
	err = n.await(f)
	n.metrics.proposals.WithLabelValues(outcome(err)).Observe(time.Since(began).Seconds())
	if err != nil {
		return "", 0, raftError(err)
	}
	if a, ok := f.Response().(applied); ok && a.err != nil {
		return "", 0, a.err
	}
	return e.Audit, f.Index(), nil
}

func outcome(err error) string {
	if err != nil {
		return "failed"
	}
	return "done"
}

func raftError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrRaftShutdown):
		return notLeading(err)
	default: // leadership lost: it may have been committed
		return problem.Wrap(err, problem.Unknown, "the control plane lost its leader on the way; look whether the change is there")
	}
}

// linearizable returns when this node's state holds everything that was answered
// before the call. In its own term a leader has applied whatever it answered; what
// earlier leaders answered it has applied once a barrier of its term is through.
// So a read costs a round of heartbeats, and only a term's first an entry.
func (n *Node) linearizable() error {
	term := n.raft.CurrentTerm()
	if n.caughtUp.Load() != term {
		if err := n.await(n.raft.Barrier(proposeMax)); err != nil {
			return notLeading(err)
		}
	}
	if err := n.await(n.raft.VerifyLeader()); err != nil {
		return notLeading(err)
	}
	if n.raft.CurrentTerm() != term { // it may have lost and regained the lead meanwhile
		return notLeading(raft.ErrLeadershipLost)
	}
	n.caughtUp.Store(term)
	return nil
}

func notLeading(err error) error {
	return problem.Wrap(err, problem.Unavailable, "this node does not lead now; try again")
}
