package roles_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/spf13/pflag"

	"parley/internal/problem"
	"parley/internal/roles"
	"parley/internal/settings"
)

const onEngines = `
id: eu-1
process_id: eu-1-a
region: eu
dir: d
cert_dir: c
etcd: [127.0.0.1:1]
servers: [cs-1]
server_addr: 127.0.0.1:2
stores:
  cassandra: {hosts: ["127.0.0.1:9042"], datacenter: dc1}
  kafka: {brokers: ["127.0.0.1:9092"]}
  redis: {addrs: ["127.0.0.1:6379"]}
  postgres: {host: 127.0.0.1, database: parley, user: parley}
  elasticsearch: {addresses: ["http://127.0.0.1:9200"]}
`

func load(t *testing.T, text string) (roles.Cell, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cell.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := roles.DefaultCell()
	if err := settings.Load(file, &c, pflag.NewFlagSet("", pflag.ContinueOnError), func(string) string { return "" }); err != nil {
		return c, err
	}
	return c, c.Validate()
}

func TestEngines_KeepTheirDefaults(t *testing.T) {
	c, err := load(t, onEngines)
	if err != nil {
		t.Fatal(err)
	}
	if c.Stores.Cassandra.Replication != 3 || c.Stores.Kafka.Replication != 3 || c.Stores.Postgres.StaleMax == 0 {
		t.Fatalf("%+v", c.Stores)
	}
}

func TestEngines_FaultsNameTheirSection(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"Cassandra without Kafka":    {`  kafka: {brokers: ["127.0.0.1:9092"]}`, "", "stores.kafka"},
		"a key that is not there":    {"datacenter: dc1", "datacentre: dc1", "datacentre"},
		"a wrong address":            {"127.0.0.1:9042", "nowhere", "stores.cassandra.hosts"},
		"a detour to nowhere":        {"stores:\n", "stores:\n  via: {\"10.0.3.1:9042\": nowhere}\n", "stores.via: \"nowhere\" is not host:port"},
		"a detour by a node's name":  {"stores:\n  cassandra: {hosts: [\"127.0.0.1:9042\"]", "stores:\n  via: {\"db:9042\": \"127.0.0.1:1\"}\n  cassandra: {hosts: [\"db:9042\"]", "stores.cassandra.hosts"},
		"gateways apart without all": {`  postgres: {host: 127.0.0.1, database: parley, user: parley}`, "", "on embedded stores a cell is one process"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, strings.Replace(onEngines, c.from, c.to, 1))
			if !problem.Is(err, problem.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("want %q, got %v", c.want, err)
			}
		})
	}
}

// Nothing listens at the addresses: each engine is told of, with its section.
func TestCheck_TellsOfEveryEngine(t *testing.T) {
	text := onEngines
	for _, port := range []string{"9042", "9092", "6379", "9200"} {
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, "127.0.0.1:1")
	}
	c, err := load(t, strings.Replace(text, "host: 127.0.0.1, ", "host: 127.0.0.1, port: 1, ", 1))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Check(t.Context())
	for _, section := range []string{"cassandra", "kafka", "redis", "postgres", "elasticsearch"} {
		if err == nil || !strings.Contains(err.Error(), "stores."+section) {
			t.Errorf("nothing is said of %s: %v", section, err)
		}
	}
}

// hangUp counts who connects, and hangs up.
func hangUp(t *testing.T) (at string, met *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	met = new(atomic.Int64)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			met.Add(1)
			_ = c.Close()
		}
	}()
	return l.Addr().String(), met
}

// The engines go by addresses that lead nowhere (RFC 5737, RFC 2606).
func TestVia_EveryDriverTakesTheDetour(t *testing.T) {
	text := onEngines
	met := map[string]*atomic.Int64{}
	via := new(strings.Builder)
	via.WriteString("via:")
	for port, engine := range map[string]string{"9042": "cassandra", "9092": "kafka", "6379": "redis", "9200": "elasticsearch", "5432": "postgres"} {
		named := "192.0.2.1:" + port
		if engine == "postgres" {
			named = "db.invalid:" + port
		}
		at, n := hangUp(t)
		met[engine] = n
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, named)
		via.WriteString("\n    " + named + ": " + at)
	}
	text = strings.Replace(text, "host: 127.0.0.1, ", "host: db.invalid, ", 1)
	c, err := load(t, text+"  "+via.String()+"\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err == nil {
		t.Error("engines that hang up are taken")
	}
	for engine, n := range met {
		if n.Load() == 0 {
			t.Errorf("%s was not reached by its detour", engine)
		}
	}
}
