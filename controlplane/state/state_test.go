package state_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/controlplane/state"
	"parley/internal/problem"
)

const (
	w1 = "W01ARZ3NDEKTSV4RRFFQ69G5FAV"
	w2 = "W01ARZ3NDEKTSV4RRFFQ69G5FAW"
	w3 = "W01ARZ3NDEKTSV4RRFFQ69G5FAX"
)

func entry(tb testing.TB, t state.Type, body any) state.Entry {
	tb.Helper()
	e, err := state.NewEntry(t, at(0), body)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func key(kid string) state.SigningKey {
	return state.SigningKey{KID: kid, Seed: bytes.Repeat([]byte{7}, 32), NotBefore: 1000, NotAfter: 2000}
}

// begun is a small control plane: region eu with cells a (2 workspaces at most),
// b (cordoned) and c, workspace one of group g in a, of which all know the index.
func begun(tb testing.TB) *state.State {
	tb.Helper()
	s := state.New()
	for i, e := range []state.Entry{
		entry(tb, state.Initialise, state.InitBody{Token: state.OperatorToken{ID: "O1", Name: "root", Hash: "h1"}, Key: key("k1")}),
		entry(tb, state.CreateRegion, state.Region{ID: "eu", Etcd: []string{"127.0.0.1:2379"}}),
		entry(tb, state.CreateCell, state.Cell{ID: "a", Region: "eu", Capacity: state.Capacity{Workspaces: 2}}),
		entry(tb, state.CreateCell, state.Cell{ID: "b", Region: "eu"}),
		entry(tb, state.SetCellState, state.CellStateBody{ID: "b", State: state.CellCordoned}),
		entry(tb, state.CreateCell, state.Cell{ID: "c", Region: "eu"}),
		entry(tb, state.CreateWorkspace, workspace(w1, "one", "a", "g")),
	} {
		if err := s.Apply(uint64(i+1), e); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

func workspace(id, slug, cell, group string) state.Workspace {
	return state.Workspace{ID: id, Slug: slug, Name: slug, HomeRegion: "eu", Cell: cell, AntiAffinity: group}
}

// same compares what is stored and what is derived.
func same(tb testing.TB, what string, want, got *state.State) {
	tb.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(state.State{}), cmpopts.EquateEmpty()); diff != "" {
		tb.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 81)
	with := func(change func(w *state.Workspace)) state.Workspace {
		w := workspace(w2, "two", "c", "")
		change(&w)
		return w
	}
	for _, tc := range []struct {
		name  string
		t     state.Type
		body  any
		kind  problem.Kind
		field string
	}{
		{"initialised twice", state.Initialise, state.InitBody{Token: state.OperatorToken{ID: "O2", Name: "x", Hash: "h2"}, Key: key("k2")}, problem.Conflict, ""},
		{"no body", state.CreateRegion, "text", problem.Invalid, ""},
		{"region without id", state.CreateRegion, state.Region{Etcd: []string{"h:1"}}, problem.Invalid, "region.id"},
		{"region with capitals", state.CreateRegion, state.Region{ID: "EU", Etcd: []string{"h:1"}}, problem.Invalid, "region.id"},
		{"region that looks like a flag", state.CreateRegion, state.Region{ID: "-x", Etcd: []string{"h:1"}}, problem.Invalid, "region.id"},
		{"region with a long id", state.CreateRegion, state.Region{ID: strings.Repeat("a", 41), Etcd: []string{"h:1"}}, problem.Invalid, "region.id"},
		{"region twice", state.CreateRegion, state.Region{ID: "eu", Etcd: []string{"h:1"}}, problem.Conflict, ""},
		{"region without etcd", state.CreateRegion, state.Region{ID: "us"}, problem.Invalid, "region.etcd_endpoints"},
		{"region with too many", state.CreateRegion, state.Region{ID: "us", Etcd: make([]string, 10)}, problem.Invalid, "region.etcd_endpoints"},
		{"region with a bad one", state.CreateRegion, state.Region{ID: "us", Etcd: []string{"h:1", "https://h"}}, problem.Invalid, "region.etcd_endpoints[1]"},
		{"region with no host", state.CreateRegion, state.Region{ID: "us", Etcd: []string{":1"}}, problem.Invalid, "region.etcd_endpoints[0]"},
		{"cell without id", state.CreateCell, state.Cell{Region: "eu"}, problem.Invalid, "cell.id"},
		{"cell twice", state.CreateCell, state.Cell{ID: "a", Region: "eu"}, problem.Conflict, ""},
		{"cell nowhere", state.CreateCell, state.Cell{ID: "d", Region: "us"}, problem.Invalid, "cell.region"},
		{"cell of less than nothing", state.CreateCell, state.Cell{ID: "d", Region: "eu", Capacity: state.Capacity{PostsPerS: -1}}, problem.Invalid, "cell.capacity"},
		{"no such cell", state.SetCellState, state.CellStateBody{ID: "x", State: state.CellActive}, problem.NotFound, ""},
		{"no such state", state.SetCellState, state.CellStateBody{ID: "a", State: "gone"}, problem.Invalid, "state"},
		{"cell has changed", state.SetCellState, state.CellStateBody{ID: "a", State: state.CellActive, Expected: 2}, problem.Precond, ""},
		{"workspace with a made-up id", state.CreateWorkspace, with(func(w *state.Workspace) { w.ID = "W1" }), problem.Invalid, "workspace.id"},
		{"workspace without slug", state.CreateWorkspace, with(func(w *state.Workspace) { w.Slug = "" }), problem.Invalid, "workspace.slug"},
		{"workspace without name", state.CreateWorkspace, with(func(w *state.Workspace) { w.Name = "" }), problem.Invalid, "workspace.name"},
		{"workspace with a long name", state.CreateWorkspace, with(func(w *state.Workspace) { w.Name = long }), problem.Invalid, "workspace.name"},
		{"workspace that moves the cursor", state.CreateWorkspace, with(func(w *state.Workspace) { w.Name = "a\x1b[2J" }), problem.Invalid, "workspace.name"},
		{"long group", state.CreateWorkspace, with(func(w *state.Workspace) { w.AntiAffinity = long }), problem.Invalid, "workspace.anti_affinity"},
		{"slug twice", state.CreateWorkspace, with(func(w *state.Workspace) { w.Slug = "one" }), problem.Conflict, ""},
		{"id twice", state.CreateWorkspace, with(func(w *state.Workspace) { w.ID = w1 }), problem.Conflict, ""},
		{"home nowhere", state.CreateWorkspace, with(func(w *state.Workspace) { w.HomeRegion = "us" }), problem.Invalid, "workspace.home_region"},
		{"residency nowhere", state.CreateWorkspace, with(func(w *state.Workspace) { w.Residency = []string{"eu", "us"} }), problem.Invalid, "workspace.residency[1]"},
		{"residency everywhere", state.CreateWorkspace, with(func(w *state.Workspace) { w.Residency = make([]string, 33) }), problem.Invalid, "workspace.residency"},
		{"cell is cordoned", state.CreateWorkspace, with(func(w *state.Workspace) { w.Cell = "b" }), problem.Unavailable, ""},
		{"cell is none", state.CreateWorkspace, with(func(w *state.Workspace) { w.Cell = "z" }), problem.Unavailable, ""},
		{"pinned elsewhere", state.CreateWorkspace, with(func(w *state.Workspace) { w.Pin = "a" }), problem.Invalid, "workspace.pin"},
		{"group is there", state.CreateWorkspace, with(func(w *state.Workspace) { w.Cell, w.AntiAffinity = "a", "g" }), problem.Unavailable, ""},
		{"nobody to activate", state.Activate, state.ActivateBody{ID: w2, Epoch: 1}, problem.NotFound, ""},
		{"another epoch", state.Activate, state.ActivateBody{ID: w1, Epoch: 2}, problem.Conflict, ""},
		{"token without name", state.CreateToken, state.OperatorToken{ID: "O2", Hash: "h2"}, problem.Invalid, "name"},
		{"token without hash", state.CreateToken, state.OperatorToken{ID: "O2", Name: "x"}, problem.Invalid, "token"},
		{"token twice", state.CreateToken, state.OperatorToken{ID: "O1", Name: "x", Hash: "h2"}, problem.Conflict, ""},
		{"secret twice", state.CreateToken, state.OperatorToken{ID: "O2", Name: "x", Hash: "h1"}, problem.Conflict, ""},
		{"no such token", state.RevokeToken, state.RevokeBody{ID: "O2"}, problem.NotFound, ""},
		{"token has changed", state.RevokeToken, state.RevokeBody{ID: "O1", Expected: 9}, problem.Precond, ""},
		{"the last token", state.RevokeToken, state.RevokeBody{ID: "O1"}, problem.Conflict, ""},
		{"key with a short seed", state.AddKey, state.SigningKey{KID: "k2", Seed: []byte{1}, NotBefore: 1, NotAfter: 2}, problem.Invalid, "key"},
		{"key for no time", state.AddKey, state.SigningKey{KID: "k2", Seed: key("").Seed, NotBefore: 2, NotAfter: 2}, problem.Invalid, "key"},
		{"key twice", state.AddKey, key("k1"), problem.Conflict, ""},
		{"no such key", state.DropKey, state.RevokeBody{ID: "k2"}, problem.NotFound, ""},
		{"the last key", state.DropKey, state.RevokeBody{ID: "k1"}, problem.Conflict, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, want := begun(t), begun(t)
			e := entry(t, tc.t, tc.body)
			e.Audit, e.Actor = "A1", "me"
			err := s.Apply(100, e)
			if got := problem.KindOf(err); err == nil || got != tc.kind {
				t.Fatalf("%v: kind %s, want %s", err, got, tc.kind)
			}
			if p := new(problem.Error); tc.field != fieldOf(err, &p) {
				t.Errorf("field %q, want %q", p.Field, tc.field)
			}
			want.Index = 100
			same(t, "after the refusal", want, s)
		})
	}
}

func TestFullCell(t *testing.T) {
	t.Parallel()
	s := begun(t)
	if err := s.Apply(8, entry(t, state.CreateWorkspace, workspace(w2, "two", "a", ""))); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(9, entry(t, state.CreateWorkspace, workspace(w3, "three", "a", ""))); !problem.Is(err, problem.Unavailable) {
		t.Errorf("a third in a cell for two: %v", err)
	}
	if n, groups := s.PlacedIn("a"); n != 2 || fmt.Sprint(groups) != "[g]" {
		t.Errorf("placed in a: %d %v", n, groups)
	}
	if cs := s.Creating("a"); len(cs) != 2 || cs[0].ID != w1 || cs[1].ID != w2 {
		t.Errorf("creating in a: %v", cs)
	}
	if err := s.Apply(10, entry(t, state.Activate, state.ActivateBody{ID: w1, Epoch: 1})); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Workspace("one"); err != nil || w.State != state.WorkspaceActive || w.Version != 10 || w.Epoch != 1 || w.Generation != 1 {
		t.Errorf("after activation: %+v, %v", w, err)
	}
	if cs := s.Creating("a"); len(cs) != 1 || cs[0].ID != w2 {
		t.Errorf("creating in a, one open: %v", cs)
	}
	if err := s.Apply(11, entry(t, state.Activate, state.ActivateBody{ID: w1, Epoch: 1})); err != nil || s.Workspaces[w1].Version != 10 {
		t.Errorf("activated again: %v, version %d", err, s.Workspaces[w1].Version)
	}
}

func TestInitialiseIsAllOrNothing(t *testing.T) {
	t.Parallel()
	s := state.New()
	tok := state.OperatorToken{ID: "O1", Name: "root", Hash: "h1"}
	if err := s.Apply(1, entry(t, state.Initialise, state.InitBody{Token: tok})); !problem.Is(err, problem.Invalid) {
		t.Fatalf("without a key: %v", err)
	}
	if len(s.Tokens) != 0 {
		t.Error("the token is in, the key is not")
	}
	if err := s.Apply(2, entry(t, state.Initialise, state.InitBody{Token: tok, Key: key("k1")})); err != nil || !s.Initialised() {
		t.Errorf("again, with a key: %v", err)
	}
}

func TestOperator(t *testing.T) {
	t.Parallel()
	s := begun(t)
	made := state.OperatorToken{ID: "O2", Name: "ann", Hash: state.HashSecret("hush")}
	if err := s.Apply(8, entry(t, state.CreateToken, made)); err != nil {
		t.Fatal(err)
	}
	if who, ok := s.Operator("hush"); !ok || who.Name != "ann" {
		t.Errorf("hush is %v, %v", who, ok)
	}
	for _, secret := range []string{"", "hus", "hush ", made.Hash} {
		if who, ok := s.Operator(secret); ok {
			t.Errorf("%q is %v", secret, who)
		}
	}
	if err := s.Apply(9, entry(t, state.RevokeToken, state.RevokeBody{ID: "O2", Expected: 8})); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Operator("hush"); ok {
		t.Error("a revoked token is good")
	}
}

func TestKeyAt(t *testing.T) {
	t.Parallel()
	s := begun(t) // k1: 1000 to 2000
	for i, k := range []state.SigningKey{{KID: "k2", NotBefore: 1500, NotAfter: 2500}, {KID: "k3", NotBefore: 2500, NotAfter: 3500}} {
		k.Seed = key("").Seed
		if err := s.Apply(uint64(8+i), entry(t, state.AddKey, k)); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]string{999: "", 1000: "k1", 1499: "k1", 1500: "k2", 2499: "k2", 2500: "k3", 3500: ""} {
		if k, ok := s.Key(at); k.KID != want || ok != (want != "") {
			t.Errorf("at %d: %q, %v, want %q", at, k.KID, ok, want)
		}
	}
}

func TestSorted(t *testing.T) {
	t.Parallel()
	m := map[string]int{}
	for i := range 100 {
		m[fmt.Sprintf("%03d", i)] = i
	}
	for _, tc := range []struct {
		after       string
		limit       int
		first, last int
	}{{"", 3, 0, 2}, {"002", 3, 3, 5}, {"0025", 1, 3, 3}, {"", 100, 0, 99}, {"", 1000, 0, 99}, {"098", 5, 99, 99}} {
		got := state.Sorted(m, tc.after, tc.limit)
		if len(got) != tc.last-tc.first+1 || got[0] != tc.first || got[len(got)-1] != tc.last {
			t.Errorf("after %q, %d at most: %v", tc.after, tc.limit, got)
		}
	}
	if got := state.Sorted(m, "099", 5); len(got) != 0 {
		t.Errorf("after the last: %v", got)
	}
	if got := state.Sorted(m, "", 0); len(got) != 0 {
		t.Errorf("none at most: %v", got)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	s := begun(t)
	e := entry(t, state.CreateCell, state.Cell{ID: "d", Region: "eu"})
	e.Audit, e.Actor, e.From = "A1", "ann", "192.0.2.1"
	n := entry(t, state.Note, state.NoteBody{Action: "token.issue", Object: w1 + " member"})
	n.Audit, n.Actor = "A2", "bob"
	if err := s.Apply(8, e); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(9, n); err != nil {
		t.Fatal(err)
	}
	want := []state.Audit{
		{ID: "A1", At: at(0).UnixMicro(), Actor: "ann", From: "192.0.2.1", Action: "cell.create", Object: "d", Index: 8},
		{ID: "A2", At: at(0).UnixMicro(), Actor: "bob", Action: "token.issue", Object: w1 + " member", Index: 9},
	}
	if diff := cmp.Diff(want, s.Audits); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
	for i := range uint64(state.AuditMax + state.AuditMax/10) {
		if err := s.Apply(10+i, n); err != nil {
			t.Fatal(err)
		}
	}
	if l := len(s.Audits); l < state.AuditMax || l >= state.AuditMax+state.AuditMax/10 || s.Audits[l-1].Index != s.Index {
		t.Errorf("%d records are kept, the last of index %d", l, s.Audits[l-1].Index)
	}
}
