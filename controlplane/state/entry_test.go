package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/controlplane/state"
	"parley/internal/problem"
)

func at(us int64) time.Time { return time.UnixMicro(1_800_000_000_000_000 + us) }

func fieldOf(err error, p **problem.Error) string {
	if errors.As(err, p) {
		return (*p).Field
	}
	return ""
}

func TestUnknownEntries(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `{`, `[]`, `"x"`, `{"v":0,"type":"note"}`, `{"v":2,"type":"note"}`, `{"v":-1,"type":"note"}`, `{"v":1,"type":"cell.explode"}`, `{"v":1}`,
		`{"v":"1","type":"note"}`,
	} {
		if _, err := state.DecodeEntry([]byte(text)); !errors.Is(err, state.ErrUnknownEntry) {
			t.Errorf("%s: %v", text, err)
		}
	}
	s := begun(t)
	if err := s.Apply(100, state.Entry{V: 1, Type: "cell.explode"}); !errors.Is(err, state.ErrUnknownEntry) {
		t.Errorf("applied: %v", err)
	}
	same(t, "nothing is changed, not even the index", begun(t), s)
}

// generated makes entries of which many are refused: names are few.
func generated(t *rapid.T) state.Entry {
	name := rapid.SampledFrom([]string{"a", "b", "c", "eu", "us", "", "-bad"})
	id := rapid.SampledFrom([]string{w1, w2, w3, "W0"})
	version := rapid.SampledFrom([]uint64{0, 0, 1, 2, 5})
	bodies := map[state.Type]func() any{
		state.Initialise: func() any {
			return state.InitBody{Token: state.OperatorToken{ID: "O0", Name: name.Draw(t, "name"), Hash: "h0"}, Key: key(name.Draw(t, "kid"))}
		},
		state.CreateRegion: func() any {
			return state.Region{ID: name.Draw(t, "id"), Etcd: rapid.SliceOfN(rapid.Just("h:1"), 0, 2).Draw(t, "etcd")}
		},
		state.CreateCell: func() any {
			return state.Cell{ID: name.Draw(t, "id"), Region: name.Draw(t, "region"), Capacity: state.Capacity{Workspaces: rapid.Int64Range(-1, 2).Draw(t, "most")}}
		},
		state.SetCellState: func() any {
			return state.CellStateBody{ID: name.Draw(t, "id"), State: rapid.SampledFrom([]string{"active", "cordoned", "x"}).Draw(t, "state"), Expected: version.Draw(t, "version")}
		},
		state.CreateWorkspace: func() any {
			return state.Workspace{
				ID: id.Draw(t, "id"), Slug: name.Draw(t, "slug"), Name: name.Draw(t, "name"), HomeRegion: name.Draw(t, "home"), Cell: name.Draw(t, "cell"),
				Residency: rapid.SliceOfN(name, 0, 2).Draw(t, "residency"), AntiAffinity: rapid.SampledFrom([]string{"", "", "g"}).Draw(t, "group"),
			}
		},
		state.Activate: func() any {
			return state.ActivateBody{ID: id.Draw(t, "id"), Epoch: uint64(rapid.IntRange(1, 2).Draw(t, "epoch"))}
		},
		state.CreateToken: func() any {
			return state.OperatorToken{ID: name.Draw(t, "id"), Name: name.Draw(t, "name"), Hash: name.Draw(t, "hash")}
		},
		state.RevokeToken: func() any { return state.RevokeBody{ID: name.Draw(t, "id"), Expected: version.Draw(t, "version")} },
		state.AddKey:      func() any { return key(name.Draw(t, "kid")) },
		state.DropKey:     func() any { return state.RevokeBody{ID: name.Draw(t, "kid")} },
		state.Note:        func() any { return state.NoteBody{Action: name.Draw(t, "action"), Object: name.Draw(t, "object")} },
	}
	types := []state.Type{
		state.Initialise, state.CreateRegion, state.CreateRegion, state.CreateCell, state.CreateCell, state.SetCellState, state.CreateWorkspace,
		state.CreateWorkspace, state.Activate, state.CreateToken, state.RevokeToken, state.AddKey, state.DropKey, state.Note,
	}
	typ := rapid.SampledFrom(types).Draw(t, "type")
	e, err := state.NewEntry(typ, at(rapid.Int64Range(0, 1e6).Draw(t, "at")), bodies[typ]())
	if err != nil {
		t.Fatal(err)
	}
	e.Audit, e.Actor = rapid.SampledFrom([]string{"", "A1"}).Draw(t, "audit"), "me"
	return e
}

// Whatever the log holds: replicas agree, one of them by way of a snapshot; what is
// refused changes nothing but the index; what is derived is as if made anew.
func TestProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		one, two := state.New(), state.New()
		for i := range rapid.IntRange(1, 60).Draw(t, "entries") {
			e := generated(t)
			text, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := state.DecodeEntry(text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			index := uint64(i + 1)
			before := one.Clone()
			refused := one.Apply(index, decoded)
			again := two.Apply(index, decoded)
			if fmt.Sprint(refused) != fmt.Sprint(again) {
				t.Fatalf("one says %v, the other %v", refused, again)
			}
			if refused != nil {
				before.Index = index
				agree(t, "refused", before, one)
			}
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				two = carried(t, two)
			}
		}
		agree(t, "two replicas", one, two)
		agree(t, "restored", one, carried(t, one))
		agree(t, "cloned", one, one.Clone())
	})
}

