package state

import (
	"encoding/json"
	"io"

	"parley/internal/problem"
)

// snapshotVersion is the format that Write writes and the only one Read takes.
const snapshotVersion = 1

type snapshot struct {
	V     int    `json:"v"`
	State *State `json:"state"`
}

// Write writes the whole state.
func (s *State) Write(w io.Writer) error {
	return json.NewEncoder(w).Encode(snapshot{V: snapshotVersion, State: s})
}

// Read reads what Write has written.
func Read(r io.Reader) (*State, error) {
	snap := snapshot{State: New()}
	if err := json.NewDecoder(r).Decode(&snap); err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "this is no snapshot of a control plane")
	}
	if snap.V != snapshotVersion {
		return nil, problem.New(problem.Unsupported, "the snapshot has version %d, this build reads %d", snap.V, snapshotVersion)
	}
	snap.State.index()
	return snap.State, nil
}
