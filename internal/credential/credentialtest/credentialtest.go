// Package credentialtest makes authorities and certificates, and puts TLS in front
// of engines that have none, for tests of what drivers check.
package credentialtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"parley/internal/credential"
)

// Authority signs certificates for a test.
type Authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority.
func New(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{tb: tb}
	a.key = newKey(tb)
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.key)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// sign gives a certificate for a key; the authority's own signs itself.
func (a *Authority) sign(c *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.tb.Helper()
	c.SerialNumber = new(big.Int).SetBytes([]byte(rand.Text()))
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.tb.Fatal(err)
	}
	return signed
}

// leaf is a certificate, for either side, of hosts or of somebody.
func (a *Authority) leaf(name string, hosts ...string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.tb.Helper()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	key := newKey(a.tb)
	return a.sign(c, key), key
}

// File holds the authority's certificate.
func (a *Authority) File() string { return a.write("ca.pem", "CERTIFICATE", a.cert.Raw) }

// Files are a client's: the authority, and a certificate of a name with its key.
func (a *Authority) Files(name string) credential.Files {
	a.tb.Helper()
	f := credential.Files{CA: a.File()}
	f.Cert, f.Key = a.Pair(name)
	return f
}

// Pair is the files of a certificate and its key, of a name and of hosts.
func (a *Authority) Pair(name string, hosts ...string) (certFile, keyFile string) {
	a.tb.Helper()
	cert, key := a.leaf(name, hosts...)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return a.write("cert.pem", "CERTIFICATE", cert.Raw), a.write("key.pem", "PRIVATE KEY", der)
}

func (a *Authority) write(name, kind string, der []byte) string {
	a.tb.Helper()
	file := filepath.Join(a.tb.TempDir(), name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.tb.Fatal(err)
	}
	return file
}

// Server is the config of a server of such hosts, which asks for a certificate of
// the same authority.
func (a *Authority) Server(hosts ...string) *tls.Config {
	a.tb.Helper()
	cert, key := a.leaf(hosts[0], hosts...)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
	}
}

// Front ends TLS on an address, with the authority's certificate for its host, and
// passes what comes on to an engine without. It lives as long as the test.
func (a *Authority) Front(listen, engine string) (addr string) {
	a.tb.Helper()
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		a.tb.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(a.tb.Context(), "tcp", listen)
	if err != nil {
		a.tb.Fatal(err)
	}
	f := &front{engine: engine, conf: a.Server(host), open: map[net.Conn]bool{}}
	f.work.Go(func() { f.accept(l) })
	a.tb.Cleanup(func() {
		_ = l.Close() // ends accept
		f.closeAll()
		f.work.Wait()
	})
	return l.Addr().String()
}

// front is a proxy.
type front struct {
	engine string
	conf   *tls.Config
	work   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func (f *front) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f.work.Go(func() { f.serve(c) })
	}
}

// serve copies both ways until one side ends. What fails shows at the client.
func (f *front) serve(c net.Conn) {
	if !f.keep(c) {
		return
	}
	defer f.drop(c)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	in := tls.Server(c, f.conf)
	if in.HandshakeContext(ctx) != nil {
		return
	}
	out, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.engine)
	if err != nil || !f.keep(out) {
		return
	}
	defer f.drop(out)
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(in, out)
		_ = c.Close()
	}()
	_, _ = io.Copy(out, in)
	_ = out.Close()
	<-back
}

func (f *front) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		_ = c.Close()
		return false
	}
	f.open[c] = true
	return true
}

func (f *front) drop(c net.Conn) {
	_ = c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

func (f *front) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c := range f.open {
		_ = c.Close()
	}
}
