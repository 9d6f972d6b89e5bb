package regions_test

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"parley/internal/pki"
	"parley/regions"
)

// TestCheck_SaysWhatAnswers: what is away, and what is no etcd or none of ours.
func TestCheck_SaysWhatAnswers(t *testing.T) {
	t.Parallel()
	ca, other := authority(t), authority(t)
	dir := t.TempDir()
	must(t, ca.issue(t, pki.RoleEtcd).Write(dir))
	conf := regions.EtcdConfig{Dir: t.TempDir(), ClientAddr: freeAddr(t), PeerAddr: freeAddr(t), TLSDir: dir, Log: testLog(t)}
	etcd, err := regions.StartEtcd(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	at, ours := conf.ClientAddr, ca.issue(t, pki.RoleGateway).Client(pki.RoleEtcd)
	if away, faults := regions.Check(t.Context(), []string{at, etcd.Endpoint()}, ours); len(away)+len(faults) > 0 {
		t.Errorf("what is right: %v", errors.Join(append(away, faults...)...))
	}
	plain := startEtcd(t)
	for name, c := range map[string]struct {
		endpoint string
		tls      *tls.Config
		away     bool
		says     string
	}{
		"nobody":                     {"127.0.0.1:1", ours, true, "can't be reached"},
		"silence":                    {answering(t, ""), ours, true, "does not answer"},
		"garbage":                    {answering(t, "HTTP/1.1 400 Bad Request\r\n\r\n"), ours, false, "speaks no TLS"},
		"without TLS":                {plain.conf.ClientAddr, ours, false, "no TLS with it"},
		"another authority":          {at, other.issue(t, pki.RoleGateway).Client(pki.RoleEtcd), false, "not from our authority"},
		"not an etcd's certificate":  {at, ca.issue(t, pki.RoleGateway).Client(pki.RoleEdge), false, "expected"},
		"a certificate of another's": {at, mixed(ours, other.issue(t, pki.RoleGateway).Client(pki.RoleEtcd)), false, "refuses this role's certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			away, faults := regions.Check(t.Context(), []string{c.endpoint}, c.tls)
			err := errors.Join(append(away, faults...)...)
			if err == nil || !strings.Contains(err.Error(), "etcd at "+c.endpoint) || !strings.Contains(err.Error(), c.says) || (len(away) > 0) != c.away {
				t.Errorf("away %v, faults %v; want %q", away, faults, c.says)
			}
		})
	}
}

type testAuthority struct{ *pki.Authority }

func authority(t *testing.T) testAuthority {
	t.Helper()
	ca, err := pki.OpenAuthority(t.TempDir())
	must(t, err)
	return testAuthority{ca}
}

func (a testAuthority) issue(t *testing.T, role pki.Role) *pki.Bundle {
	t.Helper()
	id := pki.Identity{Region: "eu", Role: role, Name: "n"}
	if role == pki.RoleGateway {
		id.Cell = "eu-1"
	}
	b, err := a.Issue(id, []string{"127.0.0.1"})
	must(t, err)
	return b
}

// mixed trusts as one config and shows the certificate of another.
func mixed(trust, show *tls.Config) *tls.Config {
	c := trust.Clone()
	c.Certificates = show.Certificates
	return c
}

// answering says one thing to whoever connects, and then is silent.
func answering(t *testing.T, says string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
			_, _ = c.Write([]byte(says))
		}
		for _, c := range open {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return l.Addr().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
