package controlplane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"parley/internal/failpoint"
	"parley/internal/problem"
)

// Raft's heartbeats go on while its leader's disk hangs (hashicorp/raft#503): the
// others follow a leader that commits nothing, for ever. So each node watches its
// own log. While a write has been under way for diskStallMax the node is mute: its
// peers hear nothing of it and elect another, and who asks it is sent elsewhere.
// When the write is through it hears of the new term, and follows.
//
// diskStallMax is far beyond a slow write (an fsync's p99 is some 10 ms) and, with an
// election of a second or two, within what operators wait for.
const (
	diskStallMax  = 2 * time.Second
	diskStallLook = 100 * time.Millisecond
)

// watchedLog is Raft's log, and since when a write to it has been under way.
type watchedLog struct {
	raft.LogStore
	node  string
	began atomic.Int64 // unix ns; 0 = none
}

// StoreLog implements raft.LogStore.
func (l *watchedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *watchedLog) StoreLogs(es []*raft.Log) error {
	l.began.Store(time.Now().UnixNano())
	defer l.began.Store(0)
	if err := failpoint.Hang(failpoint.RaftAppend, l.node); err != nil {
		return err
	}
	return l.LogStore.StoreLogs(es)
}

// IsMonotonic tells Raft that the log can't have holes, as that of raft-wal.
func (l *watchedLog) IsMonotonic() bool { return true }

// stalled reports whether a write has been under way for too long.
func (l *watchedLog) stalled(now time.Time) bool {
	began := l.began.Load()
	return began != 0 && now.UnixNano()-began > int64(diskStallMax)
}

// stall is whether the node's disk stalls now.
type stall struct {
	mu  sync.Mutex
	on  bool
	hit chan struct{} // closed when it begins; renewed when it ends
}

func newStall() *stall { return &stall{hit: make(chan struct{})} }

func (s *stall) set(on bool) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on == on {
		return false
	}
	s.on = on
	if on {
		close(s.hit)
	} else {
		s.hit = make(chan struct{})
	}
	return true
}

// now is closed while the disk stalls.
func (s *stall) now() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hit
}

func (s *stall) is() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

// watch mutes the node while its log stalls, until ctx ends.
func (n *Node) watch(ctx context.Context, log *watchedLog, layer *streams) {
	t := time.NewTicker(diskStallLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			on := log.stalled(now)
			if !n.stall.set(on) {
				continue
			}
			layer.mute(on)
			if on {
				n.log.Error("the disk of the Raft log stalls; this node is silent until it goes on", "dur", diskStallMax)
			} else {
				n.log.Warn("the disk of the Raft log goes on; this node is back")
			}
		}
	}
}

// await waits for one of Raft's answers, at most proposeMax, and not for a disk
// that stalls.
func (n *Node) await(f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	t := time.NewTimer(proposeMax)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-n.stall.now():
		return errStalled
	case <-t.C:
		return errStalled
	}
}

var errStalled = problem.New(problem.Unknown, "this node's disk stalls")

// Ready says why the node can't serve now; nil when it can.
func (n *Node) Ready() error {
	if n.stall.is() {
		return problem.New(problem.Unavailable, "the disk of the Raft log stalls")
	}
	if !n.up.Load() {
		return problem.New(problem.Unavailable, "Raft is starting")
	}
	if _, id := n.raft.LeaderWithID(); id == "" {
		return problem.New(problem.Unavailable, "no leader is known")
	}
	return nil
}
