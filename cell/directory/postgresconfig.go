package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"parley/internal/credential"
	"parley/internal/detour"
	"parley/internal/problem"
)

// Config is a directory's on Postgres, 14 or later. Zero fields take the defaults
// of DefaultConfig, but for StaleMax.
type Config struct {
	// URL is the database as libpq writes it, postgres://user@host:5432/database,
	// without a password; several hosts, comma-separated, are tried for the primary.
	// The five fields after it are its parts, for those who would rather name them.
	URL      string `yaml:"url"`
	Host     string `yaml:"host"`
	Port     int    `yaml:"port"` // default 5432
	Database string `yaml:"database"`
	User     string `yaml:"user"`
	// Schema is where the tables are, default public. It must exist; a cell of its own
	// schema, or database, shares nothing with another.
	Schema string `yaml:"schema"`

	PasswordFile string `yaml:"password_file"` // holds the password; none if the server asks for none
	CAFile       string `yaml:"ca_file"`       // whom to trust with TLS; without it the connection is not encrypted, unless the URL says so
	CertFile     string `yaml:"cert_file"`     // the client's certificate, if the server asks for one,
	KeyFile      string `yaml:"key_file"`      // and its key

	// ApplicationName is how the process shows in pg_stat_activity. Default parley.
	ApplicationName string `yaml:"application_name"`
	// MaxConns is how many connections this process may have, 2 to 500, default 16;
	// half of them are for reads. Fewer make calls wait for each other, more cost the
	// server some 5 MB each. One more looks whether the server is there.
	MaxConns int `yaml:"max_conns"`
	// ConnectTimeout bounds one try to connect, 100 ms to 1 min, default 3 s.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// StatementTimeout is when the server ends a statement, 100 ms to 1 min, default
	// 5 s. Less refuses what is slow under load, more lets it pile up.
	StatementTimeout time.Duration `yaml:"statement_timeout"`
	// LockTimeout is how long a change waits for another of its workspace, 100 ms to
	// StatementTimeout, default 3 s.
	LockTimeout time.Duration `yaml:"lock_timeout"`
	// IdleTimeout is when the server ends a transaction that does nothing, whose
	// process is paused or gone: it may hold a workspace's lock. 1 s to 1 min, default 10 s.
	IdleTimeout time.Duration `yaml:"idle_in_transaction_session_timeout"`
	// CallMax bounds a call with all its statements, StatementTimeout to 1 min, default
	// 8 s, as long as a client's request.
	CallMax time.Duration `yaml:"call_timeout"`
	// AwayAfter is how long the server may be silent before it counts as away: then
	// calls are refused, or answered from memory, at once. 200 ms to 1 min, default 2 s.
	// Less takes a slow network for an outage, more makes people wait when one begins.
	AwayAfter time.Duration `yaml:"away_after"`
	// StaleMax is how long answers from memory may be given while the server is away,
	// 0 (not at all) to 1 h; DefaultConfig has 10 min. More keeps people chatting
	// longer; but a process that alone can't reach the server, while others change
	// who may read what, hears of it only when that time is over.
	StaleMax time.Duration `yaml:"stale_max"`
	// Via leads to servers by other addresses than they go by; set by the stores'
	// config.
	Via detour.Map `yaml:"-"`
}

// DefaultConfig is a Config without a database.
func DefaultConfig() Config { return Config{StaleMax: 10 * time.Minute}.withDefaults() }

func (c Config) withDefaults() Config {
	c.Port = cmp.Or(c.Port, 5432)
	c.Schema = cmp.Or(c.Schema, "public")
	c.ApplicationName = cmp.Or(c.ApplicationName, "parley")
	c.MaxConns = cmp.Or(c.MaxConns, 16)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 3*time.Second)
	c.StatementTimeout = cmp.Or(c.StatementTimeout, 5*time.Second)
	c.LockTimeout = cmp.Or(c.LockTimeout, min(3*time.Second, c.StatementTimeout))
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 10*time.Second)
	c.CallMax = cmp.Or(c.CallMax, max(8*time.Second, c.StatementTimeout))
	c.AwayAfter = cmp.Or(c.AwayAfter, 2*time.Second)
	return c
}

const (
	connsMin    = 2
	connsMax    = 500
	staleMost   = time.Hour
	timeoutMost = time.Minute
)

