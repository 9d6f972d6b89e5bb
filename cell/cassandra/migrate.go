package cassandra

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/gocql/gocql"

	"parley/internal/problem"
)

//go:embed migrations/*.cql
var migrations embed.FS

const (
	// schemaWait is how long a change of the schema may take: some two seconds a table
	// on three nodes. agreementWait is how long all are waited for to know of it: one
	// that is away never does, and hears of it when it comes back.
	schemaWait    = 30 * time.Second
	agreementWait = 10 * time.Second
	// lockTTL frees the lock of a process that died in a migration.
	lockTTL = 180
	// lockPause is how long others wait between two looks at the lock.
	lockPause = 500 * time.Millisecond
)

// step is one migration. Steps are never edited once released: their statements
// say IF NOT EXISTS, because one that was cut off is run again.
type step struct {
	number int
	name   string
	cql    []string
}

// steps are all that this release knows, rising from 1.
func steps() ([]step, error) {
	names, err := fs.Glob(migrations, "migrations/*.cql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	all := make([]step, len(names))
	for i, name := range names {
		b, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all[i] = step{number: i + 1, name: strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".cql"), cql: statements(string(b))}
		if !strings.HasPrefix(all[i].name, fmt.Sprintf("%04d_", i+1)) {
			return nil, problem.New(problem.Internal, "migration %s is not number %d", all[i].name, i+1)
		}
	}
	return all, nil
}

// statements cuts a file: comments are whole lines, statements end with a line.
func statements(file string) []string {
	var out []string
	var b strings.Builder
	for line := range strings.Lines(file) {
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		b.WriteString(line)
		if s := strings.TrimSpace(b.String()); strings.HasSuffix(s, ";") {
			out = append(out, strings.TrimSuffix(s, ";"))
			b.Reset()
		}
	}
	return out
}

// migrate makes the keyspace and runs the steps that it lacks. Many processes may
// do it at once: one table, the lock, is made by each under the same id, so that
// two makings are one; everything else under the lock.
func migrate(ctx context.Context, cfg Config, o options, log *slog.Logger) error {
	all, err := steps()
	if err != nil {
		return err
	}
	if err := makeKeyspace(ctx, cfg, o, log); err != nil {
		return err
	}
	var s *gocql.Session
	err = agreed(ctx, func() error { // another process may just have made the keyspace
		s, err = admin(ctx, cfg, o, log, cfg.Keyspace)
		return err
	})
	if err != nil {
		return err
	}
	defer s.Close()
	m := migration{session: s, keyspace: cfg.Keyspace, log: log}
	have, err := m.version(ctx)
	if err != nil || have == len(all) {
		return err
	}
	if have > len(all) {
		return errFuture(cfg.Keyspace, have, len(all))
	}
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return m.run(ctx, all)
}

// admin is a session for changes of the schema.
func admin(ctx context.Context, cfg Config, o options, log *slog.Logger, keyspace string) (*gocql.Session, error) {
	cl, err := cfg.cluster(o, log, "")
	if err != nil {
		return nil, err
	}
	cl.Keyspace, cl.Timeout, cl.NumConns = keyspace, schemaWait, 1
	s, err := cfg.dial(ctx, cl)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "Cassandra: no session at %v to make the tables with", cfg.Hosts)
	}
	return s, nil
}

func makeKeyspace(ctx context.Context, cfg Config, o options, log *slog.Logger) error {
	s, err := admin(ctx, cfg, o, log, "")
	if err != nil {
		return err
	}
	defer s.Close()
	var name string
	err = s.Query(`SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?`, cfg.Keyspace).
		WithContext(ctx).Consistency(gocql.One).Scan(&name)
	if err == nil {
		return nil
	}
	if !errors.Is(err, gocql.ErrNotFound) {
		return readError(err)
	}
	cql := fmt.Sprintf(`CREATE KEYSPACE IF NOT EXISTS %s WITH replication = {'class': 'NetworkTopologyStrategy', '%s': %d} AND durable_writes = true`,
		cfg.Keyspace, strings.ReplaceAll(cfg.Datacenter, "'", "''"), cfg.Replication)
	log.Info("message store", "step", "make the keyspace")
	return schemaError(s.Query(cql).WithContext(ctx).Exec(), "keyspace "+cfg.Keyspace)
}

// migration is a session with the keyspace, for its tables.
type migration struct {
	session  *gocql.Session
	keyspace string
	log      *slog.Logger
}

