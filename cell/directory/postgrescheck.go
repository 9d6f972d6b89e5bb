package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"parley/internal/problem"
)

const (
	// latest is the newest version of the tables that this program knows.
	latest = 2
	// versionLeast is the oldest Postgres that its makers keep.
	versionLeast = 14_00_00
)

// Check connects to the database and says all that keeps a directory from being
// opened there. It changes nothing.
func Check(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	cc, err := cfg.conn()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout+cfg.CallMax)
	defer cancel()
	db := pool(cc, 1)
	defer func() { _ = db.Close() }() // nothing is under way
	_, err = cfg.inspect(ctx, db)
	return err
}

// where names the database for people.
func (c Config) where() string {
	cc, err := c.conn()
	if err != nil {
		return cmp.Or(c.URL, c.Host)
	}
	return fmt.Sprintf("%s:%d/%s", cc.Host, cc.Port, cc.Database)
}

// inspect looks at the server and at the tables, and returns their version; 0 says
// that there are none yet.
func (c Config) inspect(ctx context.Context, db *sql.DB) (version int64, err error) {
	fault := func(format string, args ...any) error {
		return problem.New(problem.Precond, "postgres %s: %s", c.where(), fmt.Sprintf(format, args...))
	}
	if err := db.PingContext(ctx); err != nil {
		return 0, c.unconnected(err)
	}
	s, err := c.survey(ctx, db)
	if err != nil {
		return 0, problem.Wrap(err, problem.Unavailable, "postgres %s: can't be looked at", c.where())
	}
	return s.version, errors.Join(append(c.serverFaults(s, fault), c.tableFaults(s, fault)...)...)
}

// unconnected says why there is no connection.
func (c Config) unconnected(err error) error {
	user := c.User
	if cc, err := c.conn(); err == nil {
		user = cc.User
	}
	say := func(format string, args ...any) error {
		return problem.Wrap(err, problem.Unavailable, "postgres %s: %s", c.where(), fmt.Sprintf(format, args...))
	}
	switch state := stateOf(err); {
	case state == "28P01":
		return say("refuses the password of %s; mend password_file, or make the role", user)
	case state == "28000":
		return say("does not let %s in (%s); make the role, or allow it in pg_hba.conf", user, messageOf(err))
	case state == "3D000":
		return say("has no such database; make it with CREATE DATABASE")
	case state == "42501":
		return say("%s may not connect to the database; GRANT CONNECT ON DATABASE to it", user)
	case state == stateManyConns:
		return say("has no connection free; raise its max_connections, or lower max_conns")
	case state == stateStarting:
		return say("is starting up; wait a moment")
	case state != "":
		return say("refuses to connect: %s", messageOf(err))
	}
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns):
		return say("the host is not known; mend host or the name service")
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &cert):
		return say("the server's certificate is not trusted; mend ca_file, or the server's certificate")
	case strings.Contains(err.Error(), "remote error: tls:"), strings.Contains(err.Error(), "unknown certificate authority"):
		return say("refuses the certificate of this side; mend cert_file and key_file, or the server's ssl_ca_file")
	case strings.Contains(err.Error(), "server refused TLS"):
		return say("the server has no TLS; set ssl = on there, or leave ca_file out")
	case c.CertFile != "" && hungUp(err): // its alert may come too late to be read
		return say("hangs up on the certificate of this side, or before it; mend cert_file and key_file, or the server's ssl_ca_file")
	case strings.Contains(err.Error(), "read only connection"):
		return say("is a standby, or read-only; name the primary")
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return say("does not answer within %v; is it Postgres, and does it run?", c.ConnectTimeout)
	default:
		return say("can't be reached, or does not speak Postgres's protocol; mend host and port, and see that it runs")
	}
}

func hungUp(err error) bool {
	for _, ended := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, ended) {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func messageOf(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Message
	}
	return err.Error()
}
