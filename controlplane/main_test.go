package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"parley/controlplane"
	"parley/controlplane/controltest"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/pki"
	"parley/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller is a client of one node that fails the test where a call must succeed.
type caller struct {
	controlv1connect.ControlServiceClient

	t *testing.T
}

func at(n *controltest.Node, t *testing.T) caller { //nolint:thelper // at(node, t).region(…) reads as what it does
	t.Helper()
	return caller{n.Client(controltest.Secret), t}
}

func must[T any](t *testing.T, r *connect.Response[T], err error) *T {
	t.Helper()
	if err != nil {
		t.Fatalf("%v: %v", controlplane.KindOf(err), err)
	}
	return r.Msg
}

func (c caller) region(id string, etcd ...string) *controlv1.CreateRegionResponse {
	c.t.Helper()
	if len(etcd) == 0 {
		etcd = []string{"127.0.0.1:1"} // nobody listens there
	}
	r, err := c.CreateRegion(c.t.Context(), connect.NewRequest(&controlv1.CreateRegionRequest{Region: &controlv1.Region{Id: id, EtcdEndpoints: etcd}}))
	return must(c.t, r, err)
}

func (c caller) cell(id, region string) *controlv1.CreateCellResponse {
	c.t.Helper()
	r, err := c.CreateCell(c.t.Context(), connect.NewRequest(&controlv1.CreateCellRequest{Cell: &controlv1.Cell{Id: id, Region: region}}))
	return must(c.t, r, err)
}

func (c caller) workspace(slug, region string) *controlv1.Workspace {
	c.t.Helper()
	r, err := c.CreateWorkspace(c.t.Context(), connect.NewRequest(&controlv1.CreateWorkspaceRequest{Workspace: &controlv1.Workspace{Slug: slug, HomeRegion: region}}))
	return must(c.t, r, err).GetWorkspace()
}

func (c caller) see(workspace string) *controlv1.Workspace {
	c.t.Helper()
	r, err := c.GetWorkspace(c.t.Context(), connect.NewRequest(&controlv1.GetWorkspaceRequest{Workspace: workspace}))
	return must(c.t, r, err).GetWorkspace()
}

// regions are the ids of all, as this node tells after the leader.
func (c caller) regions() []string {
	c.t.Helper()
	r, err := c.ListRegions(c.t.Context(), connect.NewRequest(&controlv1.ListRegionsRequest{}))
	var ids []string
	for _, row := range must(c.t, r, err).GetRegions() {
		ids = append(ids, row.GetId())
	}
	return ids
}

func (c caller) status() *controlv1.GetStatusResponse {
	c.t.Helper()
	r, err := c.GetStatus(c.t.Context(), connect.NewRequest(&controlv1.GetStatusRequest{}))
	return must(c.t, r, err)
}

func (c caller) audit(size int32, token string) *controlv1.ListAuditResponse {
	c.t.Helper()
	r, err := c.ListAudit(c.t.Context(), connect.NewRequest(&controlv1.ListAuditRequest{Page: &controlv1.Page{Size: size, Token: token}}))
	return must(c.t, r, err)
}

// refused checks kind and field of an error.
func refused(t *testing.T, err error, kind problem.Kind, field string) {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) || controlplane.KindOf(err) != kind || e.Meta().Get(controlplane.HeaderField) != field {
		t.Errorf("%v: want kind %s, field %q", err, kind, field)
	}
}

// retried makes a change again and again while there is no leader to make it, as
// every client has to. A change that was made though nobody said so is found.
func retried(t *testing.T, what string, do func(ctx context.Context) error) {
	t.Helper()
	controltest.Await(t, what, func() bool {
		err := do(t.Context())
		switch k := controlplane.KindOf(err); {
		case err == nil, k == problem.Conflict:
			return true
		case k == problem.Unavailable, k == problem.Unknown:
			return false
		default:
			t.Fatalf("%s: %s: %v", what, k, err)
			return false
		}
	})
}

func createRegion(n *controltest.Node, id string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := n.Client(controltest.Secret).CreateRegion(ctx, connect.NewRequest(&controlv1.CreateRegionRequest{
			Region: &controlv1.Region{Id: id, EtcdEndpoints: []string{"127.0.0.1:1"}},
		}))
		return err
	}
}

// edge is who reads a registry.
func edge(region string) pki.Identity {
	return pki.Identity{Role: pki.RoleEdge, Name: "edge-" + region}
}

func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("r%02d", i)
	}
	return out
}
