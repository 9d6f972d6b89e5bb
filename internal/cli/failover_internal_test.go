package cli

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"parley/controlplane"
	"parley/internal/problem"
)

type nodes map[string]func() (*http.Response, error)

func (n nodes) RoundTrip(r *http.Request) (*http.Response, error) { return n[r.URL.Host]() }

func answer(status int, kind problem.Kind) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		return &http.Response{
			StatusCode: status, Header: http.Header{http.CanonicalHeaderKey(controlplane.HeaderKind): {string(kind)}},
			Body: io.NopCloser(strings.NewReader("")),
		}, nil
	}
}

func TestFailover_AsksTheNextWhereNothingWasDone(t *testing.T) {
	broken := func() (*http.Response, error) { return nil, errors.New("the connection broke") }
	for name, c := range map[string]struct {
		first  func() (*http.Response, error)
		status int // 0 = an error
	}{
		"a node that can't now":          {answer(http.StatusServiceUnavailable, problem.Unavailable), http.StatusOK},
		"a node that may have done it":   {answer(http.StatusServiceUnavailable, problem.Unknown), http.StatusServiceUnavailable},
		"a node that refuses":            {answer(http.StatusConflict, problem.Conflict), http.StatusConflict},
		"a node whose connection breaks": {broken, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := &failover{urls: []string{"https://a", "https://b"}, next: nodes{"a": c.first, "b": answer(http.StatusOK, "")}}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://control.invalid/parley.control.v1.ControlService/CordonCell", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			res, err := f.RoundTrip(r)
			if (err != nil) != (c.status == 0) {
				t.Fatalf("%v", err)
			}
			if err == nil {
				defer func() { _ = res.Body.Close() }()
				if res.StatusCode != c.status {
					t.Fatalf("answered %d, want %d", res.StatusCode, c.status)
				}
			}
		})
	}
}

// The last node's word counts where all refuse.
func TestFailover_TellsWhatTheLastNodeSaid(t *testing.T) {
	no := answer(http.StatusServiceUnavailable, problem.Unavailable)
	f := &failover{urls: []string{"https://a", "https://b"}, next: nodes{"a": no, "b": no}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://control.invalid/x/ListCells", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := f.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if !refused(res) {
		t.Fatalf("answered %d", res.StatusCode)
	}
}
