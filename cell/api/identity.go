package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// The headers in which an edge says whom it has authenticated. It strips what a
// client sends under these names.
const (
	HeaderWorkspace = "Parley-Workspace"
	HeaderUser      = "Parley-User"
	HeaderRole      = "Parley-Role"
	HeaderEpoch     = "Parley-Epoch"
	HeaderRequestID = "Parley-Request-Id"
)

// Roles in tokens.
const (
	roleMember = "member"
	roleAdmin  = "admin"
)

// caller is who asks, as the edge vouches for it, and where its workspace is.
type caller struct {
	Place topology.Place
	User  topology.UserID // "" for a tool with an admin token
	Admin bool
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller) // identify ran before every handler
	return c
}

// identify checks that the peer is an edge, that this cell is open for the
// workspace at the epoch the edge routed by, and that the user is one of it.
func (a *API) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := a.caller(w, r)
		if err != nil {
			problem.Write(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

func (a *API) caller(w http.ResponseWriter, r *http.Request) (caller, error) {
	if err := requireRole(r, pki.RoleEdge); err != nil {
		return caller{}, err
	}
	ws := topology.WorkspaceID(r.Header.Get(HeaderWorkspace))
	epoch, err := strconv.ParseUint(r.Header.Get(HeaderEpoch), 10, 64)
	if err != nil {
		return caller{}, problem.Field(HeaderEpoch, "must be a number")
	}
	row, err := a.directory.Workspace(r.Context(), ws)
	if err != nil && !problem.Is(err, problem.NotFound) {
		return caller{}, err
	}
	w.Header().Set(HeaderEpoch, strconv.FormatUint(uint64(row.Epoch), 10))
	if err != nil || !row.Open() || row.Epoch != topology.Epoch(epoch) {
		return caller{}, problem.New(problem.Moved, "this cell does not serve the workspace at that epoch")
	}
	c := caller{
		Place: topology.Place{Workspace: ws, Generation: row.Generation},
		User:  topology.UserID(r.Header.Get(HeaderUser)),
		Admin: r.Header.Get(HeaderRole) == roleAdmin,
	}
	if c.User == "" {
		if !c.Admin {
			return caller{}, problem.New(problem.Unauthentic, "the token names no user")
		}
		return c, nil
	}
	if _, err := a.directory.User(r.Context(), c.Place, c.User); err != nil {
		if problem.Is(err, problem.NotFound) {
			return caller{}, problem.New(problem.Unauthentic, "the token's user is not in this workspace")
		}
		return caller{}, err
	}
	return c, nil
}

// requireRole refuses a peer whose certificate is not of one of the roles.
func requireRole(r *http.Request, roles ...pki.Role) error {
	if r.TLS == nil {
		return problem.New(problem.Unauthentic, "a client certificate is needed")
	}
	id, err := pki.PeerIdentity(*r.TLS)
	if err != nil {
		return problem.Wrap(err, problem.Unauthentic, "the client certificate names no Parley role")
	}
	if slices.Contains(roles, id.Role) {
		return nil
	}
	return problem.New(problem.Denied, "role %s may not ask this", id.Role)
}
