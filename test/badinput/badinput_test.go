//go:build engines

package badinput_test

import (
	"bytes"
	"context"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/pki"
)

// fault is one thing that is wrong, and what people must be told of it besides the
// section of the config.
type fault struct {
	section string
	value   string // what the config says instead
	do      func() // what is done to the engine before
	leaves  bool   // that is found there afterwards
	want    []string
}

// listen is a server that says one thing to whoever connects, and then is silent.
func listen(t *testing.T, says string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			_, _ = c.Write([]byte(says))
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// wrongAddresses are what any engine's address can be: nothing, something silent,
// something that talks nonsense, and another of the engines.
func (e *engines) wrongAddresses(t *testing.T, faults map[string]fault) {
	t.Helper()
	nowhere, silent := "127.0.0.1:1", listen(t, "")
	garbage := listen(t, "nonsense, a line of it\r\nand another\r\n")
	for section, other := range map[string]string{
		"cassandra": e.redis, "kafka": e.elastic, "redis": e.cassandra, "postgres": e.kafka, "elasticsearch": e.redis, "etcd": e.elastic,
	} {
		for name, addr := range map[string]string{"nobody": nowhere, "silence": silent, "garbage": garbage, "another engine": other} {
			faults[section+", "+name] = fault{section: section, value: e.at(section, addr), want: []string{addr}}
		}
	}
}

// at is a section that is right but for its address.
func (e *engines) at(section, addr string) string {
	if section == "etcd" {
		return addr
	}
	is := map[string]string{"cassandra": e.cassandra, "kafka": e.kafka, "redis": e.redis, "postgres": e.postgres.Host, "elasticsearch": e.elastic}[section]
	return strings.ReplaceAll(e.cell[section], is, addr)
}

// wrongSecrets are credentials that are refused.
func (e *engines) wrongSecrets(t *testing.T, faults map[string]fault) {
	t.Helper()
	wrong := write(t, filepath.Join(t.TempDir(), "wrong"), "sesame\n")
	e.must(e.keys.Do(t.Context(), "ACL", "SETUSER", e.name, "on", ">other", "~*", "&*", "+@all").Err())
	e.must(e.keys.Do(t.Context(), "ACL", "SETUSER", e.name+"2", "on", ">sesame", "+ping", "+hello").Err())
	e.must(e.keys.Do(t.Context(), "ACL", "SETUSER", e.name+"3", "on", ">sesame", "~other:*", "&*", "+@all").Err())
	t.Cleanup(func() {
		c := redis.NewClient(&redis.Options{Addr: e.redis})
		defer func() { _ = c.Close() }()
		if err := c.Do(context.Background(), "ACL", "DELUSER", e.name, e.name+"2", e.name+"3").Err(); err != nil {
			t.Error(err)
		}
	})
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Elastic-Product", "Elasticsearch")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(refusing.Close)
	other, err := pki.OpenAuthority(t.TempDir())
	e.must(err)
	strange, err := other.Issue(pki.Identity{Region: "eu", Cell: "eu-1", Role: pki.RoleGateway, Name: "eu-1"}, []string{"127.0.0.1"})
	e.must(err)
	strangeDir := t.TempDir()
	e.must(strange.Write(strangeDir))
	maps.Copy(faults, map[string]fault{
		"redis, a wrong password": {section: "redis", value: e.cell["redis"] + ", username: " + e.name + ", password_file: " + wrong, want: []string{e.redis, "password_file"}},
		"redis, a user that may not": {
			section: "redis", value: e.cell["redis"] + ", username: " + e.name + "2, password_file: " + wrong, want: []string{e.redis, "may not", "give it"},
		},
		"redis, a user of other keys": {
			section: "redis", value: e.cell["redis"] + ", username: " + e.name + "3, password_file: " + wrong, want: []string{e.redis, "may not", "~{" + e.name + ":*"},
		},
		"redis, no password":         {section: "redis", value: e.cell["redis"] + ", password_file: /nowhere", want: []string{"password_file", "/nowhere"}},
		"postgres, a wrong password": {section: "postgres", value: e.postgresSection(e.postgres.Host, wrong), want: []string{e.postgres.Host, "password_file"}},
		"elasticsearch, a wrong password": {
			section: "elasticsearch", value: e.at("elasticsearch", refusing.Listener.Addr().String()) + ", username: u, password_file: " + wrong,
			want: []string{refusing.URL, "password_file"},
		},
		"kafka, a user":              {section: "kafka", value: e.cell["kafka"] + ", username: u, password_file: " + wrong, want: []string{e.kafka, "username"}},
		"kafka, TLS":                 {section: "kafka", value: e.cell["kafka"] + ", ca_file: " + filepath.Join(e.cell["cert_dir"], "ca.pem"), want: []string{e.kafka, "TLS"}},
		"cassandra, TLS":             {section: "cassandra", value: e.cell["cassandra"] + ", ca_file: " + filepath.Join(e.cell["cert_dir"], "ca.pem"), want: []string{e.cassandra, "TLS"}},
		"redis, TLS":                 {section: "redis", value: e.cell["redis"] + ", ca_file: " + filepath.Join(e.cell["cert_dir"], "ca.pem"), want: []string{e.redis, "ca_file"}},
		"postgres, TLS":              {section: "postgres", value: e.cell["postgres"] + ", ca_file: " + filepath.Join(e.cell["cert_dir"], "ca.pem"), want: []string{e.postgres.Host, "ca_file"}},
		"elasticsearch, TLS":         {section: "elasticsearch", value: strings.Replace(e.cell["elasticsearch"], "http:", "https:", 1), want: []string{e.elastic, "http, not https"}},
		"etcd, another authority":    {section: "cert_dir", value: strangeDir, want: []string{e.cell["etcd"], "authority"}},
		"cert_dir, nothing there":    {section: "cert_dir", value: "/nowhere", want: []string{"/nowhere/ca.pem"}},
		"elasticsearch, no CA there": {section: "elasticsearch", value: e.cell["elasticsearch"] + ", ca_file: /nowhere", want: []string{"ca_file", "/nowhere"}},
	})
}

// wrongStores are engines that hold what this release can't use.
func (e *engines) wrongStores(faults map[string]fault) {
	keyspace := "CREATE KEYSPACE " + e.name + " WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1}"
	index := func(meta string) func() {
		return func() {
			e.ask(e.t.Context(), http.MethodPut, "/"+e.name+"-2020q1-000001", `{"mappings":{"_meta":`+meta+`}}`)
		}
	}
	maps.Copy(faults, map[string]fault{
		"cassandra, a schema of the future": {section: "cassandra", leaves: true, want: []string{"version 99", "later"}, do: func() {
			e.cqlExec(keyspace)
			e.cqlExec("CREATE TABLE " + e.name + ".schema_version (step int PRIMARY KEY, name text, made timestamp)")
			e.cqlExec("INSERT INTO " + e.name + ".schema_version (step) VALUES (99)")
		}},
		"cassandra, a foreign table": {section: "cassandra", leaves: true, want: []string{"table message", "of the cell's own"}, do: func() {
			e.cqlExec(keyspace)
			e.cqlExec("CREATE TABLE " + e.name + ".message (id int PRIMARY KEY)")
		}},
		"cassandra, too many replicas":  {section: "cassandra", value: strings.Replace(e.cell["cassandra"], "replication: 1", "replication: 3", 1), want: []string{"too few for replication 3"}},
		"cassandra, another datacenter": {section: "cassandra", value: strings.Replace(e.cell["cassandra"], "dc1", "dc2", 1), want: []string{`no datacenter "dc2"`, "mend datacenter"}},
		"kafka, too many replicas":      {section: "kafka", value: strings.Replace(e.cell["kafka"], "replication: 1", "replication: 3", 1), want: []string{e.kafka, "start the missing ones"}},
		"kafka, a topic with too few": {section: "kafka", leaves: true, want: []string{e.name + ".changes has 1 partitions", "kafka-topics.sh"}, do: func() {
			_, err := e.adm.CreateTopic(e.t.Context(), 1, 1, nil, e.name+".changes")
			e.must(err)
		}},
		"redis, another mode": {section: "redis", value: e.cell["redis"] + ", mode: cluster", want: []string{e.redis}},
		"postgres, a schema of the future": {section: "postgres", leaves: true, want: []string{e.postgres.Host, "version 99", "later"}, do: func() {
			e.exec("CREATE TABLE " + e.name + ".goose_db_version (id SERIAL PRIMARY KEY, version_id BIGINT NOT NULL, is_applied BOOLEAN NOT NULL, tstamp TIMESTAMP DEFAULT now())")
			e.exec("INSERT INTO " + e.name + ".goose_db_version (version_id, is_applied) VALUES (99, true)")
		}},
		"postgres, a foreign table":             {section: "postgres", leaves: true, want: []string{e.postgres.Host, "users", "of its own"}, do: func() { e.exec("CREATE TABLE " + e.name + ".users (login TEXT)") }},
		"postgres, no such database":            {section: "postgres", value: strings.Replace(e.cell["postgres"], "/parley?", "/nothing?", 1), want: []string{e.postgres.Host, "CREATE DATABASE"}},
		"elasticsearch, a foreign mapping":      {section: "elasticsearch", do: index(`{}`), want: []string{e.name + "-2020q1-000001", "not ours", "another prefix"}},
		"elasticsearch, a schema of the future": {section: "elasticsearch", do: index(`{"parley_search_schema":9}`), want: []string{"schema 9", "newer release"}},
	})
}

// TestBadInput: whatever is wrong with one engine, the check and the start say so in
// time, name it and what to do, and nothing is made in the others.
func TestBadInput(t *testing.T) {
	faults := map[string]fault{}
	e := begin(t)
	e.wrongAddresses(t, faults)
	e.wrongSecrets(t, faults)
	e.wrongStores(faults)
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			if f.do != nil {
				f.do()
				t.Cleanup(e.clean)
			}
			c := e.cell
			if f.value != "" {
				c = c.with(f.section, f.value)
			}
			file := c.write(t)
			for _, args := range [][]string{{"cell", "--config", file, "--check-config"}, {"cell", "--config", file}} {
				// An etcd that is away is a fault, and no reason not to start.
				if f.section == "etcd" && len(args) == 3 && (strings.HasSuffix(name, "nobody") || strings.HasSuffix(name, "silence")) {
					continue
				}
				wantSaid(t, f, parley(t.Context(), args...), args)
			}
			for engine, made := range e.traces() {
				if made && (!f.leaves || engine != f.section) {
					t.Errorf("something was made in %s", engine)
				}
			}
		})
	}
}

