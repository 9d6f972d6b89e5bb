//go:build engines

package directory_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/rs/zerolog"

	"parley/cell/directory"
	"parley/cell/directory/directorytest"
)

// server is the Postgres under test, as an administrator.
func server(tb testing.TB) *url.URL {
	tb.Helper()
	const name = "PARLEY_TEST_POSTGRES"
	at := os.Getenv(name)
	if at == "" {
		tb.Fatalf("%s must name a Postgres, as host:port or a URL; make test-engines starts one", name)
	}
	if !strings.Contains(at, "://") {
		at = "postgres://cell@" + at + "/cell"
	}
	u, err := url.Parse(at)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return u
}

func admin(u *url.URL) (*sql.DB, error) {
	cc, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*cc), nil
}

// run runs statements as an administrator.
func run(u *url.URL, queries ...string) error {
	db, err := admin(u)
	if err != nil {
		return err
	}
	for _, q := range queries {
		_, failed := db.ExecContext(context.Background(), q)
		err = errors.Join(err, failed)
	}
	return errors.Join(err, db.Close())
}

// scratch is an empty database, which sorts text otherwise than by bytes, behind a
// proxy that can be cut.
type scratch struct {
	cfg   directory.Config
	admin *url.URL // to the database itself
	proxy *toxiproxy.Proxy
	drop  func() error
}

func newScratch(u *url.URL) (s scratch, err error) {
	name := "parley_test_" + strings.ToLower(rand.Text())
	if err := run(u, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'"); err != nil {
		return s, err
	}
	of := *u
	of.Path = name
	s.admin = &of
	upstream := u.Host
	if u.Port() == "" {
		upstream += ":5432"
	}
	s.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "postgres", "127.0.0.1:0", upstream)
	var password string
	s.drop = func() error {
		s.proxy.Stop()
		return errors.Join(os.RemoveAll(password), run(u, "DROP DATABASE "+name+" WITH (FORCE)"))
	}
	if err := s.proxy.Start(); err != nil {
		return s, errors.Join(err, s.drop())
	}
	s.cfg = directory.DefaultConfig()
	s.cfg.MaxConns = 8
	through := of
	through.Host = s.proxy.Listen
	if secret, ok := u.User.Password(); ok {
		through.User = url.User(u.User.Username())
		f, err := os.CreateTemp("", "password")
		if err != nil {
			return s, errors.Join(err, s.drop())
		}
		password = f.Name()
		s.cfg.PasswordFile = password
		_, err = f.WriteString(secret + "\n")
		if err = errors.Join(err, f.Close()); err != nil {
			return s, errors.Join(err, s.drop())
		}
	}
	s.cfg.URL = through.String()
	return s, nil
}

// database is a scratch that ends with the test.
func database(tb testing.TB) scratch {
	tb.Helper()
	s, err := newScratch(server(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.drop(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func (s scratch) exec(t *testing.T, queries ...string) {
	t.Helper()
	if err := run(s.admin, queries...); err != nil {
		t.Fatal(err)
	}
}

// onServer is the directories of some processes on a database of its own.
type onServer struct {
	scratch
	now  func() time.Time
	ds   []*directory.Directory
	next atomic.Int64
}

// Directory is one process's after the other's.
func (o *onServer) Directory() *directory.Directory { return o.ds[int(o.next.Add(1))%len(o.ds)] }

func (o *onServer) Close() error { return errors.Join(o.end(), o.drop()) }

func (o *onServer) end() (err error) {
	for _, d := range o.ds {
		err = errors.Join(err, d.Close())
	}
	return err
}

func (o *onServer) begin() error {
	for i := range o.ds {
		d, err := directory.OpenPostgres(context.Background(), o.cfg, o.now, nil)
		if err != nil {
			return err
		}
		o.ds[i] = d
	}
	return nil
}

// Crash is the processes': their connections are cut before they know.
func (o *onServer) Crash() error {
	o.proxy.Stop()
	return errors.Join(o.end(), o.proxy.Start(), o.begin())
}

func TestPostgres(t *testing.T) {
	u := server(t)
	for name, processes := range map[string]int{"one process": 1, "three processes": 3} {
		t.Run(name, func(t *testing.T) {
			directorytest.Run(t, func(now func() time.Time) (directorytest.Instance, error) {
				s, err := newScratch(u)
				if err != nil {
					return nil, err
				}
				o := &onServer{scratch: s, now: now, ds: make([]*directory.Directory, processes)}
				return o, o.begin()
			})
		})
	}
}

// opened is a process's directory.
func (s scratch) open(tb testing.TB) *directory.Directory {
	tb.Helper()
	d, err := directory.OpenPostgres(tb.Context(), s.cfg, time.Now, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

func BenchmarkPostgres_Member(b *testing.B) {
	s := database(b)
	s.cfg.URL = s.admin.String() // without the proxy
	benchmarkMember(b, s.open(b))
}
