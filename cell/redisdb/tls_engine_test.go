//go:build engines

package redisdb

import (
	"net"
	"strings"
	"testing"

	"parley/internal/credential/credentialtest"
)

// TestTLS: a Redis that speaks nothing else, and asks for certificates of its
// authority.
func TestTLS(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	plain := newProcess(t) // its host is the engines'
	host, _, _ := net.SplitHostPort(plain.addr)
	cert, key := ca.Pair("redis", host)
	port := freePort(t, host)
	newProcess(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca.File())
	files := ca.Files("parley")
	good := Config{
		Addrs: []string{net.JoinHostPort(host, port)}, KeyPrefix: testPrefix(),
		CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key,
	}
	if err := Check(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	d := open(t, good, Deps{})
	if _, err := d.Presence().Set(t.Context(), "g1", nil); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*Config){
		"another authority":             func(c *Config) { c.CAFile = other.File() },
		"a certificate of another's":    func(c *Config) { c.CertFile, c.KeyFile = other.Pair("parley") },
		"no certificate":                func(c *Config) { c.CertFile, c.KeyFile = "", "" },
		"no TLS":                        func(c *Config) { c.CAFile, c.CertFile, c.KeyFile = "", "", "" },
		"another name than its own":     func(c *Config) { c.Addrs = []string{strings.Replace(c.Addrs[0], host, "localhost", 1)} },
		"TLS where the server has none": func(c *Config) { c.Addrs = []string{plain.addr} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			edit(&cfg)
			err := Check(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), "redis "+cfg.Addrs[0]) || !strings.Contains(err.Error(), "redis.") {
				t.Errorf("Check says %v", err)
			}
			t.Log(err)
		})
	}
}
