package directory_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"parley/cell/directory"
	"parley/internal/problem"
)

// answering is a server that says one thing to whoever connects.
func answering(t *testing.T, say func(net.Conn)) directory.Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // what fails shows in the test
			say(c)
			_ = c.Close() // as above
		}
	}()
	t.Cleanup(func() {
		_ = l.Close() // ends the loop
		<-ended
	})
	at := l.Addr().(*net.TCPAddr)
	cfg := directory.DefaultConfig()
	cfg.Host, cfg.Port, cfg.Database, cfg.User = "127.0.0.1", at.Port, "cell", "parley"
	cfg.ConnectTimeout = 200 * time.Millisecond
	return cfg
}

// refusing answers a start with an error.
func refusing(code, message string) func(net.Conn) {
	return func(c net.Conn) {
		b := pgproto3.NewBackend(c, c)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message})
		_ = b.Flush() // what fails shows in the test
	}
}

func TestCheck_SaysWhyThereIsNoConnection(t *testing.T) {
	for name, c := range map[string]struct {
		server func(net.Conn)
		say    string
	}{
		"wrong password":  {refusing("28P01", "password authentication failed"), "mend password_file"},
		"not let in":      {refusing("28000", "no pg_hba.conf entry for host"), "pg_hba.conf"},
		"no database":     {refusing("3D000", "database does not exist"), "CREATE DATABASE"},
		"no privilege":    {refusing("42501", "permission denied for database"), "GRANT CONNECT"},
		"all taken":       {refusing("53300", "too many clients already"), "max_connections"},
		"starting":        {refusing("57P03", "the database system is starting up"), "starting up"},
		"something else":  {refusing("XX000", "the moon is full"), "the moon is full"},
		"another service": {func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "does not speak Postgres's protocol"},
		"silence":         {func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)); _, _ = c.Read(make([]byte, 1)) }, "does not answer within 200ms"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := answering(t, c.server)
			_, opened := directory.OpenPostgres(t.Context(), cfg, time.Now, nil)
			for how, err := range map[string]error{"Check": directory.Check(t.Context(), cfg), "Open": opened} {
				if err == nil || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), "postgres 127.0.0.1:") || !problem.Is(err, problem.Unavailable) {
					t.Errorf("%s: %v, not %q", how, err, c.say)
				}
			}
		})
	}
}

func TestConfig_Validate(t *testing.T) {
	good := directory.DefaultConfig()
	good.URL = "postgres://parley@db.example:5432/cell?sslmode=require"
	if err := good.Validate(); err != nil {
		t.Errorf("a good one: %v", err)
	}
	bad := directory.Config{
		URL: "postgres://parley:secret@db.example/cell", Host: "db.example", Schema: `x"; DROP`, CertFile: "c.pem", MaxConns: 1,
		ConnectTimeout: time.Millisecond, StatementTimeout: time.Hour, LockTimeout: 2 * time.Hour, IdleTimeout: time.Millisecond, CallMax: time.Second,
		AwayAfter: time.Nanosecond, StaleMax: 2 * time.Hour,
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no fault is found")
	}
	for _, field := range []string{
		"url: says host", "url: must not hold a password", "schema", "cert_file", "ca_file", "max_conns", "connect_timeout", "statement_timeout",
		"lock_timeout", "idle_in_transaction_session_timeout", "call_timeout", "away_after", "stale_max",
	} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("nothing of %s in: %v", field, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the password shows: %v", err)
	}
	err = directory.Config{}.Validate()
	for _, field := range []string{"host", "database", "user"} {
		if err == nil || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("nothing of %s in: %v", field, err)
		}
	}
}

func TestCheck_Files(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	base := directory.DefaultConfig()
	base.Host, base.Database, base.User = "127.0.0.1", "cell", "parley"
	for field, set := range map[string]func(*directory.Config){
		"password_file": func(c *directory.Config) { c.PasswordFile = empty + "-not" },
		"ca_file":       func(c *directory.Config) { c.CAFile = empty },
		"cert_file":     func(c *directory.Config) { c.CAFile, c.CertFile, c.KeyFile = caFile(t), empty, empty },
	} {
		cfg := base
		set(&cfg)
		if err := directory.Check(t.Context(), cfg); !problem.Is(err, problem.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// certificate is one of 127.0.0.1, signed by itself.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0]
}

func caFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate(t).Certificate[0]})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// withTLS answers a client that asks for TLS.
func withTLS(answer byte, then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, 8)); err == nil {
			_, _ = c.Write([]byte{answer}) // what fails shows in the test
			then(c)
		}
	}
}

func TestCheck_TLS(t *testing.T) {
	ours := certificate(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	strange := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	over := func(cert tls.Certificate) func(net.Conn) {
		return func(c net.Conn) {
			refusing("28P01", "no")(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
		}
	}
	for name, c := range map[string]struct {
		server func(net.Conn)
		say    string
	}{
		"no TLS":            {withTLS('N', func(net.Conn) {}), "has no TLS"},
		"another authority": {withTLS('S', over(strange)), "mend ca_file"},
		"ours":              {withTLS('S', over(ours)), "mend password_file"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := answering(t, c.server)
			cfg.CAFile, cfg.ConnectTimeout = caFile(t), 5*time.Second
			if err := directory.Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v, not %q", err, c.say)
			}
		})
	}
}
