package state

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

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

// AuditMax is how many audit records are kept at least: months of an operators'
// team. They are cut a tenth at a time, so that an entry need not move them all.
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

	// Derived from the rest by index, kept up by the appliers.
	slugs    map[string]string   // slug → workspace id
	hashes   map[string]string   // hash → token id
	creating map[string]string   // workspace id → cell, of those in WorkspaceCreating
	placed   map[string]int      // cell → how many workspaces
	groups   map[string][]string // cell → anti-affinity groups; never changed in place
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
	s.creating, s.placed, s.groups = map[string]string{}, map[string]int{}, map[string][]string{}
	for _, w := range s.Workspaces {
		s.place(w)
	}
	s.hashes = make(map[string]string, len(s.Tokens))
	for id, t := range s.Tokens {
		s.hashes[t.Hash] = id
	}
}

// place notes where a new workspace is.
func (s *State) place(w Workspace) {
	s.slugs[w.Slug] = w.ID
	s.placed[w.Cell]++
	if w.State == WorkspaceCreating {
		s.creating[w.ID] = w.Cell
	}
	if w.AntiAffinity != "" {
		s.groups[w.Cell] = append(slices.Clip(s.groups[w.Cell]), w.AntiAffinity)
	}
}

// Clone is a copy that later entries don't change. Values are never changed in
// place, so that copying the maps is enough.
func (s *State) Clone() *State {
	return &State{
		Index: s.Index, Regions: maps.Clone(s.Regions), Cells: maps.Clone(s.Cells), Workspaces: maps.Clone(s.Workspaces),
		Tokens: maps.Clone(s.Tokens), Keys: maps.Clone(s.Keys), Audits: slices.Clone(s.Audits),
		slugs: maps.Clone(s.slugs), hashes: maps.Clone(s.hashes), creating: maps.Clone(s.creating),
		placed: maps.Clone(s.placed), groups: maps.Clone(s.groups),
	}
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

// Operator is the token that a secret belongs to.
func (s *State) Operator(secret string) (OperatorToken, bool) {
	t, ok := s.Tokens[s.hashes[HashSecret(secret)]]
	return t, ok && secret != ""
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
	return s.placed[cell], slices.Sorted(slices.Values(s.groups[cell]))
}

// Creating is the workspaces that a cell has still to open, by id.
func (s *State) Creating(cell string) []Workspace {
	var out []Workspace
	for id, in := range s.creating {
		if in == cell {
			out = append(out, s.Workspaces[id])
		}
	}
	slices.SortFunc(out, func(a, b Workspace) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Sorted is a map's values after a key, by key, at most limit. Of a large map and
// a small limit it keeps no more keys than twice the limit.
func Sorted[V any](m map[string]V, after string, limit int) []V {
	if limit <= 0 {
		return nil
	}
	keys := make([]string, 0, min(2*limit, len(m)))
	for k := range m {
		if k <= after {
			continue
		}
		if len(keys) == 2*limit {
			slices.Sort(keys)
			keys = keys[:limit]
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	keys = keys[:min(limit, len(keys))]
	out := make([]V, len(keys))
	for i, k := range keys {
		out[i] = m[k]
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

// validText is the form of names that people read: a control character would
// break a table, or a terminal.
func validText(field, s string, least, most int) error {
	if n := utf8.RuneCountInString(s); n < least || n > most || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return problem.Field(field, "must have %d to %d characters, none of them a control character", least, most)
	}
	return nil
}
