package controlplane

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"connectrpc.com/connect"
	"github.com/hashicorp/raft"

	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/ids"
	"parley/internal/problem"
)

// GetStatus implements the service.
func (a *api) GetStatus(context.Context, *connect.Request[controlv1.GetStatusRequest]) (*connect.Response[controlv1.GetStatusResponse], error) {
	_, leader := a.n.raft.LeaderWithID()
	return connect.NewResponse(&controlv1.GetStatusResponse{
		Node: a.n.cfg.ID, Leader: string(leader), Role: a.n.raft.State().String(), AppliedIndex: a.n.raft.AppliedIndex(),
		Published: a.n.lead.publishedIndexes(),
	}), nil
}

// ListOperatorTokens implements the service.
func (a *api) ListOperatorTokens(_ context.Context, r *connect.Request[controlv1.ListOperatorTokensRequest]) (*connect.Response[controlv1.ListOperatorTokensResponse], error) {
	after, size, err := page(r.Msg.GetPage())
	if err == nil {
		err = a.fresh(r.Header())
	}
	if err != nil {
		return nil, err
	}
	var rows []state.OperatorToken
	a.n.fsm.read(func(s *state.State) { rows = state.Sorted(s.Tokens, after, size+1) })
	rows, next := cut(rows, size, func(t state.OperatorToken) string { return t.ID })
	out := &controlv1.ListOperatorTokensResponse{NextPageToken: next}
	for _, t := range rows {
		out.Tokens = append(out.Tokens, tokenProto(t))
	}
	return connect.NewResponse(out), nil
}

func tokenProto(t state.OperatorToken) *controlv1.OperatorToken {
	return &controlv1.OperatorToken{Id: t.ID, Name: t.Name, Version: t.Version, CreatedUs: t.Created}
}

// CreateOperatorToken implements the service.
func (a *api) CreateOperatorToken(ctx context.Context, r *connect.Request[controlv1.CreateOperatorTokenRequest]) (*connect.Response[controlv1.CreateOperatorTokenResponse], error) {
	secret := newSecret()
	t := state.OperatorToken{ID: ids.New(ids.Operator), Name: r.Msg.GetName(), Hash: state.HashSecret(secret)}
	done, err := a.change(ctx, r.Msg.GetMutation(), state.CreateToken, t)
	if err != nil {
		return nil, err
	}
	if r.Msg.GetMutation().GetDryRun() {
		secret = ""
	}
	return connect.NewResponse(&controlv1.CreateOperatorTokenResponse{OperatorToken: tokenProto(t), Secret: secret, Done: done}), nil
}

// RevokeOperatorToken implements the service.
func (a *api) RevokeOperatorToken(ctx context.Context, r *connect.Request[controlv1.RevokeOperatorTokenRequest]) (*connect.Response[controlv1.RevokeOperatorTokenResponse], error) {
	m := r.Msg.GetMutation()
	done, err := a.change(ctx, m, state.RevokeToken, state.RevokeBody{ID: r.Msg.GetId(), Expected: m.GetExpectedVersion()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.RevokeOperatorTokenResponse{Done: done}), nil
}

// ListPeers implements the service.
func (a *api) ListPeers(context.Context, *connect.Request[controlv1.ListPeersRequest]) (*connect.Response[controlv1.ListPeersResponse], error) {
	f := a.n.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the configuration can't be read")
	}
	_, leader := a.n.raft.LeaderWithID()
	out := &controlv1.ListPeersResponse{}
	for _, s := range f.Configuration().Servers {
		p, _ := a.n.cfg.peer(string(s.ID)) // a peer that this node's config lacks has no URL here
		out.Peers = append(out.Peers, &controlv1.Peer{
			Id: string(s.ID), Address: string(s.Address), ApiUrl: p.APIURL, Leader: s.ID == leader, Voter: s.Suffrage == raft.Voter,
		})
	}
	return connect.NewResponse(out), nil
}

