//go:build engines

package cassandra_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"parley/cell/cassandra"
	"parley/internal/credential/credentialtest"
)

// TestCassandra_TLS: our side of it, at a proxy in front of a node, which has none.
// Check speaks to the named nodes only, by the address they are named by.
func TestCassandra_TLS(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	node, _, _ := strings.Cut(os.Getenv("PARLEY_TEST_CASSANDRA"), ",")
	cfg := config(t)
	files := ca.Files("parley")
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = files.CA, files.Cert, files.Key
	cfg.Hosts = []string{ca.Front("127.0.0.1:0", node)}
	if err := cassandra.Check(t.Context(), cfg); err != nil {
		t.Fatalf("what is right: %v", err)
	}
	_, port, _ := net.SplitHostPort(cfg.Hosts[0])
	for name, edit := range map[string]func(*cassandra.Config){
		"another authority":             func(c *cassandra.Config) { c.CAFile = other.File() },
		"another name":                  func(c *cassandra.Config) { c.Hosts = []string{"localhost:" + port} },
		"a certificate of another's":    func(c *cassandra.Config) { c.CertFile, c.KeyFile = other.Pair("parley") },
		"no certificate":                func(c *cassandra.Config) { c.CertFile, c.KeyFile = "", "" },
		"no TLS":                        func(c *cassandra.Config) { c.CAFile, c.CertFile, c.KeyFile = "", "", "" },
		"TLS where the server has none": func(c *cassandra.Config) { c.Hosts = []string{node} },
	} {
		t.Run(name, func(t *testing.T) {
			bad := cfg
			edit(&bad)
			err := cassandra.Check(t.Context(), bad)
			if err == nil || !strings.Contains(err.Error(), bad.Hosts[0]) || !strings.Contains(err.Error(), "_file") {
				t.Errorf("Check says %v", err)
			}
			t.Log(err)
		})
	}
}
