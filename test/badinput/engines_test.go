//go:build engines

package badinput_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of database/sql
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"parley/internal/pki"
	"parley/regions"
)

// engines are those of the set under test, each with a name for one test in it.
type engines struct {
	t    *testing.T
	name string // letters and digits
	cell cell   // a config that is right

	cassandra string
	kafka     string
	redis     string
	postgres  *url.URL
	elastic   string

	cql  *gocql.Session
	adm  *kadm.Client
	keys *redis.Client
	rows *sql.DB
}

func address(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: run make test-engines", name)
	}
	first, _, _ := strings.Cut(v, ",")
	return first
}

// begin connects to the engines and makes what a right config needs.
func begin(t *testing.T) *engines {
	t.Helper()
	e := &engines{
		t: t, name: "bad" + strings.ToLower(rand.Text()[:8]),
		cassandra: address(t, "PARLEY_TEST_CASSANDRA"), kafka: address(t, "PARLEY_TEST_KAFKA"),
		redis: address(t, "PARLEY_TEST_REDIS"), elastic: strings.TrimPrefix(address(t, "PARLEY_TEST_ELASTICSEARCH"), "http://"),
	}
	var err error
	if e.postgres, err = url.Parse(address(t, "PARLEY_TEST_POSTGRES")); err != nil {
		t.Fatal(err)
	}
	e.connect()
	e.exec("CREATE SCHEMA " + e.name)
	t.Cleanup(e.end)
	certs, etcd := startEtcd(t)
	word, _ := e.postgres.User.Password()
	e.cell = cell{
		"cert_dir":      certs,
		"etcd":          etcd,
		"cassandra":     fmt.Sprintf("hosts: [%q], datacenter: dc1, replication: 1, keyspace: %s", e.cassandra, e.name),
		"kafka":         fmt.Sprintf("brokers: [%q], replication: 1, prefix: %s", e.kafka, e.name),
		"redis":         fmt.Sprintf("addrs: [%q], key_prefix: %s", e.redis, e.name),
		"postgres":      e.postgresSection(e.postgres.Host, write(t, filepath.Join(t.TempDir(), "password"), word)),
		"elasticsearch": fmt.Sprintf("addresses: [\"http://%s\"], prefix: %s, replicas: 0", e.elastic, e.name),
	}
	return e
}

func (e *engines) postgresSection(host, passwordFile string) string {
	u := *e.postgres
	u.User, u.Host = url.User(u.User.Username()), host
	return fmt.Sprintf("url: %q, schema: %s, password_file: %s", u.String(), e.name, passwordFile)
}

func (e *engines) connect() {
	e.t.Helper()
	host, port, err := net.SplitHostPort(e.cassandra)
	cl := gocql.NewCluster(host)
	_, portErr := fmt.Sscan(port, &cl.Port)
	cl.Timeout, cl.ConnectTimeout, cl.ProtoVersion = 30*time.Second, 10*time.Second, 4
	e.must(err)
	e.must(portErr)
	e.cql, err = cl.CreateSession()
	e.must(err)
	// Without a short age, what was not there a moment ago is not asked for again.
	client, err := kgo.NewClient(kgo.SeedBrokers(e.kafka), kgo.MetadataMinAge(10*time.Millisecond))
	e.must(err)
	e.adm = kadm.NewClient(client)
	e.keys = redis.NewClient(&redis.Options{Addr: e.redis})
	e.rows, err = sql.Open("pgx", e.postgres.String())
	e.must(err)
}

func (e *engines) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// end removes what a cell made, and what the test did.
func (e *engines) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for what, err := range map[string]error{
		"keyspace": e.cql.Query("DROP KEYSPACE IF EXISTS " + e.name).WithContext(ctx).Exec(),
		"schema":   e.execCtx(ctx, "DROP SCHEMA "+e.name+" CASCADE"),
		"redis":    e.keys.Close(),
		"postgres": e.rows.Close(),
	} {
		if err != nil {
			e.t.Errorf("%s: %v", what, err)
		}
	}
	_, _ = e.adm.DeleteTopics(ctx, e.name+".changes", e.name+".readstate") // most tests have none
	e.adm.Close()
	e.cql.Close()
	e.ask(ctx, http.MethodDelete, "/_index_template/"+e.name, "")
	e.ask(ctx, http.MethodDelete, "/"+e.name+"-2020q1-000001", "")
}

func (e *engines) exec(statement string) {
	e.t.Helper()
	e.must(e.execCtx(e.t.Context(), statement))
}

func (e *engines) execCtx(ctx context.Context, statement string) error {
	_, err := e.rows.ExecContext(ctx, statement)
	return err
}

func (e *engines) cqlExec(statement string) {
	e.t.Helper()
	e.must(e.cql.Query(statement).WithContext(e.t.Context()).Exec())
}

// ask asks Elasticsearch; its status is enough.
func (e *engines) ask(ctx context.Context, method, path, body string) int {
	e.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.elastic+path, strings.NewReader(body))
	e.must(err)
	req.Header.Set("Content-Type", "application/json")
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: tr}).Do(req)
	e.must(err)
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

// traces are what a cell has made, by engine.
func (e *engines) traces() map[string]bool {
	e.t.Helper()
	ctx := e.t.Context()
	var keyspaces, tables int
	e.must(e.cql.Query("SELECT COUNT(*) FROM system_schema.tables WHERE keyspace_name = ?", e.name).WithContext(ctx).Scan(&keyspaces))
	e.must(e.rows.QueryRowContext(ctx, "SELECT COUNT(*) FROM pg_tables WHERE schemaname = $1", e.name).Scan(&tables))
	topics, err := e.adm.ListTopics(ctx, e.name+".changes", e.name+".readstate")
	e.must(err)
	keys, err := e.keys.Keys(ctx, "*"+e.name+":*").Result()
	e.must(err)
	made := map[string]bool{
		"cassandra": keyspaces > 0, "postgres": tables > 0, "redis": len(keys) > 0,
		"elasticsearch": e.ask(ctx, http.MethodGet, "/_index_template/"+e.name, "") == http.StatusOK,
	}
	for _, topic := range topics {
		made["kafka"] = made["kafka"] || topic.Err == nil
	}
	return made
}

// startEtcd starts a region's etcd with TLS, and makes the cell's certificate.
func startEtcd(t *testing.T) (certs, addr string) {
	t.Helper()
	ca, err := pki.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(id pki.Identity) string {
		b, err := ca.Issue(id, []string{"127.0.0.1"})
		dir := t.TempDir()
		if err == nil {
			err = b.Write(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	certs = issue(pki.Identity{Region: "eu", Cell: "eu-1", Role: pki.RoleGateway, Name: "eu-1"})
	etcd, err := regions.StartEtcd(t.Context(), regions.EtcdConfig{
		Dir: t.TempDir(), ClientAddr: freeAddr(t), PeerAddr: freeAddr(t), TLSDir: issue(pki.Identity{Region: "eu", Role: pki.RoleEtcd, Name: "etcd-1"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	_, addr, _ = strings.Cut(etcd.Endpoint(), "://")
	return certs, addr
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
