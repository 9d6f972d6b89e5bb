package controlplane

import (
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"parley/controlplane/state"
	"parley/internal/problem"
)

// change is what an entry changed, for watchers and the publisher.
type change struct {
	index        uint64
	kind, id     string
	action       string
	nothingKnown bool // a restore: anything may have changed
}

// changesMax bounds the changes that are remembered: who is further behind reads
// everything anew.
const changesMax = 10_000

// fsm is Raft's state machine: it keeps the state and tells who waits that it
// changed.
type fsm struct {
	mu      sync.RWMutex
	state   *state.State
	stopped error         // why nothing is applied any more (P3)
	halt    chan struct{} // closed with stopped
	grown   chan struct{} // closed and renewed by each change
	changes []change      // the last ones, rising
	since   uint64        // every change after this index is among them
}

func newFSM() *fsm {
	return &fsm{state: state.New(), halt: make(chan struct{}), grown: make(chan struct{})}
}

// applied is an entry's outcome.
type applied struct{ err error }

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return applied{f.stopped}
	}
	e, err := state.DecodeEntry(l.Data)
	if err != nil {
		f.stopped = err
		close(f.halt)
		return applied{err}
	}
	if err := f.state.Apply(l.Index, e); err != nil {
		return applied{err}
	}
	kind, action, _ := strings.Cut(string(e.Type), ".")
	f.note(change{index: l.Index, kind: kind, action: action, id: objectID(e)})
	return applied{}
}

// note remembers a change and wakes who waits. The caller holds f.mu.
func (f *fsm) note(c change) {
	f.changes = append(f.changes, c)
	if over := len(f.changes) - changesMax; over > 0 {
		f.since = f.changes[over-1].index
		f.changes = append([]change(nil), f.changes[over:]...)
	}
	close(f.grown)
	f.grown = make(chan struct{})
}

// Snapshot implements raft.FSM.
//
//nolint:ireturn // Raft asks for it
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.stopped != nil {
		return nil, f.stopped // it would claim entries that were not applied
	}
	return fsmSnapshot{f.state.Clone()}, nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	s, err := state.Read(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.changes, f.since = s, nil, s.Index
	f.note(change{index: s.Index, nothingKnown: true})
	return nil
}

// read gives what do needs of the state.
func (f *fsm) read(do func(s *state.State)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	do(f.state)
}

// after is the changes after an index, and what to wait for; ok is false if they
// are no longer known.
func (f *fsm) after(index uint64) (cs []change, grown <-chan struct{}, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for i := len(f.changes) - 1; i >= 0 && f.changes[i].index > index; i-- {
		cs = append(cs, f.changes[i])
		if f.changes[i].nothingKnown {
			return nil, f.grown, false
		}
	}
	for i, j := 0, len(cs)-1; i < j; i, j = i+1, j-1 {
		cs[i], cs[j] = cs[j], cs[i]
	}
	return cs, f.grown, index >= f.since
}

type fsmSnapshot struct{ state *state.State }

// Persist implements raft.FSMSnapshot.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.state.Write(sink); err != nil {
		return problem.Wrap(errors.Join(err, sink.Cancel()), problem.Internal, "the snapshot can't be written")
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s fsmSnapshot) Release() {}
