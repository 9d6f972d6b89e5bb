package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"parley/internal/ids"
	"parley/internal/problem"
)

// applier changes the state by one entry, or refuses it and changes nothing. It
// returns the object's id.
type applier func(s *State, index uint64, e Entry) (object string, err error)

func appliers() map[Type]applier {
	return map[Type]applier{
		Initialise: with(initialise), CreateRegion: with(createRegion), CreateCell: with(createCell),
		SetCellState: with(setCellState), CreateWorkspace: with(createWorkspace), Activate: with(activate),
		CreateToken: with(createToken), RevokeToken: with(revokeToken), AddKey: with(addKey), DropKey: with(dropKey),
		Note: with(note),
	}
}

func with[B any](do func(s *State, index uint64, at int64, body B) (string, error)) applier {
	return func(s *State, index uint64, e Entry) (string, error) {
		var body B
		d := json.NewDecoder(bytes.NewReader(e.Body))
		if err := d.Decode(&body); err != nil {
			return "", problem.Wrap(err, problem.Invalid, "the entry's body can't be decoded")
		}
		return do(s, index, e.At, body)
	}
}

// Apply applies the entry at a Raft index. A refused entry changes nothing but
// the index, on every node alike.
func (s *State) Apply(index uint64, e Entry) error {
	do, ok := appliers()[e.Type]
	if !ok {
		return ErrUnknownEntry
	}
	s.Index = index
	object, err := do(s, index, e)
	if err != nil {
		return err
	}
	if e.Audit != "" {
		action := string(e.Type)
		if e.Type == Note {
			action, object, _ = strings.Cut(object, " ")
		}
		s.Audits = append(s.Audits, Audit{ID: e.Audit, At: e.At, Actor: e.Actor, From: e.From, Action: action, Object: object, Index: index})
		if over := len(s.Audits) - AuditMax; over >= AuditMax/10 {
			s.Audits = slices.Delete(s.Audits, 0, over)
		}
	}
	return nil
}

func initialise(s *State, index uint64, at int64, b InitBody) (string, error) {
	if s.Initialised() {
		return "", problem.New(problem.Conflict, "the control plane is initialised already")
	}
	if err := validKey(b.Key); err != nil { // before the token is in: all or nothing
		return "", err
	}
	if _, err := createToken(s, index, at, b.Token); err != nil {
		return "", err
	}
	return addKey(s, index, at, b.Key)
}

// Limits of what a region names: no etcd has more members, no host name is longer.
const (
	etcdMembersMax = 9
	addrBytesMax   = 253 + len(":65535")
)

func createRegion(s *State, index uint64, at int64, r Region) (string, error) {
	if err := validName("region.id", r.ID); err != nil {
		return "", err
	}
	if _, ok := s.Regions[r.ID]; ok {
		return "", problem.New(problem.Conflict, "region %s exists", r.ID)
	}
	if n := len(r.Etcd); n < 1 || n > etcdMembersMax {
		return "", problem.Field("region.etcd_endpoints", "must name 1 to %d members", etcdMembersMax)
	}
	for i, member := range r.Etcd {
		host, port, err := net.SplitHostPort(member)
		if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || host == "" || len(member) > addrBytesMax {
			return "", problem.Field(fmt.Sprintf("region.etcd_endpoints[%d]", i), "%.80q must be host:port", member)
		}
	}
	r.Version, r.Created = index, at
	s.Regions[r.ID] = r
	return r.ID, nil
}

func createCell(s *State, index uint64, at int64, c Cell) (string, error) {
	if err := validName("cell.id", c.ID); err != nil {
		return "", err
	}
	if _, ok := s.Cells[c.ID]; ok {
		return "", problem.New(problem.Conflict, "cell %s exists", c.ID)
	}
	if _, ok := s.Regions[c.Region]; !ok {
		return "", problem.Field("cell.region", "there is no region %q", c.Region)
	}
	if c.Capacity.Workspaces < 0 || c.Capacity.Connections < 0 || c.Capacity.PostsPerS < 0 {
		return "", problem.Field("cell.capacity", "must not be negative; 0 means no limit")
	}
	c.State, c.Version, c.Created = CellActive, index, at
	s.Cells[c.ID] = c
	return c.ID, nil
}

func setCellState(s *State, index uint64, _ int64, b CellStateBody) (string, error) {
	c, ok := s.Cells[b.ID]
	if !ok {
		return "", problem.New(problem.NotFound, "there is no cell %q", b.ID)
	}
	if err := expect(b.Expected, c.Version); err != nil {
		return "", err
	}
	if b.State != CellActive && b.State != CellCordoned {
		return "", problem.Field("state", "must be %s or %s", CellActive, CellCordoned)
	}
	c.State, c.Version = b.State, index
	s.Cells[b.ID] = c
	return b.ID, nil
}

func expect(expected, version uint64) error {
	if expected != 0 && expected != version {
		return problem.New(problem.Precond, "the version is %d, not %d: somebody has changed it; look again", version, expected)
	}
	return nil
}

// Limits of what an operator writes about a workspace.
const (
	nameRunesMax = 80
	residencyMax = 32
)

