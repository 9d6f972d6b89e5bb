package controlplane

import (
	"context"

	"connectrpc.com/connect"

	"parley/controlplane/state"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/regions"
)

// create carries out the mutation that makes an object.
func (a *api) create(ctx context.Context, m *controlv1.Mutation, t state.Type, body any) (*controlv1.Done, error) {
	if m.GetExpectedVersion() != 0 {
		return nil, problem.Field("mutation.expected_version", "must be 0: what is to be created has no version yet")
	}
	return a.change(ctx, m, t, body)
}

// change carries out a mutation, or only tries it on a copy of the state.
func (a *api) change(ctx context.Context, m *controlv1.Mutation, t state.Type, body any) (*controlv1.Done, error) {
	if m.GetDryRun() {
		if err := a.n.linearizable(); err != nil {
			return nil, err
		}
		e, err := state.NewEntry(t, a.n.deps.Now(), body)
		if err != nil {
			return nil, err
		}
		var trial *state.State
		a.n.fsm.read(func(s *state.State) { trial = s.Clone() })
		return &controlv1.Done{}, trial.Apply(trial.Index+1, e)
	}
	audit, index, err := a.n.propose(t, whoAsks(ctx), body)
	if err != nil {
		return nil, err
	}
	return &controlv1.Done{AuditId: audit, Index: index}, nil
}

// ListRegions implements the service.
func (a *api) ListRegions(_ context.Context, r *connect.Request[controlv1.ListRegionsRequest]) (*connect.Response[controlv1.ListRegionsResponse], error) {
	after, size, err := page(r.Msg.GetPage())
	if err == nil {
		err = a.fresh(r.Header())
	}
	if err != nil {
		return nil, err
	}
	var rows []state.Region
	a.n.fsm.read(func(s *state.State) { rows = state.Sorted(s.Regions, after, size+1) })
	rows, next := cut(rows, size, func(r state.Region) string { return r.ID })
	out := &controlv1.ListRegionsResponse{NextPageToken: next}
	for _, row := range rows {
		out.Regions = append(out.Regions, regionProto(row))
	}
	return connect.NewResponse(out), nil
}

func regionProto(r state.Region) *controlv1.Region {
	return &controlv1.Region{Id: r.ID, EtcdEndpoints: r.Etcd, Version: r.Version, CreatedUs: r.Created}
}

// GetRegion implements the service.
func (a *api) GetRegion(_ context.Context, r *connect.Request[controlv1.GetRegionRequest]) (*connect.Response[controlv1.GetRegionResponse], error) {
	if err := a.fresh(r.Header()); err != nil {
		return nil, err
	}
	row, err := a.region(r.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.GetRegionResponse{Region: regionProto(row)}), nil
}

func (a *api) region(id string) (row state.Region, err error) {
	ok := false
	a.n.fsm.read(func(s *state.State) { row, ok = s.Regions[id] })
	if !ok {
		err = problem.New(problem.NotFound, "there is no region %q", id)
	}
	return row, err
}

// CreateRegion implements the service.
func (a *api) CreateRegion(ctx context.Context, r *connect.Request[controlv1.CreateRegionRequest]) (*connect.Response[controlv1.CreateRegionResponse], error) {
	in := r.Msg.GetRegion()
	row := state.Region{ID: in.GetId(), Etcd: in.GetEtcdEndpoints()}
	done, err := a.create(ctx, r.Msg.GetMutation(), state.CreateRegion, row)
	if err != nil {
		return nil, err
	}
	if stored, err := a.region(row.ID); err == nil {
		row = stored
	}
	return connect.NewResponse(&controlv1.CreateRegionResponse{Region: regionProto(row), Done: done}), nil
}

