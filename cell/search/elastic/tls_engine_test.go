//go:build engines

package elastic_test

import (
	"strings"
	"testing"

	"parley/cell/search/elastic"
	"parley/internal/credential/credentialtest"
)

// TestTLS: our side of it, at a proxy in front of the engine, which has none.
func TestTLS(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	cfg := config(t)
	files := ca.Files("parley")
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = files.CA, files.Cert, files.Key
	cfg.Addresses = []string{"https://" + ca.Front("127.0.0.1:0", strings.TrimPrefix(engine(t), "http://"))}
	open(t, cfg)
	for name, c := range map[string]struct {
		edit func(*elastic.Config)
		says string
	}{
		"another authority":        {func(c *elastic.Config) { c.CAFile = other.File() }, "check ca_file"},
		"the system's authorities": {func(c *elastic.Config) { c.CAFile = "" }, "check ca_file"},
		"another name": {func(c *elastic.Config) {
			c.Addresses = []string{strings.Replace(c.Addresses[0], "127.0.0.1", "localhost", 1)}
		}, "its certificate is not trusted"},
		"a certificate of another's": {func(c *elastic.Config) { c.CertFile, c.KeyFile = other.Pair("parley") }, "check cert_file"},
		"no certificate":             {func(c *elastic.Config) { c.CertFile, c.KeyFile = "", "" }, "check cert_file"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := cfg
			c.edit(&bad)
			if err := elastic.Check(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "elasticsearch "+bad.Addresses[0]) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Check says %v, not %q", err, c.says)
			}
		})
	}
}

// TestOpen_OneAddressAway: with several addresses a node may be away.
func TestOpen_OneAddressAway(t *testing.T) {
	cfg := config(t)
	cfg.Addresses = append(cfg.Addresses, "http://127.0.0.1:1")
	if err := elastic.Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:1: it can't be reached") {
		t.Errorf("Check says %v", err)
	}
	open(t, cfg)
}
