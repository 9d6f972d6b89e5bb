package controlplane

import (
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/pki"
	"parley/internal/problem"
)

// passedOn reports whether another node sent a request on, and for whom: only a
// node's word counts.
func passedOn(r *http.Request) (from string, ok bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", false
	}
	id, err := pki.PeerIdentity(*r.TLS)
	from = r.Header.Get(headerFrom)
	return from, err == nil && id.Role == pki.RoleControl && from != ""
}

// from is the caller's address.
func from(r *http.Request) string {
	if addr, ok := passedOn(r); ok {
		return addr
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// toLeader passes on to the leader what this node can't answer itself.
func (a *api) toLeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, id := a.n.raft.LeaderWithID()
		if a.n.stall.is() && !answersItself(r) {
			a.refuse(w, r, problem.New(problem.Unavailable, "this node's disk stalls; ask another"))
			return
		}
		if answersItself(r) || string(id) == a.n.cfg.ID {
			next.ServeHTTP(w, r)
			return
		}
		p, ok := a.n.cfg.peer(string(id))
		target, err := url.Parse(p.APIURL)
		_, again := passedOn(r) // two nodes that take each other for the leader
		if !ok || err != nil || again {
			a.refuse(w, r, problem.New(problem.Unavailable, "there is no leader now; try again"))
			return
		}
		proxy := httputil.ReverseProxy{
			Transport: a.proxy, FlushInterval: -1,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(target)
				p.Out.Header.Set(headerFrom, from(p.In))
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { a.refuse(w, r, proxyError(err)) },
		}
		proxy.ServeHTTP(w, r)
	})
}

func proxyError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" { // no byte was sent
		return problem.Wrap(err, problem.Unavailable, "the leader can't be reached; try again")
	}
	return problem.Wrap(err, problem.Unknown, "the leader did not answer; look whether the change is there")
}

// answersItself reports whether a call needs no leader.
func answersItself(r *http.Request) bool {
	switch r.URL.Path {
	case controlv1connect.ControlServiceGetStatusProcedure, controlv1connect.ControlServiceWatchProcedure,
		controlv1connect.ControlServiceListPeersProcedure:
		return true
	}
	return r.Header.Get(HeaderConsistency) == "stale" && reads(r.URL.Path)
}

// reads reports whether a call changes nothing: its name says so.
func reads(procedure string) bool {
	name := procedure[strings.LastIndexByte(procedure, '/')+1:]
	for _, verb := range []string{"Get", "List", "Explain"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}
