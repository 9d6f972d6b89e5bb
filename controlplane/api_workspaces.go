package controlplane

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/ids"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/placement"
)

// ListWorkspaces implements the service.
func (a *api) ListWorkspaces(_ context.Context, r *connect.Request[controlv1.ListWorkspacesRequest]) (*connect.Response[controlv1.ListWorkspacesResponse], error) {
	after, size, err := page(r.Msg.GetPage())
	if err == nil {
		err = a.fresh(r.Header())
	}
	if err != nil {
		return nil, err
	}
	var rows []state.Workspace
	a.n.fsm.read(func(s *state.State) { rows = state.Sorted(s.Workspaces, after, size+1) })
	rows, next := cut(rows, size, func(w state.Workspace) string { return w.ID })
	out := &controlv1.ListWorkspacesResponse{NextPageToken: next}
	for _, row := range rows {
		out.Workspaces = append(out.Workspaces, workspaceProto(row))
	}
	return connect.NewResponse(out), nil
}

func workspaceProto(w state.Workspace) *controlv1.Workspace {
	return &controlv1.Workspace{
		Id: w.ID, Slug: w.Slug, Name: w.Name, HomeRegion: w.HomeRegion, Residency: w.Residency, Pin: w.Pin,
		AntiAffinity: w.AntiAffinity, State: w.State, Cell: w.Cell, Epoch: w.Epoch, Generation: w.Generation,
		Version: w.Version, CreatedUs: w.Created,
	}
}

func (a *api) workspace(name string) (row state.Workspace, err error) {
	a.n.fsm.read(func(s *state.State) { row, err = s.Workspace(name) })
	return row, err
}

// GetWorkspace implements the service.
func (a *api) GetWorkspace(_ context.Context, r *connect.Request[controlv1.GetWorkspaceRequest]) (*connect.Response[controlv1.GetWorkspaceResponse], error) {
	if err := a.fresh(r.Header()); err != nil {
		return nil, err
	}
	row, err := a.workspace(r.Msg.GetWorkspace())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.GetWorkspaceResponse{Workspace: workspaceProto(row)}), nil
}

// placeTries is how often a workspace's place is chosen anew because others were
// placed meanwhile.
const placeTries = 5

// CreateWorkspace implements the service.
func (a *api) CreateWorkspace(ctx context.Context, r *connect.Request[controlv1.CreateWorkspaceRequest]) (*connect.Response[controlv1.CreateWorkspaceResponse], error) {
	if err := a.n.linearizable(); err != nil {
		return nil, err
	}
	in := r.Msg.GetWorkspace()
	row := state.Workspace{
		ID: ids.New(ids.Workspace), Slug: in.GetSlug(), Name: in.GetName(), HomeRegion: in.GetHomeRegion(),
		Residency: in.GetResidency(), Pin: in.GetPin(), AntiAffinity: in.GetAntiAffinity(),
	}
	if row.Name == "" {
		row.Name = row.Slug
	}
	if _, err := a.region(row.HomeRegion); err != nil {
		return nil, problem.Field("workspace.home_region", "there is no region %q", row.HomeRegion)
	}
	var decision placement.Decision
	var done *controlv1.Done
	for try := 1; ; try++ {
		if decision = a.decide(row); decision.Cell == "" {
			return nil, problem.New(problem.Conflict, "no cell may take the workspace:\n%s", decision.Why())
		}
		row.Cell = string(decision.Cell)
		var err error
		done, err = a.create(ctx, r.Msg.GetMutation(), state.CreateWorkspace, row)
		if err == nil {
			break
		}
		if try == placeTries || !problem.Is(err, problem.Unavailable) { // else another workspace took the place
			return nil, err
		}
	}
	if stored, err := a.workspace(row.ID); err == nil {
		row = stored
	}
	return connect.NewResponse(&controlv1.CreateWorkspaceResponse{
		Workspace: workspaceProto(row), Done: done, Verdicts: verdicts(decision),
	}), nil
}