func createWorkspace(s *State, index uint64, at int64, w Workspace) (string, error) {
	if !ids.Valid(ids.Workspace, w.ID) {
		return "", problem.Field("workspace.id", "%q is no id", w.ID)
	}
	if err := validName("workspace.slug", w.Slug); err != nil {
		return "", err
	}
	if err := validText("workspace.name", w.Name, 1, nameRunesMax); err != nil {
		return "", err
	}
	if err := validText("workspace.anti_affinity", w.AntiAffinity, 0, nameRunesMax); err != nil {
		return "", err
	}
	if _, ok := s.slugs[w.Slug]; ok {
		return "", problem.New(problem.Conflict, "a workspace with the slug %s exists", w.Slug)
	}
	if _, ok := s.Workspaces[w.ID]; ok {
		return "", problem.New(problem.Conflict, "workspace %s exists", w.ID)
	}
	if _, ok := s.Regions[w.HomeRegion]; !ok {
		return "", problem.Field("workspace.home_region", "there is no region %.80q", w.HomeRegion)
	}
	if len(w.Residency) > residencyMax {
		return "", problem.Field("workspace.residency", "must name at most %d regions", residencyMax)
	}
	for i, r := range w.Residency {
		if _, ok := s.Regions[r]; !ok {
			return "", problem.Field(fmt.Sprintf("workspace.residency[%d]", i), "there is no region %.80q", r)
		}
	}
	if err := s.takes(w); err != nil {
		return "", err
	}
	w.State, w.Epoch, w.Generation, w.Version, w.Created = WorkspaceCreating, 1, 1, index, at
	s.Workspaces[w.ID] = w
	s.place(w)
	return w.ID, nil
}

// takes looks whether the cell that placement chose may still take a workspace:
// placement decides before the entry has its place in the log, and two decisions
// at once don't see each other. The kind is Unavailable: deciding again helps.
func (s *State) takes(w Workspace) error {
	c, ok := s.Cells[w.Cell]
	n, groups := s.placed[w.Cell], s.groups[w.Cell]
	switch {
	case !ok || c.State != CellActive:
		return problem.New(problem.Unavailable, "cell %q takes no workspaces now; try again", w.Cell)
	case w.Pin != "" && w.Pin != w.Cell:
		return problem.Field("workspace.pin", "the workspace is pinned to %.80q, not to %q", w.Pin, w.Cell)
	case c.Capacity.Workspaces > 0 && int64(n) >= c.Capacity.Workspaces:
		return problem.New(problem.Unavailable, "cell %q has become full; try again", w.Cell)
	case w.AntiAffinity != "" && slices.Contains(groups, w.AntiAffinity):
		return problem.New(problem.Unavailable, "cell %q has got another workspace of group %q; try again", w.Cell, w.AntiAffinity)
	}
	return nil
}

func activate(s *State, index uint64, _ int64, b ActivateBody) (string, error) {
	w, ok := s.Workspaces[b.ID]
	if !ok {
		return "", problem.New(problem.NotFound, "there is no workspace %q", b.ID)
	}
	if w.Epoch != b.Epoch {
		return "", problem.New(problem.Conflict, "the epoch is %d, not %d", w.Epoch, b.Epoch)
	}
	if w.State == WorkspaceActive {
		return b.ID, nil
	}
	w.State, w.Version = WorkspaceActive, index
	s.Workspaces[b.ID] = w
	delete(s.creating, b.ID)
	return b.ID, nil
}

func createToken(s *State, index uint64, at int64, t OperatorToken) (string, error) {
	if err := validText("name", t.Name, 1, nameRunesMax); err != nil {
		return "", err
	}
	if t.ID == "" || t.Hash == "" {
		return "", problem.Field("token", "must have an id and a hash")
	}
	if _, ok := s.Tokens[t.ID]; ok {
		return "", problem.New(problem.Conflict, "operator token %s exists", t.ID)
	}
	if _, ok := s.hashes[t.Hash]; ok {
		return "", problem.New(problem.Conflict, "an operator token with this secret exists")
	}
	t.Version, t.Created = index, at
	s.Tokens[t.ID] = t
	s.hashes[t.Hash] = t.ID
	return t.ID, nil
}

func revokeToken(s *State, _ uint64, _ int64, b RevokeBody) (string, error) {
	t, ok := s.Tokens[b.ID]
	if !ok {
		return "", problem.New(problem.NotFound, "there is no operator token %q", b.ID)
	}
	if err := expect(b.Expected, t.Version); err != nil {
		return "", err
	}
	if len(s.Tokens) == 1 {
		return "", problem.New(problem.Conflict, "this is the last operator token: create another first")
	}
	delete(s.Tokens, b.ID)
	delete(s.hashes, t.Hash)
	return b.ID, nil
}

const seedBytes = 32

func addKey(s *State, _ uint64, _ int64, k SigningKey) (string, error) {
	if err := validKey(k); err != nil {
		return "", err
	}
	if _, ok := s.Keys[k.KID]; ok {
		return "", problem.New(problem.Conflict, "signing key %s exists", k.KID)
	}
	s.Keys[k.KID] = k
	return k.KID, nil
}

func validKey(k SigningKey) error {
	if k.KID == "" || len(k.Seed) != seedBytes || k.NotAfter <= k.NotBefore {
		return problem.Field("key", "must have an id, a seed of %d bytes, and a time", seedBytes)
	}
	return nil
}

func dropKey(s *State, _ uint64, _ int64, b RevokeBody) (string, error) {
	if _, ok := s.Keys[b.ID]; !ok {
		return "", problem.New(problem.NotFound, "there is no signing key %q", b.ID)
	}
	if len(s.Keys) == 1 {
		return "", problem.New(problem.Conflict, "this is the last signing key")
	}
	delete(s.Keys, b.ID)
	return b.ID, nil
}

func note(_ *State, _ uint64, _ int64, b NoteBody) (string, error) {
	return b.Action + " " + b.Object, nil
}
