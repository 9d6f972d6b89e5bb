package detour_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/internal/detour"
	"parley/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMap_Validate(t *testing.T) {
	good := detour.Map{"10.0.3.1:9042": "127.0.0.1:19042", "db.example:5432": "bastion.example:15432", "[2001:db8::1]:9092": "[::1]:19092"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"10.0.3.1":             "is not host:port",
		"10.0.3.1:":            "is not host:port",
		":9042":                "is not host:port",
		"10.0.3.1:0":           "is not host:port",
		"10.0.3.1:90420":       "is not host:port",
		"http://10.0.3.1:9200": "is not host:port",
		"DB.example:5432":      `must be written "db.example:5432"`,
		"[2001:DB8:0::1]:9092": `must be written "[2001:db8::1]:9092"`,
	} {
		for _, m := range []detour.Map{{addr: "127.0.0.1:1"}, {"127.0.0.1:1": addr}} {
			err := m.Validate()
			if !problem.Is(err, problem.Invalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: want %q, got %v", m, want, err)
			}
		}
	}
}

func TestMap_Leads(t *testing.T) {
	m := detour.Map{"db.example:5432": "127.0.0.1:1", "[2001:db8::1]:1": "127.0.0.1:1"}
	for host, want := range map[string]bool{"db.example": true, "2001:db8::1": true, "127.0.0.1": false, "": false} {
		if m.Leads(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

// listen accepts one connection after the other, and greets each.
func listen(t *testing.T, conf *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			_, _ = c.Write([]byte("hello")) // who dialled notices
			_ = c.Close()
		}
	}()
	return at
}

func greeted(t *testing.T, d *detour.Dialer, addr string) error {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it was read
	b := make([]byte, 5)
	_, err = c.Read(b)
	return err
}

func TestDialer_GoesWhereTheMapLeads(t *testing.T) {
	at := listen(t, nil)
	d := &detour.Dialer{Via: detour.Map{"nowhere.invalid:1": at, at: "127.0.0.1:1"}}
	if err := greeted(t, d, "nowhere.invalid:1"); err != nil {
		t.Errorf("what is named nowhere.invalid is not reached, or was looked up twice: %v", err)
	}
	if err := greeted(t, d, at); err == nil {
		t.Error("an address with a detour was dialled itself")
	}
	if err := greeted(t, &detour.Dialer{}, at); err != nil {
		t.Errorf("without a map: %v", err)
	}
}

func TestDialer_TheOtherEndGoesByItsName(t *testing.T) {
	at := listen(t, nil)
	d := &detour.Dialer{Via: detour.Map{"192.0.2.1:9042": at, "db.invalid:5432": at}}
	for addr, want := range map[string]string{"192.0.2.1:9042": "192.0.2.1:9042", "db.invalid:5432": at, at: at} {
		c, err := d.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := c.RemoteAddr().(*net.TCPAddr); !ok || got.String() != want {
			t.Errorf("%s: the other end is %v, not %s", addr, got, want)
		}
		if _, ok := c.(syscall.Conn); !ok { // go-redis looks through it for what is unread
			t.Error("it hides the socket")
		}
		_ = c.Close() // nothing was written
	}
}

// certificate is one that signs itself for a name.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestDialer_TLSIsWithTheNamedServer(t *testing.T) {
	cert, pool := certificate(t, "db.example")
	at := listen(t, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	d := &detour.Dialer{Via: detour.Map{"db.example:5432": at, "other.example:5432": at}, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	if err := greeted(t, d, "db.example:5432"); err != nil {
		t.Error(err)
	}
	if _, ok := errors.AsType[x509.HostnameError](greeted(t, d, "other.example:5432")); !ok {
		t.Error("a server with another name was trusted")
	}
}

func TestDialer_TimeoutBoundsTheHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nobody accepted
	d := &detour.Dialer{Net: net.Dialer{Timeout: 50 * time.Millisecond}, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	if err := greeted(t, d, l.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
