package channelnet

import (
	"context"
	"net/http"
	"sync"
	"time"

	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

type identityKey struct{}

// identified lets the handler know whose certificate it was.
func identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			problem.Write(w, problem.New(problem.Unauthentic, "a certificate is needed"))
			return
		}
		id, err := pki.PeerIdentity(*r.TLS)
		if err != nil {
			problem.Write(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

func roleOf(ctx context.Context) (pki.Role, error) {
	id, ok := ctx.Value(identityKey{}).(pki.Identity)
	if !ok {
		return "", problem.New(problem.Unauthentic, "a certificate is needed")
	}
	return id.Role, nil
}

// allowed says what a role may ask (N4): who has no gateways has no users to ask
// for, and speaks of ownership only.
func allowed(r pki.Role, c *cellv1.Call) error {
	switch c.GetAsk().(type) {
	case *cellv1.Call_Ping, *cellv1.Call_Wake, *cellv1.Call_Free:
		return nil
	default:
		if r == pki.RoleGateway {
			return nil
		}
		return problem.New(problem.Denied, "a process with the role %s may not ask for messages; its certificate needs the role %s", r, pki.RoleGateway)
	}
}

const (
	placesTTL = 2 * time.Second
	placesMax = 1 << 16
	// placesWait bounds the question: the directory's outages must not become those
	// of reading.
	placesWait = 250 * time.Millisecond
)

// places remembers for a while which workspaces the cell has.
type places struct {
	known func(context.Context, topology.Place) (bool, error)

	mu sync.Mutex
	at map[topology.Place]time.Time // let through then
}

func newPlaces(known func(context.Context, topology.Place) (bool, error)) *places {
	return &places{known: known, at: map[topology.Place]time.Time{}}
}

// check refuses with kind Moved what is of no workspace of this cell at its present
// generation.
func (p *places) check(ctx context.Context, place topology.Place) error {
	p.mu.Lock()
	at, ok := p.at[place]
	p.mu.Unlock()
	if ok && time.Since(at) < placesTTL {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, placesWait)
	defer cancel()
	if known, err := p.known(ctx, place); err == nil && !known {
		return problem.New(problem.Moved, "the workspace is not open in this cell")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.at) >= placesMax {
		clear(p.at)
	}
	p.at[place] = time.Now()
	return nil
}
