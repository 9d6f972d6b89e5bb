package controlplane_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"parley/controlplane"
	"parley/controlplane/controltest"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/problem"
)

// TestAPI shares one cluster: its subtests, in any order but not side by side, use
// regions of their own.
func TestAPI(t *testing.T) {
	c := controltest.Start(t)
	for name, test := range map[string]func(*testing.T, *controltest.Cluster){
		"who may": whoMay, "dry run": dryRun, "versions": versions, "audit": audited, "limits": limits, "watch": watched,
		"peers": peers, "tokens": newTokens, "probes": probes, "faults": faults,
	} {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}

func whoMay(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		for _, secret := range []string{"", "wrong", controltest.Secret + "x"} {
			who := n.Client(secret)
			_, err := who.ListRegions(t.Context(), connect.NewRequest(&controlv1.ListRegionsRequest{}))
			refused(t, err, problem.Unauthentic, "")
			_, err = who.GetStatus(t.Context(), connect.NewRequest(&controlv1.GetStatusRequest{}))
			refused(t, err, problem.Unauthentic, "")
			if connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("code %v", connect.CodeOf(err))
			}
			if s, err := who.Watch(t.Context(), connect.NewRequest(&controlv1.WatchRequest{})); err == nil {
				if s.Receive() {
					t.Errorf("watched: %v", s.Msg())
				}
				refused(t, s.Err(), problem.Unauthentic, "")
				_ = s.Close()
			}
		}
	}
}

func dryRun(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	do := at(c.Follower(), t)
	before := c.Leader().State()
	ask := func(id string, etcd ...string) error {
		r, err := do.CreateRegion(t.Context(), connect.NewRequest(&controlv1.CreateRegionRequest{
			Region: &controlv1.Region{Id: id, EtcdEndpoints: etcd}, Mutation: &controlv1.Mutation{DryRun: true},
		}))
		if err == nil && (r.Msg.GetDone().GetAuditId() != "" || r.Msg.GetDone().GetIndex() != 0) {
			t.Errorf("done: %v", r.Msg.GetDone())
		}
		return err
	}
	if err := ask("dry", "h:1"); err != nil {
		t.Error(err)
	}
	refused(t, ask("dry"), problem.Invalid, "region.etcd_endpoints")
	refused(t, ask("Dry", "h:1"), problem.Invalid, "region.id")
	tok, err := do.CreateOperatorToken(t.Context(), connect.NewRequest(&controlv1.CreateOperatorTokenRequest{Name: "x", Mutation: &controlv1.Mutation{DryRun: true}}))
	if must(t, tok, err).GetSecret() != "" {
		t.Error("a secret that is none")
	}
	if now := c.Leader().State(); now.Index != before.Index || len(now.Regions) != len(before.Regions) || len(now.Tokens) != len(before.Tokens) || len(now.Audits) != len(before.Audits) {
		t.Error("something has changed")
	}
}