// schemaName is a name that needs no quotes.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Validate lists every fault.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	check := func(ok bool, field, fault string, args ...any) {
		if !ok {
			faults = append(faults, problem.Field(field, fault, args...))
		}
	}
	within := func(field string, d, least, most time.Duration) {
		check(d >= least && d <= most, field, "must be %v to %v", least, most)
	}
	if c.URL != "" {
		check(c.Host == "" && c.Database == "" && c.User == "", "url", "says host, database and user: leave those fields out")
		u, err := url.Parse(c.URL)
		check(err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") && u.Host != "", "url", "must be like postgres://user@host:5432/database")
		if err == nil {
			_, has := u.User.Password()
			check(!has && !u.Query().Has("password"), "url", "must not hold a password: put it into a file and name that in password_file")
		}
	} else {
		check(c.Host != "", "host", "must name Postgres's host, or url the database")
		check(c.Database != "", "database", "must name the database")
		check(c.User != "", "user", "must name the role to connect as")
		check(c.Port > 0 && c.Port < 1<<16, "port", "must be 1 to 65535")
	}
	check(schemaName.MatchString(c.Schema), "schema", "must have lower-case letters, digits and _ only")
	check((c.CertFile == "") == (c.KeyFile == ""), "cert_file", "and key_file go together")
	check(c.CertFile == "" || c.CAFile != "", "ca_file", "must name whom to trust when there is a cert_file")
	check(c.MaxConns >= connsMin && c.MaxConns <= connsMax, "max_conns", "must be %d to %d", connsMin, connsMax)
	within("connect_timeout", c.ConnectTimeout, 100*time.Millisecond, timeoutMost)
	within("statement_timeout", c.StatementTimeout, 100*time.Millisecond, timeoutMost)
	within("lock_timeout", c.LockTimeout, 100*time.Millisecond, c.StatementTimeout)
	within("idle_in_transaction_session_timeout", c.IdleTimeout, time.Second, timeoutMost)
	within("call_timeout", c.CallMax, c.StatementTimeout, timeoutMost)
	within("away_after", c.AwayAfter, 200*time.Millisecond, timeoutMost)
	within("stale_max", c.StaleMax, 0, staleMost)
	return errors.Join(faults...)
}

// conn is how to connect, with the files read.
func (c Config) conn() (*pgx.ConnConfig, error) {
	to := c.URL
	if to == "" {
		to = (&url.URL{
			Scheme: "postgres", User: url.User(c.User), Host: net.JoinHostPort(c.Host, strconv.Itoa(c.Port)),
			Path: c.Database,
		}).String()
	}
	if u, err := url.Parse(to); err == nil && !u.Query().Has("sslmode") && c.CAFile == "" {
		q := u.Query()
		q.Set("sslmode", "disable") // else each connection is tried twice
		u.RawQuery = q.Encode()
		to = u.String()
	}
	cc, err := pgx.ParseConfig(to)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "url: can't be read as a Postgres URL")
	}
	if c.PasswordFile != "" {
		if cc.Password, err = credential.Secret("password_file", c.PasswordFile); err != nil {
			return nil, err
		}
	}
	if c.CAFile != "" {
		if err := c.useTLS(cc); err != nil {
			return nil, err
		}
	}
	cc.ConnectTimeout = c.ConnectTimeout
	cc.DialFunc = (&detour.Dialer{Via: c.Via}).DialContext
	resolve := cc.LookupFunc
	cc.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		if c.Via.Leads(host) {
			return []string{host}, nil // the dialer must see it as it is named
		}
		return resolve(ctx, host)
	}
	// A standby that a name or a list of hosts leads to would refuse each write.
	cc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	maps.Copy(cc.RuntimeParams, map[string]string{
		"application_name": c.ApplicationName, "search_path": c.Schema, "client_encoding": "UTF8",
		"statement_timeout": ms(c.StatementTimeout), "lock_timeout": ms(c.LockTimeout),
		"idle_in_transaction_session_timeout": ms(c.IdleTimeout),
		// What mayWrite says holds on this level.
		"default_transaction_isolation": "read committed",
	})
	return cc, nil
}

func (c Config) useTLS(cc *pgx.ConnConfig) error {
	t, err := credential.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}.TLS()
	if err != nil {
		return err
	}
	with := func(host string) *tls.Config {
		t := t.Clone()
		t.ServerName = host
		return t
	}
	cc.TLSConfig = with(cc.Host)
	hosts := map[string]bool{}
	var others []*pgconn.FallbackConfig
	for _, f := range cc.Fallbacks { // one host is there with and without TLS
		at := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port)))
		if !hosts[at] && (f.Host != cc.Host || f.Port != cc.Port) {
			hosts[at] = true
			others = append(others, &pgconn.FallbackConfig{Host: f.Host, Port: f.Port, TLSConfig: with(f.Host)})
		}
	}
	cc.Fallbacks = others
	return nil
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
