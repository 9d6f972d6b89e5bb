//go:build engines

package directory_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"parley/cell/directory"
	"parley/internal/credential/credentialtest"
)

// withTLSOn has the server under test speak TLS, too, for the time of the test.
func withTLSOn(t *testing.T, ca *credentialtest.Authority, host string) {
	t.Helper()
	u := server(t)
	db, err := admin(u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var data string
	if err := db.QueryRowContext(t.Context(), "SHOW data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	owner, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := ca.Pair("postgres", host)
	set := []string{"ALTER SYSTEM SET ssl = on"}
	for name, file := range map[string]string{"ssl_cert_file": cert, "ssl_key_file": key, "ssl_ca_file": ca.File()} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		own := filepath.Join(data, "test-"+filepath.Base(file))
		if err := os.WriteFile(own, b, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(own) })
		if at, ok := owner.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			if err := os.Chown(own, int(at.Uid), int(at.Gid)); err != nil {
				t.Fatal(err)
			}
		}
		set = append(set, fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, own))
	}
	t.Cleanup(func() {
		if err := run(u, "ALTER SYSTEM RESET ssl", "ALTER SYSTEM RESET ssl_cert_file", "ALTER SYSTEM RESET ssl_key_file", "ALTER SYSTEM RESET ssl_ca_file", "SELECT pg_reload_conf()"); err != nil {
			t.Error(err)
		}
	})
	if err := run(u, append(set, "SELECT pg_reload_conf()")...); err != nil {
		t.Fatal(err)
	}
	for on, until := "", time.Now().Add(10*time.Second); on != "on"; { // it reads its settings a moment later
		if err := db.QueryRowContext(t.Context(), "SHOW ssl").Scan(&on); err != nil || time.Now().After(until) {
			t.Fatal(on, err)
		}
	}
}

// TestPostgres_TLS: the real one, which looks at our certificate, too.
func TestPostgres_TLS(t *testing.T) {
	ca, other := credentialtest.New(t), credentialtest.New(t)
	s := database(t)
	u := server(t)
	withTLSOn(t, ca, u.Hostname())
	good := s.cfg
	direct := *s.admin
	word, _ := direct.User.Password()
	direct.User, direct.RawQuery = url.User(direct.User.Username()), ""
	good.URL, good.ConnectTimeout, good.ApplicationName = direct.String(), 3*time.Second, "parley over tls"
	good.PasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(good.PasswordFile, []byte(word), 0o600); err != nil {
		t.Fatal(err)
	}
	files := ca.Files("parley")
	good.CAFile, good.CertFile, good.KeyFile = files.CA, files.Cert, files.Key
	d, err := directory.OpenPostgres(t.Context(), good, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	db, err := admin(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	var plain int
	var names string
	err = db.QueryRowContext(t.Context(), `SELECT COUNT(*) FILTER (WHERE NOT ssl), COALESCE(MAX(client_dn), '') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1`, good.ApplicationName).Scan(&plain, &names)
	if err != nil || plain != 0 || names != "/CN=parley" {
		t.Errorf("%d connections without TLS, the server saw the certificate of %q: %v", plain, names, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	_ = db.Close()
	front, err := url.Parse(s.cfg.URL) // the proxy's address is not in the certificate
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit func(*directory.Config)
		says string
	}{
		"another authority":          {func(c *directory.Config) { c.CAFile = other.File() }, "mend ca_file"},
		"another name":               {func(c *directory.Config) { c.URL = strings.Replace(c.URL, u.Host, front.Host, 1) }, "mend ca_file"},
		"a certificate of another's": {func(c *directory.Config) { c.CertFile, c.KeyFile = other.Pair("parley") }, "mend cert_file"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			c.edit(&bad)
			if err := directory.Check(t.Context(), bad); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Check says %v, not %q", err, c.says)
			}
		})
	}
}