func versions(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	do := at(c.Follower(), t)
	do.region("versions")
	made := do.cell("versions-1", "versions").GetCell()
	set := func(to string, expected uint64, dry bool) (*controlv1.Cell, error) {
		r, err := do.SetCellState(t.Context(), connect.NewRequest(&controlv1.SetCellStateRequest{
			Id: "versions-1", State: to, Mutation: &controlv1.Mutation{ExpectedVersion: expected, DryRun: dry},
		}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetCell(), nil
	}
	_, err := set("cordoned", made.GetVersion()+1, true)
	refused(t, err, problem.Precond, "")
	_, err = set("cordoned", made.GetVersion()+1, false)
	refused(t, err, problem.Precond, "")
	if dry, err := set("cordoned", made.GetVersion(), true); err != nil || dry.GetState() != "cordoned" {
		t.Errorf("dry: %v, %v", dry, err)
	}
	now, err := set("cordoned", made.GetVersion(), false)
	if err != nil || now.GetVersion() <= made.GetVersion() || now.GetState() != "cordoned" {
		t.Errorf("set: %v, %v", now, err)
	}
	_, err = set("active", made.GetVersion(), false)
	refused(t, err, problem.Precond, "")
	_, err = do.CreateRegion(t.Context(), connect.NewRequest(&controlv1.CreateRegionRequest{
		Region: &controlv1.Region{Id: "versions-2", EtcdEndpoints: []string{"h:1"}}, Mutation: &controlv1.Mutation{ExpectedVersion: 1},
	}))
	refused(t, err, problem.Invalid, "mutation.expected_version")
}

func audited(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	for i, n := range []*controltest.Node{c.Leader(), c.Follower()} {
		id := []string{"audit-leader", "audit-follower"}[i]
		liar := n.Client(controltest.Secret, header{"Parley-From": "203.0.113.9"})
		r, err := liar.CreateRegion(t.Context(), connect.NewRequest(&controlv1.CreateRegionRequest{Region: &controlv1.Region{Id: id, EtcdEndpoints: []string{"h:1"}}}))
		done := must(t, r, err).GetDone()
		e := at(n, t).audit(1, "").GetEntries()[0]
		if e.GetId() != done.GetAuditId() || e.GetIndex() != done.GetIndex() || e.GetActor() != "bootstrap" || e.GetFrom() != "127.0.0.1" ||
			e.GetAction() != "region.create" || e.GetObject() != id || time.Since(time.UnixMicro(e.GetAtUs())).Abs() > controltest.Patience {
			t.Errorf("the record: %v; done: %v", e, done)
		}
	}
	// What is refused leaves no record; secrets are in none.
	tok, err := at(c.Leader(), t).CreateOperatorToken(t.Context(), connect.NewRequest(&controlv1.CreateOperatorTokenRequest{Name: "audit"}))
	secret := must(t, tok, err).GetSecret()
	_, err = at(c.Leader(), t).CreateCell(t.Context(), connect.NewRequest(&controlv1.CreateCellRequest{Cell: &controlv1.Cell{Id: "x", Region: "none"}}))
	refused(t, err, problem.Invalid, "cell.region")
	var seen []string
	for token := ""; ; {
		p := at(c.Follower(), t).audit(2, token)
		for _, e := range p.GetEntries() {
			seen = append(seen, e.GetId())
			if text := e.String(); strings.Contains(text, secret) || strings.Contains(text, controltest.Secret) {
				t.Errorf("a secret in %s", text)
			}
		}
		if token = p.GetNextPageToken(); token == "" {
			break
		}
	}
	var want []string
	for _, a := range slices.Backward(c.Leader().State().Audits) {
		want = append(want, a.ID)
	}
	if !slices.Equal(seen, want) {
		t.Errorf("page by page: %v, want %v", seen, want)
	}
}

// header puts one into calls.
type header map[string]string

func (h header) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		for k, v := range h {
			r.Header().Set(k, v)
		}
		return next(ctx, r)
	}
}

func (h header) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (h header) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func limits(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	do := at(c.Follower(), t)
	for _, id := range []string{"page-1", "page-2", "page-3"} {
		do.region(id)
	}
	var seen []string
	for token := ""; ; {
		r, err := do.ListRegions(t.Context(), connect.NewRequest(&controlv1.ListRegionsRequest{Page: &controlv1.Page{Size: 1, Token: token}}))
		p := must(t, r, err)
		if len(p.GetRegions()) != 1 {
			t.Fatalf("a page of %d", len(p.GetRegions()))
		}
		seen = append(seen, p.GetRegions()[0].GetId())
		if token = p.GetNextPageToken(); token == "" {
			break
		}
	}
	if all := do.regions(); !slices.Equal(seen, all) || !slices.IsSorted(seen) {
		t.Errorf("page by page: %v, at once: %v", seen, all)
	}
	for _, size := range []int32{-1, 1001} {
		_, err := do.ListRegions(t.Context(), connect.NewRequest(&controlv1.ListRegionsRequest{Page: &controlv1.Page{Size: size}}))
		refused(t, err, problem.Invalid, "page.size")
	}
	_, err := do.ListAudit(t.Context(), connect.NewRequest(&controlv1.ListAuditRequest{Page: &controlv1.Page{Token: "x"}}))
	refused(t, err, problem.Invalid, "page.token")
	for _, n := range c.Nodes {
		c.Await("5 MB are too much", func() bool { // on a busy machine they may cost an election, too
			_, err := at(n, t).CreateOperatorToken(t.Context(), connect.NewRequest(&controlv1.CreateOperatorTokenRequest{Name: strings.Repeat("x", 5<<20)}))
			return connect.CodeOf(err) == connect.CodeResourceExhausted
		})
	}
}

