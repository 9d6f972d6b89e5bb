package controlplane

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/problem"
)

// chunk is how much of a snapshot goes in one message.
const chunk = 1 << 20

// SaveSnapshot implements the service: the state as of now, in pieces.
func (a *api) SaveSnapshot(ctx context.Context, _ *connect.Request[controlv1.SaveSnapshotRequest], to *connect.ServerStream[controlv1.SaveSnapshotResponse]) error {
	if err := a.n.linearizable(); err != nil {
		return err
	}
	if _, _, err := a.n.propose(state.Note, whoAsks(ctx), state.NoteBody{Action: "raft.snapshot_save"}); err != nil {
		return err
	}
	var s *state.State
	a.n.fsm.read(func(now *state.State) { s = now.Clone() })
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(s.Write(w)) }() // never fails
	defer func() { _ = r.Close() }()                 // ends the writer
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := to.Send(&controlv1.SaveSnapshotResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// snapshotBytesMax bounds a snapshot that is handed in: a million workspaces have
// about 400 MB.
const snapshotBytesMax = 2 << 30

// RestoreSnapshot implements the service: all nodes go back to a snapshot.
func (a *api) RestoreSnapshot(ctx context.Context, from *connect.ClientStream[controlv1.RestoreSnapshotRequest]) (*connect.Response[controlv1.RestoreSnapshotResponse], error) {
	s, err := state.Read(&received{from: from}) // before the others see it
	if failed := from.Err(); failed != nil {
		return nil, failed // not the snapshot's fault
	}
	if err != nil {
		return nil, err
	}
	if !s.Initialised() || len(s.Tokens) == 0 {
		return nil, problem.New(problem.Invalid, "the snapshot is of a control plane that was never started")
	}
	if err := a.n.restore(s); err != nil {
		return nil, err
	}
	audit, index, err := a.n.propose(state.Note, whoAsks(ctx), state.NoteBody{Action: "raft.snapshot_restore"})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.RestoreSnapshotResponse{Done: &controlv1.Done{AuditId: audit, Index: index}}), nil
}

// received is the bytes of a snapshot that is handed in.
type received struct {
	from *connect.ClientStream[controlv1.RestoreSnapshotRequest]
	rest []byte
	size int64
}

// Read implements io.Reader.
func (r *received) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if !r.from.Receive() {
			return 0, io.EOF
		}
		r.rest = r.from.Msg().GetData()
		if r.size += int64(len(r.rest)); r.size > snapshotBytesMax {
			return 0, problem.New(problem.TooLarge, "the snapshot has more than %d bytes", int64(snapshotBytesMax))
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// restoreFiles are restore's; one that a crash left holds signing keys.
const restoreFiles = "restore-*"

func removeLeftovers(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, restoreFiles))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// restoreAhead is how far above its log the leader puts a restored state: what is
// proposed until Raft takes it must stay below.
const restoreAhead = 1 << 16

// restore takes all nodes to a state, as of an index that is higher than any before,
// here and where the state comes from. So watchers and publishers see that time went
// on, and no object's version comes twice.
func (n *Node) restore(s *state.State) (err error) {
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: max(s.Index, n.raft.LastIndex()) + restoreAhead, Term: 1}
	s.Index = meta.Index + 1 // Raft adds the one
	f, err := os.CreateTemp(n.cfg.Dir, restoreFiles)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "the snapshot can't be stored")
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := s.Write(f); err != nil {
		return problem.Wrap(err, problem.Internal, "the snapshot can't be stored")
	}
	if meta.Size, err = f.Seek(0, io.SeekCurrent); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return problem.Wrap(err, problem.Internal, "the snapshot can't be stored")
	}
	if err := n.raft.Restore(meta, f, 2*ioMax); err != nil {
		return problem.Wrap(err, problem.Unknown, "the snapshot was not restored: %v", err)
	}
	return nil
}
