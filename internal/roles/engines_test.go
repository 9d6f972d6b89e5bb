package roles_test

import (
	"os"
	"path/filepath"
	"strings"
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