func agree(t *rapid.T, what string, want, got *state.State) {
	t.Helper()
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
	for _, cell := range []string{"a", "b", "c", "eu", "us"} {
		n, groups := want.PlacedIn(cell)
		m, others := got.PlacedIn(cell)
		if diff := cmp.Diff(fmt.Sprint(n, groups, want.Creating(cell)), fmt.Sprint(m, others, got.Creating(cell))); diff != "" {
			t.Fatalf("%s: placed in %s (-want +got):\n%s", what, cell, diff)
		}
	}
}

// plain is a state as it is stored: maps with their keys in order.
func plain(t *rapid.T, s *state.State) string {
	t.Helper()
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func carried(t *rapid.T, s *state.State) *state.State {
	t.Helper()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	r, err := state.Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func saved(tb testing.TB, s *state.State) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestBrokenSnapshots(t *testing.T) {
	t.Parallel()
	good := saved(t, begun(t))
	if s, err := state.Read(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	} else {
		same(t, "read", begun(t), s)
	}
	flipped := bytes.Clone(good)
	flipped[bytes.Index(good, []byte(`"slug":"one"`))+9] = 'm'
	cut := bytes.IndexByte(good, '\n')
	for name, b := range map[string][]byte{
		"empty": nil, "half": good[:len(good)/2], "without its sum": good[:cut], "without its sum, but the line's end": good[:cut+1],
		"half a sum": good[:len(good)-10], "more behind": append(bytes.Clone(good), 'x'), "twice": append(bytes.Clone(good), good...),
		"flipped": flipped, "text": []byte("hello\n"), "a list": []byte("[]\n"),
	} {
		if _, err := state.Read(bytes.NewReader(b)); !problem.Is(err, problem.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What has a good checksum may still be nothing that this build can work with.
func TestSnapshotsThatBreakRules(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(s *state.State)
		field  string
	}{
		"region under another id": {func(s *state.State) { s.Regions["us"] = s.Regions["eu"] }, "regions"},
		"cell nowhere":            {func(s *state.State) { delete(s.Regions, "eu") }, "cells"},
		"workspace nowhere":       {func(s *state.State) { delete(s.Cells, "a") }, "workspaces"},
		"slug twice":              {func(s *state.State) { s.Workspaces[w2] = workspace(w2, "one", "a", "") }, "workspaces"},
		"token without hash":      {func(s *state.State) { s.Tokens["O1"] = state.OperatorToken{ID: "O1"} }, "tokens"},
		"key that can't sign":     {func(s *state.State) { s.Keys["k1"] = state.SigningKey{KID: "k1", Seed: []byte{1}} }, "keys"},
	} {
		s := begun(t)
		tc.change(s)
		_, err := state.Read(bytes.NewReader(saved(t, s)))
		if p := new(problem.Error); !problem.Is(err, problem.Invalid) || fieldOf(err, &p) != tc.field {
			t.Errorf("%s: %v, want field %s", name, err, tc.field)
		}
	}
	var newer bytes.Buffer
	newer.Write(bytes.Replace(saved(t, begun(t)), []byte(`{"v":1,`), []byte(`{"v":2,`), 1))
	if _, err := state.Read(&newer); !problem.Is(err, problem.Unsupported) {
		t.Errorf("version 2: %v", err)
	}
	lacking := &state.State{Index: 3}
	s, err := state.Read(bytes.NewReader(saved(t, lacking)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(4, entry(t, state.CreateRegion, state.Region{ID: "eu", Etcd: []string{"h:1"}})); err != nil {
		t.Errorf("on a state without maps: %v", err)
	}
	if _, err := state.Read(bytes.NewReader(saved(t, nil))); !problem.Is(err, problem.Invalid) {
		t.Errorf("no state: %v", err)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(`{"v":1,"type":"note","at":1,"audit":"A1","actor":"me","from":"::1","body":{"action":"x","object":"y"}}`))
	f.Add([]byte(`{"v":2,"type":"note"}`))
	f.Add([]byte(`{"v":1,"type":"cell.create","body":{"id":"a","region":"eu","capacity":{"workspaces":-1}}}`))
	f.Add([]byte(`{"v":1,"type":"workspace.create","body":{"id":"` + w2 + `","slug":"two","name":"\u0000","home_region":"eu","cell":"c"}}`))
	f.Add([]byte(`{"v":1,"type":"init","body":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := state.DecodeEntry(b)
		if err != nil {
			if !errors.Is(err, state.ErrUnknownEntry) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		one, two := begun(t), begun(t)
		if a, b := one.Apply(100, e), two.Apply(100, e); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("one says %v, the other %v", a, b)
		}
		same(t, "two replicas", one, two)
	})
}

func FuzzRead(f *testing.F) {
	f.Add(saved(f, begun(f)))
	f.Add(saved(f, state.New()))
	f.Add([]byte("{\"v\":1,\"state\":null}\n"))
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := state.Read(bytes.NewReader(b))
		if err != nil {
			if k := problem.KindOf(err); k != problem.Invalid && k != problem.Unsupported {
				t.Fatalf("kind %s: %v", k, err)
			}
			return
		}
		again, err := state.Read(bytes.NewReader(saved(t, s)))
		if err != nil {
			t.Fatalf("what was read can't be read again: %v", err)
		}
		same(t, "read again", s, again)
	})
}
