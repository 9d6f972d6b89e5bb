package state

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"

	"parley/internal/problem"
)

// snapshotVersion is the format that Write writes and the only one Read takes: a
// line of JSON, then a line with its SHA-256 in hex.
const snapshotVersion = 1

type snapshot struct {
	V     int    `json:"v"`
	State *State `json:"state"`
}

// Write writes the whole state.
func (s *State) Write(w io.Writer) error {
	h := sha256.New()
	if err := json.NewEncoder(io.MultiWriter(w, h)).Encode(snapshot{V: snapshotVersion, State: s}); err != nil {
		return err
	}
	_, err := io.WriteString(w, hex.EncodeToString(h.Sum(nil))+"\n")
	return err
}

// Read reads what Write has written, and refuses whatever is not whole: a state
// that breaks a rule would stop every node that applies the next entry to it.
func Read(r io.Reader) (*State, error) {
	br := bufio.NewReader(r)
	h := sha256.New()
	line := io.TeeReader(&firstLine{r: br}, h)
	snap := snapshot{State: New()}
	d := json.NewDecoder(line)
	if err := d.Decode(&snap); err != nil {
		return nil, broken(err, "this is no snapshot of a control plane")
	}
	if snap.V != snapshotVersion {
		return nil, problem.New(problem.Unsupported, "the snapshot has version %d, this build reads %d", snap.V, snapshotVersion)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, broken(err, "the snapshot has more in its first line than a state")
	}
	const most = int64(2*sha256.Size + len("\n"))
	sum, err := io.ReadAll(io.LimitReader(br, most+1))
	if err != nil {
		return nil, broken(err, "the snapshot can't be read to its end")
	}
	if string(sum) != hex.EncodeToString(h.Sum(nil))+"\n" {
		return nil, broken(nil, "the snapshot is damaged or cut off: its checksum is wrong")
	}
	if snap.State == nil {
		return nil, broken(nil, "the snapshot holds no state")
	}
	snap.State.complete()
	if err := snap.State.check(); err != nil {
		return nil, err
	}
	snap.State.index()
	return snap.State, nil
}

func broken(err error, what string) error { return problem.Wrap(err, problem.Invalid, "%s", what) }

// firstLine reads to the end of a line, that included.
type firstLine struct {
	r     *bufio.Reader
	ended bool
}

// Read implements io.Reader.
func (l *firstLine) Read(p []byte) (int, error) {
	if l.ended || len(p) == 0 {
		return 0, io.EOF
	}
	if _, err := l.r.Peek(1); err != nil {
		return 0, err
	}
	b, _ := l.r.Peek(min(l.r.Buffered(), len(p))) // what is buffered is there
	n := copy(p, b)
	for i, c := range p[:n] {
		if c == '\n' {
			n, l.ended = i+1, true
			break
		}
	}
	return l.r.Discard(n)
}

// complete makes the maps that a snapshot may lack.
func (s *State) complete() {
	whole(&s.Regions)
	whole(&s.Cells)
	whole(&s.Workspaces)
	whole(&s.Tokens)
	whole(&s.Keys)
}

func whole[V any](m *map[string]V) {
	if *m == nil {
		*m = map[string]V{}
	}
}

// check holds a state against the rules that the appliers keep.
func (s *State) check() error {
	slugs, hashes := map[string]bool{}, map[string]bool{}
	for id, r := range s.Regions {
		if r.ID != id || len(r.Etcd) == 0 {
			return problem.Field("regions", "region %.80q is not as it can be", id)
		}
	}
	for id, c := range s.Cells {
		if _, ok := s.Regions[c.Region]; !ok || c.ID != id {
			return problem.Field("cells", "cell %.80q is not as it can be", id)
		}
	}
	for id, w := range s.Workspaces {
		if _, ok := s.Cells[w.Cell]; !ok || w.ID != id || slugs[w.Slug] {
			return problem.Field("workspaces", "workspace %.80q is not as it can be", id)
		}
		slugs[w.Slug] = true
	}
	for id, t := range s.Tokens {
		if t.ID != id || t.Hash == "" || hashes[t.Hash] {
			return problem.Field("tokens", "operator token %.80q is not as it can be", id)
		}
		hashes[t.Hash] = true
	}
	for id, k := range s.Keys {
		if k.KID != id || validKey(k) != nil {
			return problem.Field("keys", "signing key %.80q is not as it can be", id)
		}
	}
	return nil
}