// decide asks placement, on the state and the cells' last reports.
func (a *api) decide(w state.Workspace) placement.Decision {
	loads := a.n.lead.loads()
	var in placement.State
	a.n.fsm.read(func(s *state.State) {
		for _, c := range state.Sorted(s.Cells, "", len(s.Cells)) {
			n, groups := s.PlacedIn(c.ID)
			if w.Cell == c.ID { // it does not stand in its own way
				n--
				groups = without(groups, w.AntiAffinity)
			}
			l, heard := loads[topology.CellID(c.ID)]
			in.Cells = append(in.Cells, placement.Cell{
				ID: topology.CellID(c.ID), Region: topology.RegionID(c.Region), State: placement.CellState(c.State), Silent: !heard,
				Capacity:   placement.Capacity{Workspaces: int(c.Capacity.Workspaces), Connections: int(c.Capacity.Connections), PostsPerS: c.Capacity.PostsPerS},
				Load:       placement.Load{Connections: l.Connections, PostsPerS: l.PostsPerS},
				Workspaces: n, Groups: groups,
			})
		}
	})
	req := placement.Request{
		Workspace: topology.WorkspaceID(w.ID), HomeRegion: topology.RegionID(w.HomeRegion), Pin: topology.CellID(w.Pin), AntiAffinity: w.AntiAffinity,
	}
	for _, r := range w.Residency {
		req.Residency = append(req.Residency, topology.RegionID(r))
	}
	return placement.Decide(in, req)
}

func without(groups []string, group string) []string {
	for i, g := range groups {
		if g == group && g != "" {
			return append(groups[:i:i], groups[i+1:]...)
		}
	}
	return groups
}

func verdicts(d placement.Decision) []*controlv1.Verdict {
	out := make([]*controlv1.Verdict, 0, len(d.Verdicts))
	for _, v := range d.Verdicts {
		out = append(out, &controlv1.Verdict{
			Cell: string(v.Cell), Allowed: v.OK, Reasons: v.Reasons, Score: v.Score, Chosen: v.Cell == d.Cell,
		})
	}
	return out
}

// ExplainPlacement implements the service.
func (a *api) ExplainPlacement(_ context.Context, r *connect.Request[controlv1.ExplainPlacementRequest]) (*connect.Response[controlv1.ExplainPlacementResponse], error) {
	if err := a.fresh(r.Header()); err != nil {
		return nil, err
	}
	row, err := a.workspace(r.Msg.GetWorkspace())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.ExplainPlacementResponse{
		Workspace: workspaceProto(row), Verdicts: verdicts(a.decide(row)),
	}), nil
}

// Lives of users' tokens.
const (
	ttlNormal = 24 * time.Hour
	ttlMax    = 365 * 24 * time.Hour
)

const userBytesMax = 64 // ours have 27

// IssueToken implements the service.
func (a *api) IssueToken(ctx context.Context, r *connect.Request[controlv1.IssueTokenRequest]) (*connect.Response[controlv1.IssueTokenResponse], error) {
	if err := a.n.linearizable(); err != nil {
		return nil, err
	}
	in := r.Msg
	row, err := a.workspace(in.GetWorkspace())
	if err != nil {
		return nil, err
	}
	ttl := time.Duration(in.GetTtlSeconds()) * time.Second
	if ttl == 0 {
		ttl = ttlNormal
	}
	if in.GetTtlSeconds() < 0 || in.GetTtlSeconds() > int64(ttlMax/time.Second) {
		return nil, problem.Field("ttl_seconds", "must be 1 to %d", int64(ttlMax/time.Second))
	}
	role := in.GetRole()
	if role == "" {
		role = token.RoleMember
	}
	if len(in.GetUserId()) > userBytesMax {
		return nil, problem.Field("user_id", "must have at most %d bytes", userBytesMax)
	}
	now := a.n.deps.Now()
	var key state.SigningKey
	ok := false
	a.n.fsm.read(func(s *state.State) { key, ok = s.Key(now.UnixMicro()) })
	if !ok {
		return nil, problem.New(problem.Unavailable, "no signing key is in use now; look at the nodes' clocks")
	}
	claims := token.Claims{
		User: topology.UserID(in.GetUserId()), Workspace: topology.WorkspaceID(row.ID), Role: role, Expires: now.Add(ttl),
	}
	signed, err := token.Sign(signing(key), claims, now)
	if err != nil {
		return nil, err
	}
	audit, index, err := a.n.propose(state.Note, whoAsks(ctx), state.NoteBody{Action: "token.issue", Object: row.ID + " " + role + " " + in.GetUserId()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.IssueTokenResponse{
		Token: signed, ExpiresUs: claims.Expires.UnixMicro(), Done: &controlv1.Done{AuditId: audit, Index: index},
	}), nil
}
