//go:build engines

package elastic_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/search"
	"parley/cell/search/elastic"
	"parley/cell/search/searchtest"
	"parley/internal/problem"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is the address of the Elasticsearch to test against.
func engine(tb testing.TB) string {
	tb.Helper()
	const name = "PARLEY_TEST_ELASTICSEARCH"
	addr, _, _ := strings.Cut(os.Getenv(name), ",")
	if addr == "" {
		tb.Fatalf("%s names no Elasticsearch; `make test-engines` starts one", name)
	}
	if !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	return addr
}

// admin asks the engine directly.
func admin(tb testing.TB, method, path, body string) (status int, answer string) {
	tb.Helper()
	// The test's own context has ended when it cleans up.
	req, err := http.NewRequestWithContext(context.Background(), method, engine(tb)+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// config is one with a prefix of its own, whose indexes go with the test.
func config(tb testing.TB) elastic.Config {
	tb.Helper()
	none := 0
	c := elastic.Config{Addresses: []string{engine(tb)}, Prefix: fmt.Sprintf("t%d", rand.Uint32()), Replicas: &none}
	tb.Cleanup(func() { clean(tb, c.Prefix) })
	return c
}

func clean(tb testing.TB, prefix string) {
	tb.Helper()
	_, list := admin(tb, "GET", "/_cat/indices/"+prefix+"*?h=index", "")
	for index := range strings.FieldsSeq(list) {
		admin(tb, "DELETE", "/"+index, "")
	}
	admin(tb, "DELETE", "/_index_template/"+prefix, "")
}

func open(tb testing.TB, c elastic.Config) *elastic.DB {
	tb.Helper()
	db, err := elastic.Open(tb.Context(), c, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func TestIndex(t *testing.T) {
	searchtest.Run(t, func(t *testing.T) searchtest.Harness {
		t.Helper()
		c := config(t)
		// Between us and the engine is what can be cut.
		to, err := url.Parse(engine(t))
		if err != nil {
			t.Fatal(err)
		}
		var away atomic.Bool
		pass := httputil.NewSingleHostReverseProxy(to)
		tr := &http.Transport{}
		pass.Transport = tr
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if away.Load() {
				panic(http.ErrAbortHandler)
			}
			pass.ServeHTTP(w, r)
		}))
		t.Cleanup(func() { srv.Close(); tr.CloseIdleConnections() })
		c.Addresses = []string{srv.URL}
		return searchtest.Harness{
			Index: open(t, c),
			Refresh: func(t *testing.T) {
				t.Helper()
				admin(t, "POST", "/"+c.Prefix+"/_refresh?ignore_unavailable=true", "")
			},
			Cut: func(*testing.T) (heal func()) {
				away.Store(true)
				return func() { away.Store(false) }
			},
		}
	})
}

// TestOpen_Foreign wants no start on what is not ours, and nothing changed.
func TestOpen_Foreign(t *testing.T) {
	for name, c := range map[string]struct{ method, path, body, says string }{
		"an index in the alias":    {"PUT", "/%s-x", `{"aliases":{"%s":{}}}`, "is not ours"},
		"a schema of the future":   {"PUT", "/%s-x", `{"aliases":{"%s":{}},"mappings":{"_meta":{"parley_search_schema":2}}}`, "run a newer release"},
		"an index named as we are": {"PUT", "/%s", `{"mappings":{"_meta":{"parley_search_schema":1}}}`, "where an alias has to be"},
		"a foreign template":       {"PUT", "/_index_template/%s", `{"index_patterns":["%s-x*"]}`, "not ours"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			if status, said := admin(t, c.method, fmt.Sprintf(c.path, cfg.Prefix), strings.ReplaceAll(c.body, "%s", cfg.Prefix)); status != http.StatusOK {
				t.Fatal(said)
			}
			_, before := admin(t, "GET", "/_index_template?filter_path=index_templates.name", "")
			_, err := elastic.Open(t.Context(), cfg, nil)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), cfg.Prefix) {
				t.Errorf("Open says %v", err)
			}
			if _, after := admin(t, "GET", "/_index_template?filter_path=index_templates.name", ""); strings.Contains(after, cfg.Prefix) != strings.Contains(before, cfg.Prefix) {
				t.Error("Open has changed something")
			}
		})
	}
}

// TestPut_IndexTakenAway goes on when somebody has removed an index.
func TestPut_IndexTakenAway(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	docs := []search.Doc{doc(1)}
	if err := db.Put(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	clean(t, cfg.Prefix)
	if err := elastic.Check(t.Context(), cfg); err != nil {
		t.Errorf("without indexes: %v", err)
	}
	if err := db.Put(t.Context(), docs); !problem.Is(err, problem.Unavailable) {
		t.Errorf("without its index: %v", err) // and none was made by itself, with a guessed mapping
	}
	again := open(t, cfg)
	if err := again.Put(t.Context(), docs); err != nil {
		t.Error(err)
	}
	if err := db.Put(t.Context(), docs); err != nil {
		t.Error(err)
	}
}

// TestPut_Refused is clause 2: a poison document stops no other.
func TestPut_Refused(t *testing.T) {
	db := open(t, config(t))
	poison := doc(2)
	poison.ID = topology.MessageID(strings.Repeat("x", 600)) // _id takes 512 bytes
	err := db.Put(t.Context(), []search.Doc{doc(1), poison, doc(3)})
	refused, ok := errors.AsType[*search.Refused](err)
	if !ok || len(refused.IDs) != 1 || refused.IDs[0] != poison.ID || refused.Why == "" {
		t.Fatalf("Put says %v", err)
	}
	if err := db.Put(t.Context(), []search.Doc{doc(1)}); err != nil {
		t.Error(err)
	}
}

func doc(n int) search.Doc {
	return search.Doc{
		Channel: topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}, ID: topology.MessageID(fmt.Sprintf("m%08d", n)), Version: 1,
		TS: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC).UnixMicro() + int64(n), Seq: topology.Seq(n), Author: "Uann",
		Text: fmt.Sprintf("The deploy number %d of checkout-api has failed again, see https://ci.example.com/job/%d and ask @ann or somebody else who was there at the time", n, n*7),
	}
}

// BenchmarkPut measures indexing beside the same bulks as bytes that were made
// before: what Elasticsearch and one connection do alone.
func BenchmarkPut(b *testing.B) {
	const batch, warm = 1_000, 10
	var n int
	next := func() []search.Doc {
		docs := make([]search.Doc, batch)
		for i := range docs {
			n++
			docs[i] = doc(n)
		}
		return docs
	}
	cfg := config(b)
	db := open(b, cfg)
	for range warm {
		if err := db.Put(b.Context(), next()); err != nil {
			b.Fatal(err)
		}
	}
	var raw, driver time.Duration
	for b.Loop() { // in turns, so that what else the machine does meets both
		body, docs := elastic.BulkBody(cfg.Prefix+"-2026q1", next()), next()
		began := time.Now()
		if status, said := admin(b, "POST", "/_bulk", body); status != http.StatusOK || strings.Contains(said, `"errors":true`) {
			b.Fatal(said)
		}
		sent := time.Now()
		if err := db.Put(b.Context(), docs); err != nil {
			b.Fatal(err)
		}
		raw, driver = raw+sent.Sub(began), driver+time.Since(sent)
	}
	b.ReportMetric(float64(batch*b.N)/raw.Seconds(), "raw-docs/s")
	b.ReportMetric(float64(batch*b.N)/driver.Seconds(), "docs/s")
	b.ReportMetric(raw.Seconds()/driver.Seconds(), "of-raw")
}
