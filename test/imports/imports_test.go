// Package imports_test holds the rules about who may import whom. They keep the
// two directions of the picture apart: data flows edge → cell → stores, control
// flows people → controlplane → etcd → edges and cells.
package imports_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rule forbids packages under From to import packages under any of Not, save
// those under But.
type rule struct {
	from string
	not  []string
	but  []string
	why  string
}

func rules() []rule {
	return []rule{
		{"internal/topology", []string{"parley/"}, nil, "it is the vocabulary that everybody reads first: standard library only"},
		{"placement", []string{"parley/"}, []string{"parley/internal/topology"}, "a decision must be a function of its arguments, so that it can be explained and tested"},
		{"edge", []string{"parley/cell", "parley/controlplane", "parley/placement", "parley/migration"}, nil, "an edge reaches a cell over the wire only, and never waits for the control plane"},
		{"cell", []string{"parley/edge", "parley/controlplane", "parley/placement", "parley/migration", "parley/client"}, nil, "a cell is self-contained: it serves without anybody above it"},
		{"controlplane", []string{"parley/cell", "parley/edge", "parley/client"}, nil, "the control plane speaks to cells by their admin API, like to any version of them"},
		{"regions", []string{"parley/cell", "parley/edge", "parley/controlplane", "parley/client"}, nil, "both sides follow the registry: it may know neither"},
		{"client", []string{"parley/cell", "parley/edge", "parley/controlplane", "parley/regions", "parley/placement"}, nil, "it is what users import: only wire types and errors"},
		{"internal/wire", []string{"parley/"}, []string{"parley/internal/topology", "parley/internal/problem", "parley/internal/wire"}, "both ends of a wire share the types and nothing else"},
		{"internal/link", []string{"parley/cell", "parley/edge", "parley/regions", "parley/controlplane"}, nil, "a link carries frames and knows nothing of chat"},
		{"cell/change", []string{"parley/cell"}, []string{"parley/cell/change"}, "a change is what the log is made of; what stores it imports it"},
		{"cell/msglog", []string{"parley/cell"}, []string{"parley/cell/msglog", "parley/cell/change", "parley/cell/pebbledb"}, "the log's protocol stands on its store alone"},
		{"cell/cassandra", []string{"parley/cell", "parley/regions"}, []string{"parley/cell/cassandra", "parley/cell/msglog", "parley/cell/history", "parley/cell/change"}, "a driver knows the contracts that it keeps and nothing of who relies on them"},
		{"cell/redisdb", []string{"parley/cell"}, []string{"parley/cell/redisdb", "parley/cell/router", "parley/cell/presence", "parley/cell/readstate", "parley/cell/change"}, "a driver knows the interfaces it implements, and no other driver: the journal it fills read state from is handed to it"},
		{"cell/search", []string{"parley/cell"}, []string{"parley/cell/search", "parley/cell/change", "parley/cell/directory", "parley/cell/history"}, "an index knows messages, not who writes, asks or feeds"},
		{"cell/search/text", []string{"parley/"}, nil, "what a text can be found by is a function of the text"},
		{"cell/kafka", []string{"parley/cell"}, []string{"parley/cell/kafka", "parley/cell/eventlog", "parley/cell/readstate", "parley/cell/change"}, "a driver knows the interfaces that it serves, not who uses them"},
		{"cell/channel", []string{"parley/cell/gateway", "parley/cell/api", "parley/cell/unread", "parley/cell/roster", "parley/cell/worker"}, nil, "the writer of channels does not know who asks"},
		{"cell/channel", []string{"parley/cell/channelnet", "parley/internal/gen"}, nil, "a channel server does not know whether a network lies before it"},
		{"cell/channelnet", []string{"parley/cell"}, []string{"parley/cell/channelnet", "parley/cell/channel", "parley/cell/change", "parley/cell/history"}, "a network carries what a channel server is asked: it touches no store, and knows nobody who asks"},
	}
}

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Error        *struct{ Err string }
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Error", "parley/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func under(path, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// TestImports checks what the product imports, tests excepted: a test may put two
// sides together.
func TestImports(t *testing.T) {
	all := packages(t)
	for _, r := range rules() {
		seen := false
		for _, p := range all {
			if !under(p.ImportPath, "parley/"+r.from) {
				continue
			}
			seen = true
			for _, imp := range p.Imports {
				bad := slices.ContainsFunc(r.not, func(dir string) bool { return under(imp, dir) })
				if bad && !slices.ContainsFunc(r.but, func(dir string) bool { return under(imp, dir) }) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.why)
				}
			}
		}
		if !seen {
			t.Errorf("the rule for %s is about no package", r.from)
		}
	}
}

// TestQuicStaysBehindItsTwoPackages: links are quic-go's only business with
// frames, HTTP/3 the only other use.
func TestQuicStaysBehindItsTwoPackages(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			behind := p.ImportPath == "parley/internal/link" || p.ImportPath == "parley/internal/h3"
			floor := under(p.ImportPath, "parley/bench/floor") // what links are measured against
			if imp == "github.com/quic-go/quic-go" && !behind && !floor {
				t.Errorf("%s imports quic-go: its types stay behind internal/link and internal/h3, so that a change of it is a change there", p.ImportPath)
			}
		}
	}
}

// TestClientsOfEnginesStayBehindTheirDrivers: nothing above a driver knows its engine, so
// that a change of a client is a change of one package.
func TestClientsOfEnginesStayBehindTheirDrivers(t *testing.T) {
	behind := map[string]string{
		"github.com/gocql/gocql":                     "cell/cassandra",
		"github.com/twmb/franz-go":                   "cell/kafka",
		"github.com/redis/go-redis/v9":               "cell/redisdb",
		"github.com/jackc/pgx/v5":                    "cell/directory",
		"github.com/blevesearch/bleve/v2":            "cell/search/blevedb",
		"github.com/elastic/go-elasticsearch/v8":     "cell/search/elastic",
		"github.com/elastic/elastic-transport-go/v8": "cell/search/elastic",
		"github.com/cockroachdb/pebble/v2":           "cell/pebbledb",
	}
	seen := map[string]bool{}
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			for client, driver := range behind {
				if !under(imp, client) || under(p.ImportPath, "parley/bench/floor") { // what drivers are measured against
					continue
				}
				seen[client] = true
				if p.ImportPath != "parley/"+driver {
					t.Errorf("%s imports %s: its types stay in %s", p.ImportPath, imp, driver)
				}
			}
		}
	}
	for client := range behind {
		if !seen[client] {
			t.Errorf("the rule for %s is about no package", client)
		}
	}
}

// TestNobodyImportsWhatBreaksAndMeasures: drills and benchmarks look at the product
// from outside, and must be free to change without it.
func TestNobodyImportsWhatBreaksAndMeasures(t *testing.T) {
	for _, p := range packages(t) {
		if under(p.ImportPath, "parley/chaos") || under(p.ImportPath, "parley/bench") || under(p.ImportPath, "parley/cmd") {
			continue
		}
		for _, imp := range p.Imports {
			if under(imp, "parley/chaos") || under(imp, "parley/bench") {
				t.Errorf("%s imports %s: drills and benchmarks stand outside", p.ImportPath, imp)
			}
		}
	}
}