func wantSaid(t *testing.T, f fault, r ran, args []string) {
	t.Helper()
	said := r.errs[strings.LastIndex(r.errs, "error: ")+1:]
	section := "stores." + f.section
	if f.section == "etcd" || f.section == "cert_dir" {
		section = ""
	}
	if r.code <= 0 || r.took > 16*time.Second || strings.Contains(said, "internal error") || strings.Contains(r.errs, "sesame") {
		t.Errorf("%v: exit %d after %v: %s", args[2:], r.code, r.took.Round(time.Millisecond), r.errs)
	}
	for _, w := range append([]string{section}, f.want...) {
		if !strings.Contains(said, w) {
			t.Errorf("%v says\n%s\nnot: %s", args[2:], r.errs, w)
		}
	}
	t.Logf("%v after %v: %s", args[3:], r.took.Round(100*time.Millisecond), strings.TrimSpace(said))
}

// clean takes away what faults have put into the engines.
func (e *engines) clean() {
	ctx := context.Background()
	e.must(e.cql.Query("DROP KEYSPACE IF EXISTS " + e.name).WithContext(ctx).Exec())
	e.must(e.execCtx(ctx, "DROP SCHEMA "+e.name+" CASCADE"))
	e.must(e.execCtx(ctx, "CREATE SCHEMA "+e.name))
	_, err := e.adm.DeleteTopics(ctx, e.name+".changes")
	e.must(err)
	for gone := false; !gone; { // brokers tell one another a little later
		there, err := e.adm.ListTopics(ctx, e.name+".changes")
		e.must(err)
		gone = there[e.name+".changes"].Err != nil
	}
	e.ask(ctx, http.MethodDelete, "/"+e.name+"-2020q1-000001", "")
}

// TestGoodInput: with nothing wrong the check is content and makes nothing, and a
// cell starts and makes what TestBadInput looks for.
func TestGoodInput(t *testing.T) {
	e := begin(t)
	file := e.cell.write(t)
	if r := parley(t.Context(), "cell", "--config", file, "--check-config"); r.code != 0 {
		t.Fatalf("the check: exit %d: %s", r.code, r.errs)
	}
	for engine, made := range e.traces() {
		if made {
			t.Errorf("the check made something in %s", engine)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "cell", "--config", file)
	var said lines
	cmd.Stderr = &said
	e.must(cmd.Start())
	said.await(ctx, `"ready"`)
	_ = cmd.Process.Signal(syscall.SIGTERM) // that it failed shows below
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	for _, engine := range []string{"cassandra", "kafka", "postgres", "elasticsearch"} {
		if !e.traces()[engine] {
			t.Errorf("nothing was made in %s", engine)
		}
	}
	if r := parley(t.Context(), "cell", "--config", file, "--check-config"); r.code != 0 {
		t.Errorf("the check afterwards: exit %d: %s", r.code, r.errs)
	}
}

// lines is output that can be waited for.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) await(ctx context.Context, word string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(l.String(), word) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
