package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"parley/internal/problem"
)

// Names of the files in an authority's directory, and in a Bundle's.
const (
	caFile    = "ca.pem"
	caKeyFile = "ca-key.pem"
	certFile  = "cert.pem"
	keyFile   = "key.pem"
)

// Lives of certificates. Clocks of two hosts may differ: a certificate counts
// from an hour before it was made.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	backdate = time.Hour
)

// Authority is a certificate authority for development and tests. In production
// the certificates come from the operator's own.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// OpenAuthority loads the authority in a directory, or makes one there.
func OpenAuthority(dir string) (*Authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(dir)
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "the authority in %s can't be read", dir)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "the authority in %s has no key", dir)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "%s in %s is no certificate", caFile, dir)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, problem.New(problem.Internal, "%s in %s is no key", caKeyFile, dir)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "%s in %s is no key", caKeyFile, dir)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, problem.New(problem.Internal, "%s in %s can't sign", caKeyFile, dir)
	}
	return &Authority{cert: cert, key: signer, pem: certPEM}, nil
}

func makeAuthority(dir string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(caLife)
	t.Subject = pkix.Name{CommonName: "Parley development CA"}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &Authority{cert: cert, key: key, pem: encodeCert(der)}
	// The key first: a certificate without its key would look like an authority.
	if err := writeFiles(dir, file{caKeyFile, keyPEM, 0o600}, file{caFile, a.pem, 0o644}); err != nil {
		return nil, err
	}
	return a, nil
}

// CAPool holds the authority's certificate.
func (a *Authority) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue makes a certificate for a role, for client and server use, good for a
// year. hosts are its DNS names and addresses; roles check each other by identity,
// so only what people's browsers reach needs any.
func (a *Authority) Issue(id Identity, hosts []string) (*Bundle, error) {
	uri, err := url.Parse(id.URI())
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "identity %q can't be a URI", id.URI())
	}
	if _, err := ParseURI(uri.String()); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(leafLife)
	t.Subject = pkix.Name{CommonName: string(id.Role) + " " + id.Name}
	t.URIs = []*url.URL{uri}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return newBundle(a.pem, encodeCert(der), keyPEM)
}

func template(life time.Duration) *x509.Certificate {
	now := time.Now()
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // crypto/rand's Read never fails
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(life),
	}
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

type file struct {
	name string
	data []byte
	mode fs.FileMode
}

func writeFiles(dir string, files ...file) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return problem.Wrap(err, problem.Internal, "the directory %s can't be made", dir)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return problem.Wrap(err, problem.Internal, "%s can't be written in %s", f.name, dir)
		}
	}
	return nil
}
