package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"

	"parley/internal/problem"
)

// Bundle is what a process shows and trusts: its certificate with its key, and
// the authority's certificate.
type Bundle struct {
	identity      Identity
	ca, cert, key []byte // PEM
	pool          *x509.CertPool
	keyPair       tls.Certificate
}

func newBundle(ca, cert, key []byte) (*Bundle, error) {
	b := &Bundle{ca: ca, cert: cert, key: key, pool: x509.NewCertPool()}
	if !b.pool.AppendCertsFromPEM(ca) {
		return nil, problem.New(problem.Invalid, "%s holds no certificate", caFile)
	}
	var err error
	if b.keyPair, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "%s and %s are no pair", certFile, keyFile)
	}
	if b.identity, err = identityOf(b.keyPair.Leaf); err != nil {
		return nil, err
	}
	return b, nil
}

// LoadBundle reads what Write has written.
func LoadBundle(dir string) (*Bundle, error) {
	var parts [3][]byte
	for i, name := range []string{caFile, certFile, keyFile} {
		var err error
		if parts[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, problem.Wrap(err, problem.Invalid, "%s can't be read: give the directory of this role's certificate", filepath.Join(dir, name))
		}
	}
	return newBundle(parts[0], parts[1], parts[2])
}

// Write stores the bundle as ca.pem, cert.pem and key.pem (mode 0600).
func (b *Bundle) Write(dir string) error {
	return writeFiles(dir, file{caFile, b.ca, 0o644}, file{certFile, b.cert, 0o644}, file{keyFile, b.key, 0o600})
}

// Identity is who the certificate says its holder is.
func (b *Bundle) Identity() Identity { return b.identity }

// CAPool holds the authority's certificate.
func (b *Bundle) CAPool() *x509.CertPool { return b.pool }

// CAPEM is the authority's certificate, for those who have to trust it.
func (b *Bundle) CAPEM() []byte { return slices.Clone(b.ca) }

// Server is mutual TLS 1.3 that lets in only the roles named.
func (b *Bundle) Server(accept ...Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{b.keyPair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: b.pool,
		VerifyConnection: func(cs tls.ConnectionState) error { return expect(cs, accept) },
	}
}

// Public is TLS for those who have no certificate of ours: people's clients.
func (b *Bundle) Public() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{b.keyPair}}
}

// Client is mutual TLS 1.3 towards the roles named. The peer is known by its
// identity, not by its host name, so that it may be reached at any address.
func (b *Bundle) Client(want ...Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{b.keyPair},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks chain and identity; only the host name is not
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := b.verifyChain(cs); err != nil {
				return err
			}
			return expect(cs, want)
		},
	}
}

func (b *Bundle) verifyChain(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return problem.New(problem.Unauthentic, "the peer showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: b.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return problem.Wrap(err, problem.Unauthentic, "the peer's certificate is not from our authority")
	}
	return nil
}

func expect(cs tls.ConnectionState, want []Role) error {
	id, err := PeerIdentity(cs)
	if err != nil {
		return err
	}
	if !slices.Contains(want, id.Role) {
		return problem.New(problem.Denied, "the peer is a %s; expected %v", id.Role, want)
	}
	return nil
}
