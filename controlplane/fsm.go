package controlplane

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
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

// changesMax is how many changes are remembered at least, and twice that at most:
// who is further behind reads everything anew.
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
		f.stopped = fmt.Errorf("entry %d: %w", l.Index, err)
		close(f.halt)
		return applied{f.stopped}
	}
	if err := f.state.Apply(l.Index, e); err != nil {
		return applied{err}
	}
	if e.Type == state.Note {
		return applied{} // nothing that anybody waits for
	}
	kind, action, _ := strings.Cut(string(e.Type), ".")
	f.note(change{index: l.Index, kind: kind, action: action, id: objectID(e)})
	return applied{}
}

// note remembers a change and wakes who waits. The caller holds f.mu.
func (f *fsm) note(c change) {
	f.changes = append(f.changes, c)
	if over := len(f.changes) - changesMax; over >= changesMax {
		f.since = f.changes[over-1].index
		f.changes = slices.Clone(f.changes[over:]) // readers hold the old ones
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

// why is the error that stopped it, if one has.
func (f *fsm) why() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.stopped
}

// growing is closed at the next change. Take it before reading, so that no change
// is missed.
func (f *fsm) growing() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.grown
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
	i, found := slices.BinarySearchFunc(f.changes, index, func(c change, index uint64) int { return cmp.Compare(c.index, index) })
	if found {
		i++
	}
	cs = slices.Clip(f.changes[i:])
	return cs, f.grown, index >= f.since && (len(cs) == 0 || !cs[0].nothingKnown)
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
