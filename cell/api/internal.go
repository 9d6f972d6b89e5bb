package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"parley/cell/directory"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// WorkspaceOrder is the body of PUT /internal/v1/workspaces/{id}: how the control
// plane opens a workspace in this cell.
type WorkspaceOrder struct {
	Epoch      topology.Epoch      `json:"epoch"`
	Generation topology.Generation `json:"generation"`
	Slug       string              `json:"slug"`
	Name       string              `json:"name"`
	State      string              `json:"state"`
}

// workspaceRoute is one row of GET /internal/v1/workspaces: what an edge that
// knows nothing asks the cells of its config for.
type workspaceRoute struct {
	Workspace topology.WorkspaceID `json:"workspace"`
	Epoch     topology.Epoch       `json:"epoch"`
	Cell      topology.CellID      `json:"cell"`
}

// orderBytesMax bounds the body of an order: it holds a few short names.
const orderBytesMax = 16 << 10

// registerInternal adds what only our own roles may ask.
func (a *API) registerInternal(mux *http.ServeMux) {
	mux.HandleFunc("PUT /internal/v1/workspaces/{id}", a.openWorkspace)
	mux.HandleFunc("GET /internal/v1/workspaces", a.listWorkspaces)
	mux.HandleFunc("GET /internal/v1/keys", a.listKeys)
}

// Key is the public half of a signing key, one row of GET /internal/v1/keys: an
// edge that knows nothing must be able to verify tokens, too.
type Key struct {
	KID       string    `json:"kid"`
	Public    []byte    `json:"public"` // Ed25519, 32 bytes
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

func (a *API) listKeys(w http.ResponseWriter, r *http.Request) {
	if err := requireRole(r, pki.RoleEdge); err != nil {
		problem.Write(w, err)
		return
	}
	keys := []Key{}
	for _, k := range a.keys() {
		keys = append(keys, Key{KID: k.KID, Public: k.Public, NotBefore: k.NotBefore, NotAfter: k.NotAfter})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(keys) // the peer may be gone; nothing to do about it
}

func (a *API) openWorkspace(w http.ResponseWriter, r *http.Request) {
	if err := requireRole(r, pki.RoleControl); err != nil {
		problem.Write(w, err)
		return
	}
	var o WorkspaceOrder
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, orderBytesMax))
	d.DisallowUnknownFields()
	err := d.Decode(&o)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows it")
		}
	}
	if err != nil {
		problem.Write(w, problem.Wrap(err, problem.Invalid, "the body is not a workspace order: %v", err))
		return
	}
	if o.State != string(directory.StateOpen) {
		problem.Write(w, problem.Field("state", "must be %q", directory.StateOpen))
		return
	}
	err = a.directory.PutWorkspace(r.Context(), directory.Workspace{
		ID: topology.WorkspaceID(r.PathValue("id")), Epoch: o.Epoch, Generation: o.Generation, State: directory.StateOpen,
		Slug: o.Slug, Name: o.Name,
	})
	if err != nil {
		problem.Write(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *API) listWorkspaces(w http.ResponseWriter, r *http.Request) {
	if err := requireRole(r, pki.RoleEdge, pki.RoleControl); err != nil {
		problem.Write(w, err)
		return
	}
	limit := 1000
	if s := r.URL.Query().Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > limit {
			problem.Write(w, problem.Field("limit", "must be between 1 and %d", limit))
			return
		}
		limit = n
	}
	rows, err := a.directory.Workspaces(r.Context(), topology.WorkspaceID(r.URL.Query().Get("after")), limit)
	if err != nil {
		problem.Write(w, err)
		return
	}
	out := make([]workspaceRoute, 0, len(rows))
	for _, row := range rows {
		if row.Open() {
			out = append(out, workspaceRoute{Workspace: row.ID, Epoch: row.Epoch, Cell: a.cell})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the peer may be gone; nothing to do about it
}
