package controlplane

import "parley/controlplane/state"

// Raw puts bytes into the log as they are.
func (n *Node) Raw(b []byte) error { return n.raft.Apply(b, proposeMax).Error() }

// State is a copy of what this node has applied.
func (n *Node) State() *state.State {
	var s *state.State
	n.fsm.read(func(now *state.State) { s = now.Clone() })
	return s
}

// Snapshot makes Raft write one now, and drop the log before it.
func (n *Node) Snapshot() error { return n.raft.Snapshot().Error() }

// KeyAhead and KeyLife are how long a key is known before it signs, and signs.
const (
	KeyAhead = keyAhead
	KeyLife  = keyLife
	TTLMax   = ttlMax
)
