package controlplane

import (
	"context"
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
	var applied uint64 // Raft's own index is ahead of the state, and a watch from there would miss something
	a.n.fsm.read(func(s *state.State) { applied = s.Index })
	return connect.NewResponse(&controlv1.GetStatusResponse{
		Node: a.n.cfg.ID, Leader: string(leader), Role: a.n.raft.State().String(), AppliedIndex: applied,
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
	done, err := a.create(ctx, r.Msg.GetMutation(), state.CreateToken, t)
	if err != nil {
		return nil, err
	}
	a.n.fsm.read(func(s *state.State) {
		if stored, ok := s.Tokens[t.ID]; ok {
			t = stored
		}
	})
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
	if to == a.n.cfg.ID {
		return nil, problem.New(problem.Conflict, "node %s leads already", to)
	}
	if _, ok := a.n.cfg.peer(to); to != "" && !ok {
		return nil, problem.New(problem.NotFound, "there is no node %.80q", to)
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
	return connect.NewResponse(&controlv1.TransferLeaderResponse{Leader: a.newLeader(ctx)}), nil
}

// newLeader waits a little for the one that was elected in this node's place.
func (a *api) newLeader(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*a.n.cfg.Election)
	defer cancel()
	for {
		_, id := a.n.raft.LeaderWithID()
		if (id != "" && string(id) != a.n.cfg.ID) || !pause(ctx, a.n.cfg.Election/20) {
			return string(id)
		}
	}
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
	if err := to.Send(nil); err != nil { // the headers: callers wait for them, and the first change may be far off
		return err
	}
	at, token := r.Msg.GetAfterIndex(), whoAsks(ctx).token
	for {
		known := false
		a.n.fsm.read(func(s *state.State) { _, known = s.Tokens[token] })
		if !known {
			return problem.New(problem.Unauthentic, "the operator token was revoked")
		}
		changes, grown, ok := a.n.fsm.after(at)
		if !ok {
			return problem.New(problem.Precond, "what changed after index %d is no longer known: list again, then watch", at)
		}
		for _, c := range changes {
			at = c.index
			if c.kind == "init" || c.kind == "signing_key" {
				continue
			}
			err := to.Send(&controlv1.WatchResponse{Index: c.index, Kind: c.kind, Id: c.id, Action: c.action})
			if err != nil {
				return err
			}
		}
		select {
		case <-grown:
		case <-a.stopping:
			return problem.New(problem.Unavailable, "this node stops; watch at another from index %d on", at)
		case <-ctx.Done():
			return nil
		}
	}
}