func watched(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	for _, n := range []*controltest.Node{c.Leader(), c.Follower()} {
		do := at(n, t)
		from := c.Leader().State().Index
		ctx, cancel := context.WithTimeout(t.Context(), controltest.Patience)
		defer cancel()
		s, err := do.Watch(ctx, connect.NewRequest(&controlv1.WatchRequest{AfterIndex: from}))
		if err != nil {
			t.Fatal(err)
		}
		id := "watch-" + n.Config.ID
		do.region(id)
		do.cell(id+"-1", id)
		if _, err := do.SetCellState(ctx, connect.NewRequest(&controlv1.SetCellStateRequest{Id: id + "-1", State: "cordoned"})); err != nil {
			t.Fatal(err)
		}
		last := from
		for _, want := range []string{"region create " + id, "cell create " + id + "-1", "cell state " + id + "-1"} {
			if !s.Receive() {
				t.Fatalf("in place of %s: %v", want, s.Err())
			}
			m := s.Msg()
			if got := m.GetKind() + " " + m.GetAction() + " " + m.GetId(); got != want || m.GetIndex() <= last {
				t.Errorf("at %d after %d: %s, want %s", m.GetIndex(), last, got, want)
			}
			last = m.GetIndex()
		}
		_ = s.Close()
	}
}

func peers(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	leader := c.Leader()
	for _, n := range c.Nodes {
		r, err := at(n, t).ListPeers(t.Context(), connect.NewRequest(&controlv1.ListPeersRequest{}))
		for i, p := range must(t, r, err).GetPeers() {
			want := c.Nodes[i]
			if p.GetId() != want.Config.ID || p.GetAddress() != want.Config.RaftAddr || p.GetApiUrl() != want.URL() || !p.GetVoter() || p.GetLeader() != (want == leader) {
				t.Errorf("peer %d: %v", i, p)
			}
		}
		if s := at(n, t).status(); s.GetNode() != n.Config.ID || s.GetLeader() != leader.Config.ID || (s.GetRole() == "Leader") != (n == leader) {
			t.Errorf("status: %v", s)
		}
	}
	do := at(c.Follower(), t)
	_, err := do.TransferLeader(t.Context(), connect.NewRequest(&controlv1.TransferLeaderRequest{To: "n9"}))
	refused(t, err, problem.NotFound, "")
	_, err = do.TransferLeader(t.Context(), connect.NewRequest(&controlv1.TransferLeaderRequest{To: leader.Config.ID}))
	refused(t, err, problem.Conflict, "")
	to := c.Follower()
	r, err := at(leader, t).TransferLeader(t.Context(), connect.NewRequest(&controlv1.TransferLeaderRequest{To: to.Config.ID}))
	if got := must(t, r, err).GetLeader(); got != to.Config.ID || c.Leader() != to {
		t.Errorf("handed to %s, not to %s", got, to.Config.ID)
	}
}