// TransferLeader implements the service.
func (a *api) TransferLeader(ctx context.Context, r *connect.Request[controlv1.TransferLeaderRequest]) (*connect.Response[controlv1.TransferLeaderResponse], error) {
	to := r.Msg.GetTo()
	if to != "" {
		if _, ok := a.n.cfg.peer(to); !ok {
			return nil, problem.New(problem.NotFound, "there is no node %q", to)
		}
	}
	if _, _, err := a.n.propose(state.Note, whoAsks(ctx), state.NoteBody{Action: "raft.transfer_leader", Object: to}); err != nil {
		return nil, err
	}
	var f raft.Future
	if to == "" {
		f = a.n.raft.LeadershipTransfer()
	} else {
		p, _ := a.n.cfg.peer(to) // looked up above
		f = a.n.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(p.RaftAddr))
	}
	if err := f.Error(); err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "leadership was not handed over: %v", err)
	}
	_, id := a.n.raft.LeaderWithID()
	return connect.NewResponse(&controlv1.TransferLeaderResponse{Leader: string(id)}), nil
}

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
func (a *api) RestoreSnapshot(ctx context.Context, from *connect.ClientStream[controlv1.RestoreSnapshotRequest]) (_ *connect.Response[controlv1.RestoreSnapshotResponse], err error) {
	f, err := os.CreateTemp(a.n.cfg.Dir, "restore-*")
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "the snapshot can't be stored")
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(filepath.Clean(f.Name()))) }()
	size := int64(0)
	for from.Receive() {
		n, err := f.Write(from.Msg().GetData())
		if size += int64(n); err == nil && size > snapshotBytesMax {
			err = problem.New(problem.TooLarge, "the snapshot has more than %d bytes", int64(snapshotBytesMax))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := from.Err(); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	s, err := state.Read(f) // before the others see it
	if err != nil {
		return nil, err
	}
	if !s.Initialised() {
		return nil, problem.New(problem.Invalid, "the snapshot is of a control plane that was never started")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Size: size, Index: a.n.raft.LastIndex(), Term: 1}
	if err := a.n.raft.Restore(meta, f, 2*ioMax); err != nil {
		return nil, problem.Wrap(err, problem.Unknown, "the snapshot was not restored: %v", err)
	}
	audit, index, err := a.n.propose(state.Note, whoAsks(ctx), state.NoteBody{Action: "raft.snapshot_restore"})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.RestoreSnapshotResponse{Done: &controlv1.Done{AuditId: audit, Index: index}}), nil
}

// ListAudit implements the service.
func (a *api) ListAudit(_ context.Context, r *connect.Request[controlv1.ListAuditRequest]) (*connect.Response[controlv1.ListAuditResponse], error) {
	after, size, err := page(r.Msg.GetPage())
	if err == nil {
		err = a.fresh(r.Header())
	}
	if err != nil {
		return nil, err
	}
	before := ^uint64(0)
	if after != "" {
		if before, err = strconv.ParseUint(after, 10, 64); err != nil {
			return nil, problem.Field("page.token", "is not from a page before")
		}
	}
	out := &controlv1.ListAuditResponse{}
	a.n.fsm.read(func(s *state.State) {
		for _, e := range slices.Backward(s.Audits) {
			if e.Index >= before {
				continue
			}
			if len(out.Entries) == size {
				out.NextPageToken = strconv.FormatUint(out.GetEntries()[size-1].GetIndex(), 10)
				return
			}
			out.Entries = append(out.Entries, &controlv1.AuditEntry{
				Id: e.ID, AtUs: e.At, Actor: e.Actor, From: e.From, Action: e.Action, Object: e.Object, Index: e.Index,
			})
		}
	})
	return connect.NewResponse(out), nil
}

// Watch implements the service.
func (a *api) Watch(ctx context.Context, r *connect.Request[controlv1.WatchRequest], to *connect.ServerStream[controlv1.WatchResponse]) error {
	at := r.Msg.GetAfterIndex()
	for {
		changes, grown, ok := a.n.fsm.after(at)
		if !ok {
			return problem.New(problem.Precond, "what changed after index %d is no longer known: list again, then watch", at)
		}
		for _, c := range changes {
			at = c.index
			err := to.Send(&controlv1.WatchResponse{Index: c.index, Kind: c.kind, Id: c.id, Action: c.action})
			if err != nil {
				return err
			}
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil
		}
	}
}
