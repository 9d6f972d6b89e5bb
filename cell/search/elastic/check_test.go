package elastic_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"parley/cell/search/elastic"
	"parley/internal/problem"
)

// answering is a server that answers every request alike.
func answering(t *testing.T, status int, product, body string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if product != "" {
			w.Header().Set("X-Elastic-Product", product)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestCheck_SaysWhatIsWrong(t *testing.T) {
	const es = "Elasticsearch"
	nodes := func(version string) string { return `{"nodes":{"a":{"name":"es-1","version":"` + version + `"}}}` }
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		address, says string
		kind          problem.Kind
	}{
		"nobody there":      {"http://127.0.0.1:1", "can't be reached", problem.Unavailable},
		"another server":    {answering(t, 200, "", `{"nodes":{}}`), "not Elasticsearch", problem.Invalid},
		"wrong credentials": {answering(t, 401, es, `{"error":{"type":"security_exception","reason":"no"},"status":401}`), "password_file", problem.Unauthentic},
		"no privilege":      {answering(t, 403, es, `{"error":{"type":"security_exception","reason":"no"},"status":403}`), "privilege monitor", problem.Denied},
		"too old":           {answering(t, 200, es, nodes("7.17.1")), "version 7.17.1; version 8 is needed", problem.Unsupported},
		"too new":           {answering(t, 200, es, nodes("9.0.0")), "version 9.0.0; version 8 is needed", problem.Unsupported},
		"garbage":           {answering(t, 200, es, "\x00\x01<html>"), "is no HTTP", problem.Unavailable},
		"no cluster":        {answering(t, 200, es, `{"nodes":{}}`), "knows no nodes", problem.Unavailable},
		"failing":           {answering(t, 500, es, `oops`), "it answers 500", problem.Unavailable},
		"http for https":    {strings.Replace(answering(t, 200, es, nodes("8.1.0")), "http:", "https:", 1), "speaks http, not https", problem.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			err := elastic.Check(t.Context(), elastic.Config{Addresses: []string{c.address}, Username: "parley", PasswordFile: secret})
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.address) || !problem.Is(err, c.kind) {
				t.Errorf("Check says %v; want kind %s, %q", err, c.kind, c.says)
			}
		})
	}
}

func TestCheck_SaysAllOfIt(t *testing.T) {
	err := elastic.Check(t.Context(), elastic.Config{Addresses: []string{"http://127.0.0.1:1", answering(t, 200, "", "{}")}})
	if err == nil || !strings.Contains(err.Error(), "can't be reached") || !strings.Contains(err.Error(), "not Elasticsearch") {
		t.Errorf("Check says %v", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	minus := -1
	err := elastic.Config{
		Addresses: []string{"es:9200", "http://u:p@es:9200"}, Username: "u", APIKeyFile: "k", CertFile: "c", Prefix: "Parley*", Shards: 65, Replicas: &minus, RequestMax: time.Millisecond,
	}.Validate()
	for _, field := range []string{`"es:9200"`, `"http://u:p@es:9200"`, "password_file:", "api_key_file:", "key_file:", "prefix:", "shards:", "replicas:", "request_max:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not among what is wrong: %v", field, err)
		}
	}
	if err := (elastic.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "addresses:") {
		t.Errorf("an empty config: %v", err)
	}
	if err := (elastic.Config{Addresses: []string{"http://es:9200"}}).Validate(); err != nil {
		t.Error(err)
	}
	missing := elastic.Config{Addresses: []string{"http://es:9200"}, Username: "u", PasswordFile: "/nowhere/p", CAFile: "/nowhere/ca", CertFile: "/nowhere/c", KeyFile: "/nowhere/k"}
	err = elastic.Check(t.Context(), missing)
	for _, file := range []string{"/nowhere/p", "/nowhere/ca", "/nowhere/c"} {
		if err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s is not among what is wrong: %v", file, err)
		}
	}
}