// version is the last step that was run; 0 = none.
func (m migration) version(ctx context.Context) (int, error) {
	var name string
	err := m.session.Query(`SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'schema_version'`, m.keyspace).
		WithContext(ctx).Consistency(gocql.One).Scan(&name)
	if errors.Is(err, gocql.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, readError(err)
	}
	var have int
	err = agreed(ctx, func() error {
		have, err = readVersion(ctx, m.session, m.keyspace)
		return err
	})
	return have, err
}

// agreed does what fails as long as the nodes know other tables from each other, as
// they do while a process makes them, until it succeeds or has had its time.
func agreed(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, schemaWait)
	defer cancel()
	for {
		err := do()
		if err == nil || code(err) == gocql.ErrCodeUnauthorized || pause(ctx, lockPause) != nil {
			return err
		}
	}
}

func readVersion(ctx context.Context, s *gocql.Session, keyspace string) (int, error) {
	rows := s.Query(`SELECT step FROM ` + keyspace + `.schema_version`).WithContext(ctx).Consistency(gocql.Quorum).Iter()
	have, n := 0, 0
	for rows.Scan(&n) {
		have = max(have, n)
	}
	return have, readError(rows.Close())
}

func errFuture(keyspace string, have, know int) error {
	return problem.New(problem.Unsupported,
		"Cassandra: keyspace %s has tables of version %d, this release knows up to %d: start the release that made them, or a later one", keyspace, have, know)
}

// lock waits until no other process migrates.
func (m migration) lock(ctx context.Context) (unlock func(), err error) {
	sum := sha256.Sum256([]byte("parley schema_lock " + m.keyspace))
	id, err := gocql.UUIDFromBytes(sum[:16])
	if err != nil {
		return nil, err
	}
	err = m.session.Query(fmt.Sprintf(`CREATE TABLE IF NOT EXISTS schema_lock (id int PRIMARY KEY, holder uuid) WITH id = %s AND gc_grace_seconds = 21600`, id)).
		WithContext(ctx).Exec()
	if err != nil {
		return nil, schemaError(err, "table schema_lock")
	}
	holder, err := gocql.RandomUUID()
	if err != nil {
		return nil, err
	}
	for {
		var n int
		var other gocql.UUID
		took, err := m.session.Query(`INSERT INTO schema_lock (id, holder) VALUES (1, ?) IF NOT EXISTS USING TTL ?`, holder, lockTTL).
			WithContext(ctx).ScanCAS(&n, &other)
		if took || err == nil && other == holder { // an answer was lost
			break
		}
		if code(err) == gocql.ErrCodeUnauthorized {
			return nil, schemaError(err, "table schema_lock")
		}
		if pause(ctx, lockPause) != nil {
			return nil, problem.Wrap(err, problem.Unavailable, "Cassandra: another process is making the tables of keyspace %s; try again", m.keyspace)
		}
	}
	return func() { // what fails here ends with the lock's time to live
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectMax)
		defer cancel()
		_, _ = m.session.Query(`DELETE FROM schema_lock WHERE id = 1 IF holder = ?`, holder).WithContext(ctx).ScanCAS(nil)
	}, nil
}

// run carries out the steps that are missing, and notes each when it is done.
func (m migration) run(ctx context.Context, all []step) error {
	err := m.session.Query(`CREATE TABLE IF NOT EXISTS schema_version (step int PRIMARY KEY, name text, made timestamp)`).WithContext(ctx).Exec()
	if err != nil {
		return schemaError(err, "table schema_version")
	}
	have, err := m.version(ctx) // another process may have been first
	if err != nil {
		return err
	}
	if have > len(all) {
		return errFuture(m.keyspace, have, len(all))
	}
	for _, s := range all[have:] {
		m.log.Info("message store", "step", "migration "+s.name)
		for _, cql := range s.cql {
			if err := m.session.Query(cql).WithContext(ctx).Exec(); err != nil {
				return schemaError(err, "migration "+s.name)
			}
		}
		err := m.session.Query(`INSERT INTO schema_version (step, name, made) VALUES (?, ?, toTimestamp(now()))`, s.number, s.name).
			WithContext(ctx).Exec()
		if err != nil {
			return schemaError(err, "migration "+s.name)
		}
	}
	return nil
}

// schemaError says what could not be made.
func schemaError(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case code(err) == gocql.ErrCodeUnauthorized:
		return problem.Wrap(err, problem.Denied, "Cassandra: the user may not make %s: grant CREATE, ALTER, SELECT and MODIFY, or have it made", what)
	case refused(err):
		return problem.Wrap(err, problem.Internal, "Cassandra: %s was refused: %s", what, err.Error())
	default:
		return problem.Wrap(err, problem.Unavailable, "Cassandra: %s could not be made", what)
	}
}