// ListCells implements the service.
func (a *api) ListCells(_ context.Context, r *connect.Request[controlv1.ListCellsRequest]) (*connect.Response[controlv1.ListCellsResponse], error) {
	after, size, err := page(r.Msg.GetPage())
	if err == nil {
		err = a.fresh(r.Header())
	}
	if err != nil {
		return nil, err
	}
	var rows []state.Cell
	a.n.fsm.read(func(s *state.State) { rows = state.Sorted(s.Cells, after, size+1) })
	rows, next := cut(rows, size, func(c state.Cell) string { return c.ID })
	out := &controlv1.ListCellsResponse{NextPageToken: next}
	for _, row := range rows {
		out.Cells = append(out.Cells, a.cellProto(row))
	}
	return connect.NewResponse(out), nil
}

func (a *api) cellProto(c state.Cell) *controlv1.Cell {
	out := &controlv1.Cell{
		Id: c.ID, Region: c.Region, State: c.State, Version: c.Version, CreatedUs: c.Created,
		Capacity: &controlv1.Capacity{Workspaces: c.Capacity.Workspaces, Connections: c.Capacity.Connections, PostsPerS: c.Capacity.PostsPerS},
	}
	a.n.fsm.read(func(s *state.State) {
		n, _ := s.PlacedIn(c.ID)
		out.Workspaces = int64(n)
	})
	if l, ok := a.n.lead.loads()[topology.CellID(c.ID)]; ok {
		out.Load = loadProto(l)
	}
	return out
}

func loadProto(l regions.Load) *controlv1.Load {
	return &controlv1.Load{
		Connections: int64(l.Connections), PostsPerS: l.PostsPerS, DeliveriesPerS: l.DeliveriesPerS, ReportedUs: l.At.UnixMicro(),
	}
}

func (a *api) cell(id string) (row state.Cell, err error) {
	ok := false
	a.n.fsm.read(func(s *state.State) { row, ok = s.Cells[id] })
	if !ok {
		err = problem.New(problem.NotFound, "there is no cell %q", id)
	}
	return row, err
}

// GetCell implements the service.
func (a *api) GetCell(_ context.Context, r *connect.Request[controlv1.GetCellRequest]) (*connect.Response[controlv1.GetCellResponse], error) {
	if err := a.fresh(r.Header()); err != nil {
		return nil, err
	}
	row, err := a.cell(r.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.GetCellResponse{Cell: a.cellProto(row)}), nil
}

// CreateCell implements the service.
func (a *api) CreateCell(ctx context.Context, r *connect.Request[controlv1.CreateCellRequest]) (*connect.Response[controlv1.CreateCellResponse], error) {
	in := r.Msg.GetCell()
	row := state.Cell{ID: in.GetId(), Region: in.GetRegion(), State: state.CellActive, Capacity: state.Capacity{
		Workspaces: in.GetCapacity().GetWorkspaces(), Connections: in.GetCapacity().GetConnections(), PostsPerS: in.GetCapacity().GetPostsPerS(),
	}}
	done, err := a.create(ctx, r.Msg.GetMutation(), state.CreateCell, row)
	if err != nil {
		return nil, err
	}
	if stored, err := a.cell(row.ID); err == nil {
		row = stored
	}
	return connect.NewResponse(&controlv1.CreateCellResponse{Cell: a.cellProto(row), Done: done}), nil
}

// SetCellState implements the service.
func (a *api) SetCellState(ctx context.Context, r *connect.Request[controlv1.SetCellStateRequest]) (*connect.Response[controlv1.SetCellStateResponse], error) {
	m := r.Msg.GetMutation()
	body := state.CellStateBody{ID: r.Msg.GetId(), State: r.Msg.GetState(), Expected: m.GetExpectedVersion()}
	done, err := a.change(ctx, m, state.SetCellState, body)
	if err != nil {
		return nil, err
	}
	row, err := a.cell(body.ID)
	if err != nil {
		return nil, err
	}
	if m.GetDryRun() {
		row.State = body.State
	}
	return connect.NewResponse(&controlv1.SetCellStateResponse{Cell: a.cellProto(row), Done: done}), nil
}
