package directory

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"parley/internal/problem"
)

// byBytes makes Postgres order and compare text as SQLite does, whatever the
// database's own collation is.
var byBytes = strings.NewReplacer(" TEXT ", ` TEXT COLLATE "C" `) //nolint:gochecknoglobals // a constant table

const (
	// migrateMax bounds the wait for another process's migration, and for one's own.
	migrateMax = 5 * time.Minute
	// connLifeMax ends a connection, so that a server's memory for it is given back,
	// and that a new address of the server is found.
	connLifeMax = 30 * time.Minute
)

// OpenPostgres opens the directory in a Postgres database. It refuses what Check
// does, makes or changes the tables if they are behind, and serves until Close.
func OpenPostgres(ctx context.Context, cfg Config, now func() time.Time, log *slog.Logger) (*Directory, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cc, err := cfg.conn()
	if err != nil {
		return nil, err
	}
	if err := cfg.migrate(ctx, cc, log); err != nil {
		return nil, err
	}
	// What waits for a lock must not keep reads from a connection.
	d := &Directory{engine: postgres{}, write: pool(cc, cfg.MaxConns/2), read: pool(cc, cfg.MaxConns-cfg.MaxConns/2), now: now, log: log}
	d.watch = &watch{
		db: pool(cc, 1), callMax: cfg.CallMax, awayMax: cfg.AwayAfter, staleMax: cfg.StaleMax, now: now, log: log,
		renew: func() {
			renew(d.write, cfg.MaxConns/2)
			renew(d.read, cfg.MaxConns-cfg.MaxConns/2)
		},
	}
	if err := d.watch.start(ctx); err != nil {
		return nil, errors.Join(postgres{}.failed(err), d.watch.db.Close(), d.read.Close(), d.write.Close())
	}
	return d, nil
}

func pool(cc *pgx.ConnConfig, conns int) *sql.DB {
	db := stdlib.OpenDB(*cc)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxLifetime(connLifeMax)
	return db
}

// renew closes a pool's idle connections.
func renew(db *sql.DB, conns int) {
	db.SetMaxIdleConns(-1)
	db.SetMaxIdleConns(conns)
}

// migrate checks the database and brings its tables up to date: one process at a
// time, without the limits that a call has.
func (c Config) migrate(ctx context.Context, cc *pgx.ConnConfig, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, migrateMax)
	defer cancel()
	own := cc.Copy()
	own.RuntimeParams["statement_timeout"] = ms(migrateMax)
	own.RuntimeParams["lock_timeout"] = ms(migrateMax)
	db := pool(own, connsMin)         // goose's lock takes one
	defer func() { _ = db.Close() }() // nothing is under way
	version, err := c.inspect(ctx, db)
	if err != nil || version == latest {
		return err
	}
	one, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	log.Info("the directory's tables are brought up to date", "from", version, "to", latest)
	if err := migrate(ctx, goose.DialectPostgres, db, edited{migrations, byBytes}, goose.WithSessionLocker(one)); err != nil {
		return problem.Wrap(err, problem.Unavailable, "postgres %s: the tables can't be brought up to date", c.where())
	}
	_, err = c.inspect(ctx, db)
	return err
}

// postgres is the engine.
type postgres struct{}

func (postgres) forUpdate() string { return ` FOR UPDATE` }

// SQLSTATEs, and their classes, that are told apart.
const (
	stateUnique     = "23505"
	stateEncoding   = "22021" // not UTF-8, or a NUL
	stateTooLong    = "54000" // for an index
	stateSerialize  = "40001"
	stateDeadlock   = "40P01"
	stateCanceled   = "57014" // by statement_timeout
	stateLocked     = "55P03" // lock_timeout
	stateShutdown   = "57P01"
	stateCrash      = "57P02"
	stateStarting   = "57P03"
	stateIdle       = "25P03" // idle_in_transaction_session_timeout
	stateReadOnly   = "25006" // it has become a standby
	stateFull       = "53100"
	stateManyConns  = "53300"
	classConnection = "08"
)

func stateOf(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// failed maps each SQLSTATE to a kind; what has none comes from the connection.
func (postgres) failed(err error) error {
	if err == nil || isOurs(err) {
		return err
	}
	switch state := stateOf(err); {
	case lost(err):
		return unreachable(err)
	case state == stateUnique:
		return taken(err)
	case state == stateEncoding, state == stateTooLong:
		return problem.Wrap(err, problem.Invalid, "a text can't be stored: it is too long, not valid UTF-8, or has a NUL")
	case state == stateFull:
		return full(err)
	case state == stateCanceled, state == stateLocked, state == stateSerialize, state == stateDeadlock:
		return &problem.Error{Kind: problem.Unavailable, Msg: "the directory is busy; try again", RetryAfter: retryAfter, Cause: err}
	default:
		return failed(err)
	}
}

// lost reports whether an error says that the server, or the way to it, is gone.
func lost(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	switch state := stateOf(err); {
	case state == "":
		return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sql.ErrNoRows)
	case strings.HasPrefix(state, classConnection):
		return true
	default:
		switch state {
		case stateShutdown, stateCrash, stateStarting, stateIdle, stateReadOnly, stateManyConns:
			return true
		}
		return false
	}
}

// undone: only the server's word that it rolled back says so.
func (postgres) undone(err error) bool {
	switch stateOf(err) {
	case stateSerialize, stateDeadlock, stateUnique:
		return true
	default:
		return errors.Is(err, pgx.ErrTxCommitRollback)
	}
}

// again: a transaction that the server gave up in favour of another, or a
// connection that was found dead before anything went over it.
func (postgres) again(err error) bool {
	if isOurs(err) {
		return false
	}
	switch stateOf(err) {
	case stateSerialize, stateDeadlock:
		return true
	case stateShutdown: // this connection was ended; a new one may be had
		return true
	default:
		return pgconn.SafeToRetry(err)
	}
}
