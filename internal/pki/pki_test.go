package pki_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/internal/pki"
)

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *pki.Authority, role pki.Role) *pki.Bundle {
	t.Helper()
	b, err := a.Issue(pki.Identity{Region: "eu", Cell: "eu-1", Role: role, Name: "eu-1-" + string(role)}, []string{"localhost", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// handshake connects two configs over loopback and returns both sides' errors.
func handshake(t *testing.T, server, client *tls.Config) (peer pki.Identity, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			accepted <- err
			return
		}
		defer func() { _ = c.Close() }()
		s := tls.Server(c, server)
		err = s.HandshakeContext(ctx)
		if err == nil {
			peer, err = pki.PeerIdentity(s.ConnectionState())
		}
		accepted <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	clientErr = tls.Client(c, client).HandshakeContext(ctx)
	if clientErr != nil {
		_ = c.Close()
	}
	serverErr = <-accepted
	return peer, serverErr, clientErr
}

func TestMutualTLS_OnlyTheRolesExpected(t *testing.T) {
	a := authority(t)
	gateway, edge, cell := issue(t, a, pki.RoleGateway), issue(t, a, pki.RoleEdge), issue(t, a, pki.RoleCell)
	stranger := issue(t, authority(t), pki.RoleEdge)
	for name, c := range map[string]struct {
		server, client *tls.Config
		ok             bool
	}{
		"edge to gateway":             {gateway.Server(pki.RoleEdge), edge.Client(pki.RoleGateway), true},
		"cell refused by the gateway": {gateway.Server(pki.RoleEdge), cell.Client(pki.RoleGateway), false},
		"cell refused by the edge":    {cell.Server(pki.RoleEdge), edge.Client(pki.RoleGateway), false},
		"client of another authority": {gateway.Server(pki.RoleEdge), stranger.Client(pki.RoleGateway), false},
		"client without certificate":  {gateway.Server(pki.RoleEdge), &tls.Config{RootCAs: gateway.CAPool(), ServerName: "localhost"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			peer, serverErr, clientErr := handshake(t, c.server, c.client)
			if ok := serverErr == nil && clientErr == nil; ok != c.ok {
				t.Fatalf("server: %v, client: %v; want success %t", serverErr, clientErr, c.ok)
			}
			if c.ok {
				want := pki.Identity{Region: "eu", Cell: "eu-1", Role: pki.RoleEdge, Name: "eu-1-edge"}
				if d := cmp.Diff(want, peer); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestAuthority_IsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	first, err := pki.OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := pki.OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, serverErr, clientErr := handshake(t, issue(t, first, pki.RoleGateway).Server(pki.RoleEdge), issue(t, second, pki.RoleEdge).Client(pki.RoleGateway))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server: %v, client: %v", serverErr, clientErr)
	}
}

func TestBundle_IsWrittenAndLoaded(t *testing.T) {
	b, dir := issue(t, authority(t), pki.RoleEdge), t.TempDir()
	if err := b.Write(dir); err != nil {
		t.Fatal(err)
	}
	back, err := pki.LoadBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.Identity(), back.Identity()); d != "" {
		t.Error(d)
	}
	if _, err := pki.LoadBundle(t.TempDir()); err == nil {
		t.Error("an empty directory loads")
	}
}

func TestParseURI(t *testing.T) {
	id := pki.Identity{Role: pki.RoleControl, Name: "control-1"}
	back, err := pki.ParseURI(id.URI())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(id, back); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{
		"", "https://parley/region/eu/cell/-/role/edge/e", "spiffe://other/region/eu/cell/-/role/edge/e",
		"spiffe://parley/region/eu/cell/-/role/king/e", "spiffe://parley/region//cell/-/role/edge/e", "spiffe://parley/region/eu/cell/-/role/edge",
	} {
		if _, err := pki.ParseURI(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
