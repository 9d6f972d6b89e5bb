//go:build engines

package kafka_test

import (
	"strings"
	"testing"

	"parley/cell/kafka"
	"parley/internal/credential/credentialtest"
)

// TestKafka_TLS: our side of it. The broker behind the proxy has none, and advertises
// its own address, so this goes as far as what is asked of the named brokers.
func TestKafka_TLS(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	cfg := newConfig(addresses(t)[:1])
	plain := cfg.Brokers[0]
	cfg.Brokers = []string{ca.Front("127.0.0.1:0", plain)}
	cfg.Replication = 1
	files := ca.Files("parley")
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = files.CA, files.Cert, files.Key
	// All that is wrong is that the broker itself has no TLS: the front was passed.
	err := kafka.Check(t.Context(), cfg)
	if err == nil || strings.Contains(err.Error(), "trusted") || !strings.Contains(err.Error(), "kafka at "+plain+": hangs up") || !strings.Contains(err.Error(), "advertised.listeners") {
		t.Errorf("what is right at the named broker: %v", err)
	}
	for name, c := range map[string]struct {
		edit func(*kafka.Config)
		says string
	}{
		"another authority": {func(c *kafka.Config) { c.CAFile = other.File() }, "its certificate is not trusted"},
		"another name": {func(c *kafka.Config) {
			c.Brokers = []string{strings.Replace(c.Brokers[0], "127.0.0.1", "localhost", 1)}
		}, "its certificate is not trusted"},
		"a certificate of another's": {func(c *kafka.Config) { c.CertFile, c.KeyFile = other.Pair("parley") }, "mend cert_file"},
		"no certificate":             {func(c *kafka.Config) { c.CertFile, c.KeyFile = "", "" }, "mend cert_file"},
		"no TLS":                     {func(c *kafka.Config) { c.CAFile, c.CertFile, c.KeyFile = "", "", "" }, "ca_file"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := cfg
			c.edit(&bad)
			wantFault(t, bad, "kafka at "+bad.Brokers[0], c.says)
		})
	}
}
