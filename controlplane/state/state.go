package state

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"parley/internal/problem"
)

// Region is a place with an etcd of its own.
type Region struct {
	ID      string   `json:"id"`
	Etcd    []string `json:"etcd"` // host:port of the members
	Version uint64   `json:"version"`
	Created int64    `json:"created"` // µs
}

// Capacity is what a cell was built for; 0 = no limit.
type Capacity struct {
	Workspaces  int64   `json:"workspaces"`
	Connections int64   `json:"connections"`
	PostsPerS   float64 `json:"posts_per_s"`
}

// States of a cell.
const (
	CellActive   = "active"
	CellCordoned = "cordoned"
)

// Cell is a cell's record.
type Cell struct {
	ID       string   `json:"id"`
	Region   string   `json:"region"`
	State    string   `json:"state"`
	Capacity Capacity `json:"capacity"`
	Version  uint64   `json:"version"`
	Created  int64    `json:"created"`
}

// States of a workspace.
const (
	WorkspaceCreating = "creating" // placed; its cell has not opened it yet
	WorkspaceActive   = "active"
)

// Workspace is a workspace with its placement.
type Workspace struct {
	ID           string   `json:"id"`
	Slug         string   `json:"slug"`
	Name         string   `json:"name"`
	HomeRegion   string   `json:"home_region"`
	Residency    []string `json:"residency,omitempty"`
	Pin          string   `json:"pin,omitempty"`
	AntiAffinity string   `json:"anti_affinity,omitempty"`
	State        string   `json:"state"`
	Cell         string   `json:"cell"`
	Epoch        uint64   `json:"epoch"`
	Generation   uint64   `json:"generation"`
	Version      uint64   `json:"version"`
	Created      int64    `json:"created"`
}

// OperatorToken lets an operator in. The secret itself is nowhere.
type OperatorToken struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Hash    string `json:"hash"` // HashSecret of it
	Version uint64 `json:"version"`
	Created int64  `json:"created"`
}

// HashSecret is what is kept of a token's secret. Secrets are random, so that a
// plain hash is enough.
func HashSecret(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

// SigningKey signs users' tokens from NotBefore to NotAfter (µs).
type SigningKey struct {
	KID       string `json:"kid"`
	Seed      []byte `json:"seed"` // of the Ed25519 key
	NotBefore int64  `json:"not_before"`
	NotAfter  int64  `json:"not_after"`
}

// Audit is one record of the audit log.
type Audit struct {
	ID     string `json:"id"`
	At     int64  `json:"at"`
	Actor  string `json:"actor"`
	From   string `json:"from"`
	Action string `json:"action"`
	Object string `json:"object"`
	Index  uint64 `json:"index"`
}

// AuditMax is how many audit records are kept: months of an operators' team.
const AuditMax = 100_000

// State is everything. It is not safe for concurrent use; what its methods return
// must not be changed.
type State struct {
	Index      uint64                   `json:"index"` // of the last entry applied
	Regions    map[string]Region        `json:"regions"`
	Cells      map[string]Cell          `json:"cells"`
	Workspaces map[string]Workspace     `json:"workspaces"`
	Tokens     map[string]OperatorToken `json:"tokens"`
	Keys       map[string]SigningKey    `json:"keys"`
	Audits     []Audit                  `json:"audits"` // oldest first

	slugs  map[string]string // slug → workspace id
	hashes map[string]string // hash → token id
}

// New is the state before the first entry.
func New() *State {
	s := &State{
		Regions: map[string]Region{}, Cells: map[string]Cell{}, Workspaces: map[string]Workspace{},
		Tokens: map[string]OperatorToken{}, Keys: map[string]SigningKey{},
	}
	s.index()
	return s
}

// index makes what is derived from the rest.
func (s *State) index() {
	s.slugs = make(map[string]string, len(s.Workspaces))
	for id, w := range s.Workspaces {
		s.slugs[w.Slug] = id
	}
	s.hashes = make(map[string]string, len(s.Tokens))
	for id, t := range s.Tokens {
		s.hashes[t.Hash] = id
	}
}

// Clone is a copy that later entries don't change. Values are never changed in
// place, so that copying the maps is enough.
func (s *State) Clone() *State {
	c := &State{
		Index: s.Index, Regions: maps.Clone(s.Regions), Cells: maps.Clone(s.Cells), Workspaces: maps.Clone(s.Workspaces),
		Tokens: maps.Clone(s.Tokens), Keys: maps.Clone(s.Keys), Audits: slices.Clone(s.Audits),
	}
	c.index()
	return c
}

// Initialised reports whether the first entry is in.
func (s *State) Initialised() bool { return len(s.Keys) > 0 }

// Workspace finds a workspace by id or slug.
func (s *State) Workspace(name string) (Workspace, error) {
	if w, ok := s.Workspaces[name]; ok {
		return w, nil
	}
	if w, ok := s.Workspaces[s.slugs[name]]; ok {
		return w, nil
	}
	return Workspace{}, problem.New(problem.NotFound, "there is no workspace %q", name)
}

// Operator is the name of the token that a secret belongs to.
func (s *State) Operator(secret string) (string, bool) {
	t, ok := s.Tokens[s.hashes[HashSecret(secret)]]
	return t.Name, ok && secret != ""
}

// Key is the key that signs at a time: of several, the one begun last.
func (s *State) Key(at int64) (SigningKey, bool) {
	var best SigningKey
	for _, k := range s.Keys {
		if k.NotBefore <= at && at < k.NotAfter && (best.KID == "" || k.NotBefore > best.NotBefore) {
			best = k
		}
	}
	return best, best.KID != ""
}

// PlacedIn counts a cell's workspaces and names their anti-affinity groups.
func (s *State) PlacedIn(cell string) (n int, groups []string) {
	for _, w := range s.Workspaces {
		if w.Cell == cell {
			n++
			if w.AntiAffinity != "" {
				groups = append(groups, w.AntiAffinity)
			}
		}
	}
	slices.Sort(groups)
	return n, groups
}

// Sorted is a map's values after a key, by key, at most limit.
func Sorted[V any](m map[string]V, after string, limit int) []V {
	keys := slices.SortedFunc(maps.Keys(m), cmp.Compare[string])
	i, _ := slices.BinarySearch(keys, after)
	if i < len(keys) && keys[i] == after {
		i++
	}
	keys = keys[i:]
	out := make([]V, 0, min(limit, len(keys)))
	for _, k := range keys[:min(limit, len(keys))] {
		out = append(out, m[k])
	}
	return out
}

// validName is the form of ids and slugs that people give.
func validName(field, s string) error {
	const most = 40
	if l := len(s); l < 1 || l > most || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || s[0] == '-' {
		return problem.Field(field, "%q must have 1 to %d lower-case letters, digits and -", s, most)
	}
	return nil
}
