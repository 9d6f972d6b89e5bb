//go:build engines

package directory_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
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
func server(t *testing.T) *url.URL {
	t.Helper()
	const name = "PARLEY_TEST_POSTGRES"
	at := os.Getenv(name)
	if at == "" {
		t.Fatalf("%s must name a Postgres, as host:port or a URL; make test-engines starts one", name)
	}
	if !strings.Contains(at, "://") {
		at = "postgres://cell@" + at + "/cell"
	}
	u, err := url.Parse(at)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return u
}

func admin(t *testing.T, u *url.URL) *sql.DB {
	t.Helper()
	cc, err := pgx.ParseConfig(u.String())
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*cc)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// database makes an empty database, which sorts text otherwise than by bytes, and
// says how to open it.
func database(t *testing.T) directory.Config {
	t.Helper()
	u := server(t)
	db, name := admin(t, u), "parley_test_"+strings.ToLower(rand.Text())
	exec(t, db, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'")
	t.Cleanup(func() { exec(t, db, "DROP DATABASE "+name+" WITH (FORCE)") })
	cfg := directory.DefaultConfig()
	cfg.MaxConns = 8
	of := *u
	of.Path = name
	if password, ok := u.User.Password(); ok {
		of.User = url.User(u.User.Username())
		cfg.PasswordFile = filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(cfg.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.URL = of.String()
	return cfg
}

// proxied is the database behind a proxy that can be cut.
func proxied(t *testing.T, cfg directory.Config) (directory.Config, *toxiproxy.Proxy) {
	t.Helper()
	u, err := url.Parse(cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	upstream := u.Host
	if u.Port() == "" {
		upstream += ":5432"
	}
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "postgres", "127.0.0.1:0", upstream)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	u.Host = p.Listen
	cfg.URL = u.String()
	return cfg, p
}

// onServer is a directory on a database of its own.
type onServer struct {
	cfg   directory.Config
	proxy *toxiproxy.Proxy
	now   func() time.Time
	d     *directory.Directory
}

func (o *onServer) Directory() *directory.Directory { return o.d }
func (o *onServer) Close() error                    { return o.d.Close() }

func (o *onServer) open() (err error) {
	o.d, err = directory.OpenPostgres(context.Background(), o.cfg, o.now, nil)
	return err
}

// Crash is the process's: its connections are cut before it knows.
func (o *onServer) Crash() error {
	o.proxy.Stop()
	return errors.Join(o.d.Close(), o.proxy.Start(), o.open())
}

func TestPostgres(t *testing.T) {
	directorytest.Run(t, func(now func() time.Time) (directorytest.Instance, error) {
		o := &onServer{now: now}
		o.cfg, o.proxy = proxied(t, database(t))
		return o, o.open()
	})
}

// opened is a process's directory.
func opened(t *testing.T, cfg directory.Config, now func() time.Time) *directory.Directory {
	t.Helper()
	d, err := directory.OpenPostgres(t.Context(), cfg, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

var _ = fmt.Sprint
