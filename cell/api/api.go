// Package api is the chat HTTP API as a cell serves it: to edges, over HTTP/3 with
// mutual TLS. The edge has authenticated the caller; this package decides what
// the caller may do. The OpenAPI document is made from the types it registers.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Directory is what the API reads of the directory.
type Directory interface {
	Workspace(ctx context.Context, ws topology.WorkspaceID) (directory.Workspace, error)
	Workspaces(ctx context.Context, after topology.WorkspaceID, limit int) ([]directory.Workspace, error)
	PutWorkspace(ctx context.Context, w directory.Workspace) error
	User(ctx context.Context, p topology.Place, u topology.UserID) (directory.User, error)
	Users(ctx context.Context, p topology.Place, after topology.UserID, limit int) ([]directory.User, error)
	PutUsers(ctx context.Context, p topology.Place, us []directory.User) ([]directory.User, error)
}

// Rooms is what the API reads of channels and their members.
type Rooms interface {
	Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (directory.Channel, error)
	ChannelByName(ctx context.Context, p topology.Place, name string) (directory.Channel, error)
	ListChannels(ctx context.Context, p topology.Place, u topology.UserID, admin bool, after string, limit int) ([]directory.Channel, error)
	Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (directory.Membership, bool, error)
	Members(ctx context.Context, p topology.Place, ch topology.ChannelID, after topology.UserID, limit int) ([]topology.UserID, error)
	MemberCount(ctx context.Context, p topology.Place, ch topology.ChannelID) (int, error)
	FinishImport(ctx context.Context, p topology.Place, ch topology.ChannelID) error
}

// Roster changes memberships; see package roster.
type Roster interface {
	Create(ctx context.Context, p topology.Place, ch directory.Channel, members []topology.UserID) (directory.Channel, error)
	Add(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID) (topology.Rev, error)
	Remove(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID) (topology.Rev, error)
}

// Unread derives read states; see package unread.
type Unread interface {
	MarkRead(ctx context.Context, p topology.Place, u topology.UserID, ch topology.ChannelID, m topology.MessageID) (chat.ReadState, error)
	All(ctx context.Context, p topology.Place, u topology.UserID) ([]chat.ReadState, error)
}

// Deps is what the API stands on.
type Deps struct {
	Cell      topology.CellID
	Directory Directory
	Rooms     Rooms
	Roster    Roster
	Channels  channel.Servers
	Unread    Unread
	Marks     readstate.Store
	Search    Search             // nil = the cell has none
	Rebuild   Rebuild            // nil = as above
	Keys      func() []token.Key // the signing keys as the region's registry has them; nil = none
	Now       func() time.Time
	Log       *slog.Logger
}

// API serves the chat API of a cell.
type API struct {
	cell      topology.CellID
	directory Directory
	rooms     Rooms
	roster    Roster
	channels  channel.Servers
	unread    Unread
	marks     readstate.Store
	search    Search
	rebuild   Rebuild
	keys      func() []token.Key
	now       func() time.Time
	log       *slog.Logger
}

// requestMax bounds a request inside the cell: the edge gives up at 10 s.
const requestMax = 10 * time.Second

// Handler makes the API's handler. It starts nothing.
func Handler(d Deps) http.Handler {
	documentErrors()
	a := &API{
		cell: d.Cell, directory: d.Directory, rooms: d.Rooms, roster: d.Roster, channels: d.Channels,
		unread: d.Unread, marks: d.Marks, search: d.Search, rebuild: d.Rebuild, keys: d.Keys, now: d.Now, log: d.Log,
	}
	if a.keys == nil {
		a.keys = func() []token.Key { return nil }
	}
	public := http.NewServeMux()
	cfg := huma.DefaultConfig("Parley", "1")
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", ""
	cfg.Formats = jsonOnly()
	cfg.CreateHooks = nil // no $schema links in bodies: they are the seed's, exactly
	doc := humago.New(public, cfg)
	doc.OpenAPI().Info.Description = "Parley's chat API. The socket at /connect is described in docs/protocol.md."
	a.registerMessages(doc)
	a.registerChannels(doc)
	a.registerMembers(doc)
	a.registerUsers(doc)
	a.registerAdmin(doc)
	a.registerSearch(doc)
	documentEdge(doc)

	root := http.NewServeMux()
	root.Handle("/api/v1/", a.identify(documented(public)))
	root.HandleFunc("GET /api/v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		b, err := doc.OpenAPI().MarshalJSON()
		if err != nil {
			problem.Write(w, problem.Wrap(err, problem.Internal, "the document could not be made"))
			return
		}
		_, _ = w.Write(b) // the peer may be gone; nothing to do about it
	})
	a.registerInternal(root)
	return a.bounded(documented(root))
}

// documented answers what the mux does not know with problem documents. Every body
// is taken for JSON, whatever its type says: curl's default is a form, and a body
// that is no JSON is told so.
func documented(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Content-Type", "application/json")
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		said := refusal{header: http.Header{}}
		h.ServeHTTP(&said, r)
		if said.status == http.StatusMethodNotAllowed {
			allow := said.header.Get("Allow")
			w.Header().Set("Allow", allow)
			problem.Write(w, problem.New(problem.Method, "%s takes %s, not %s", r.URL.Path, allow, r.Method))
			return
		}
		problem.Write(w, problem.New(problem.NotFound, "no such path: %s", r.URL.Path))
	})
}

// refusal notes the status and the header of the mux's own answer.
type refusal struct {
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (s *refusal) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *refusal) WriteHeader(status int) { s.status = status }

// Write implements http.ResponseWriter.
func (s *refusal) Write(b []byte) (int, error) { return len(b), nil }

// bounded gives every request a deadline and turns a defect into a 500.
func (a *API) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestMax)
		defer cancel()
		defer func() {
			if v := recover(); v != nil {
				a.log.Error("request panicked", "path", r.URL.Path, "err", v)
				problem.Write(w, problem.New(problem.Internal, "internal error"))
			}
		}()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// route registers one operation. It logs what is our fault and shows the rest.
func route[I, O any](a *API, doc huma.API, method, path, id, summary string, status int, bodyMax int64, handle func(context.Context, *I) (*O, error)) {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: status, MaxBodyBytes: bodyMax,
		Errors: []int{
			http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
			http.StatusRequestEntityTooLarge, http.StatusTooManyRequests, http.StatusServiceUnavailable,
		},
	}
	huma.Register(doc, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err == nil {
			return out, nil
		}
		if k := problem.KindOf(err); k.Status() == http.StatusInternalServerError {
			a.log.Error("request failed", "operation", id, "err", err)
		}
		return nil, failure(err)
	})
}

// body is an answer with one.
type body[T any] struct{ Body T }

func answer[T any](v T) *body[T] { return &body[T]{Body: v} }
