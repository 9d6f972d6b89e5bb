// Package credential reads the files that an engine's config names: with what a
// driver shows who it is, and whom it trusts.
package credential

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"strings"

	"parley/internal/problem"
)

const (
	// secretBytesMax bounds a password or key: what is longer is another file.
	secretBytesMax = 4 << 10
	// pemBytesMax bounds certificates: a system's authorities take some 250 KB.
	pemBytesMax = 4 << 20
)

// Secret is what a field's file holds, without its trailing line end; "" for no
// file.
func Secret(field, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := read(field, file, secretBytesMax)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	switch {
	case s == "":
		return "", problem.Field(field, "%s is empty: it should hold a password and nothing else", file)
	case strings.ContainsAny(s, "\r\n"):
		return "", problem.Field(field, "%s has more than one line: it should hold a password and nothing else", file)
	default:
		return s, nil
	}
}

// Files are those that TLS needs, in the fields ca_file, cert_file and key_file.
type Files struct {
	CA        string // whom to trust; "" = whom the system trusts
	Cert, Key string // our own; "" = none
}

// TLS is a client's config, without a server's name. Its error tells of all files
// that are no good.
func (f Files) TLS() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	var faults []error
	if f.CA != "" {
		pool, err := authorities(f.CA)
		conf.RootCAs, faults = pool, append(faults, err)
	}
	if f.Cert != "" {
		pair, err := f.pair()
		conf.Certificates, faults = []tls.Certificate{pair}, append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return conf, nil
}

func authorities(file string) (*x509.CertPool, error) {
	b, err := read("ca_file", file, pemBytesMax)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, problem.Field("ca_file", "%s holds no certificate in PEM", file)
	}
	return pool, nil
}

func (f Files) pair() (tls.Certificate, error) {
	cert, err := read("cert_file", f.Cert, pemBytesMax)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := read("key_file", f.Key, pemBytesMax)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, caused(err, "cert_file", "%s and the key_file %s are no certificate and its key in PEM", f.Cert, f.Key)
	}
	return pair, nil
}

func read(field, file string, most int64) ([]byte, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, caused(err, field, "%s can't be read (%v)", file, errors.Unwrap(err))
	}
	defer func() { _ = in.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, caused(err, field, "%s can't be read (%v)", file, errors.Unwrap(err))
	}
	if int64(len(b)) > most {
		return nil, problem.Field(field, "%s has more than %d bytes: it is another file", file, most)
	}
	return b, nil
}

// caused is a field's fault with its cause.
func caused(cause error, field, format string, args ...any) error {
	e := problem.Field(field, format, args...)
	e.Cause = cause
	return e
}