// A token is good at every node at once, and ends at once, for watches too.
func newTokens(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	for i := range 6 {
		do := at(c.Nodes[i%3], t)
		r, err := do.CreateOperatorToken(t.Context(), connect.NewRequest(&controlv1.CreateOperatorTokenRequest{Name: "ann"}))
		made := must(t, r, err)
		if made.GetOperatorToken().GetVersion() == 0 || made.GetOperatorToken().GetCreatedUs() == 0 {
			t.Errorf("made: %v", made.GetOperatorToken())
		}
		other := c.Nodes[(i+1)%3]
		who := caller{other.Client(made.GetSecret()), t}
		who.regions()
		c.Await("the node knows the token", func() bool { _, ok := other.State().Tokens[made.GetOperatorToken().GetId()]; return ok })
		s, err := who.Watch(t.Context(), connect.NewRequest(&controlv1.WatchRequest{AfterIndex: c.Leader().State().Index}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = do.RevokeOperatorToken(t.Context(), connect.NewRequest(&controlv1.RevokeOperatorTokenRequest{
			Id: made.GetOperatorToken().GetId(), Mutation: &controlv1.Mutation{ExpectedVersion: made.GetOperatorToken().GetVersion()},
		}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = who.ListRegions(t.Context(), connect.NewRequest(&controlv1.ListRegionsRequest{}))
		refused(t, err, problem.Unauthentic, "")
		for s.Receive() {
			if k := s.Msg().GetKind(); k != "operator_token" {
				t.Errorf("watched: %v", s.Msg())
			}
		}
		refused(t, s.Err(), problem.Unauthentic, "")
		_ = s.Close()
	}
	r, err := at(c.Leader(), t).ListOperatorTokens(t.Context(), connect.NewRequest(&controlv1.ListOperatorTokensRequest{}))
	for _, tok := range must(t, r, err).GetTokens() {
		if tok.GetName() == "bootstrap" {
			_, err := at(c.Leader(), t).RevokeOperatorToken(t.Context(), connect.NewRequest(&controlv1.RevokeOperatorTokenRequest{Id: tok.GetId(), Mutation: &controlv1.Mutation{ExpectedVersion: 1 << 40}}))
			refused(t, err, problem.Precond, "")
		}
	}
}

func probes(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	web := &http.Client{Transport: c.Web()}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/": 404, controlv1connect.ControlServiceListRegionsProcedure: 405} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Follower().URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != want && res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", path, res.Status)
		}
		_ = res.Body.Close()
	}
}

func faults(t *testing.T, c *controltest.Cluster) {
	t.Helper()
	do := at(c.Follower(), t)
	do.region("faults")
	_, err := do.GetRegion(t.Context(), connect.NewRequest(&controlv1.GetRegionRequest{Id: "none"}))
	refused(t, err, problem.NotFound, "")
	_, err = do.GetCell(t.Context(), connect.NewRequest(&controlv1.GetCellRequest{Id: "none"}))
	refused(t, err, problem.NotFound, "")
	_, err = do.GetWorkspace(t.Context(), connect.NewRequest(&controlv1.GetWorkspaceRequest{Workspace: "none"}))
	refused(t, err, problem.NotFound, "")
	_, err = do.CreateWorkspace(t.Context(), connect.NewRequest(&controlv1.CreateWorkspaceRequest{Workspace: &controlv1.Workspace{Slug: "x", HomeRegion: "none"}}))
	refused(t, err, problem.Invalid, "workspace.home_region")
	_, err = do.CreateWorkspace(t.Context(), connect.NewRequest(&controlv1.CreateWorkspaceRequest{Workspace: &controlv1.Workspace{Slug: "x", HomeRegion: "faults"}}))
	refused(t, err, problem.Conflict, "") // it has no cell
	do.cell("faults-1", "faults")
	do.workspace("faults", "faults")
	for _, tc := range []struct {
		req   *controlv1.IssueTokenRequest
		kind  problem.Kind
		field string
	}{
		{&controlv1.IssueTokenRequest{Workspace: "none", UserId: "U1"}, problem.NotFound, ""},
		{&controlv1.IssueTokenRequest{Workspace: "faults"}, problem.Invalid, "sub"},
		{&controlv1.IssueTokenRequest{Workspace: "faults", UserId: "U1", Role: "king"}, problem.Invalid, "role"},
		{&controlv1.IssueTokenRequest{Workspace: "faults", UserId: "U1", TtlSeconds: -1}, problem.Invalid, "ttl_seconds"},
		{&controlv1.IssueTokenRequest{Workspace: "faults", UserId: "U1", TtlSeconds: int64(controlplane.TTLMax.Seconds()) + 1}, problem.Invalid, "ttl_seconds"},
		{&controlv1.IssueTokenRequest{Workspace: "faults", UserId: strings.Repeat("U", 65)}, problem.Invalid, "user_id"},
	} {
		_, err := do.IssueToken(t.Context(), connect.NewRequest(tc.req))
		refused(t, err, tc.kind, tc.field)
	}
}
