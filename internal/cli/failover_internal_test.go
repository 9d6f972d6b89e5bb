package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"parley/controlplane"
	"parley/internal/problem"
)

// node is what a node answers; with status 0 its connection breaks.
type node struct {
	status int
	kind   problem.Kind
}

type nodes map[string]node

func (n nodes) RoundTrip(r *http.Request) (*http.Response, error) {
	at := n[r.URL.Host]
	if at.status == 0 {
		return nil, errors.New("the connection broke")
	}
	if at.status == http.StatusOK { // who refuses needs no body
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != "{}" {
			return nil, fmt.Errorf("the body is %q, %w", b, err)
		}
	}
	return &http.Response{
		StatusCode: at.status, Header: http.Header{http.CanonicalHeaderKey(controlplane.HeaderKind): {string(at.kind)}},
		Body: io.NopCloser(strings.NewReader("")),
	}, nil
}

func TestFailover_AsksTheNextWhereNothingWasDone(t *testing.T) {
	for name, c := range map[string]struct {
		first  node
		status int // 0 = an error
	}{
		"a node that can't now":          {node{http.StatusServiceUnavailable, problem.Unavailable}, http.StatusOK},
		"a node that may have done it":   {node{http.StatusServiceUnavailable, problem.Unknown}, http.StatusServiceUnavailable},
		"a node that refuses":            {node{http.StatusConflict, problem.Conflict}, http.StatusConflict},
		"a node whose connection breaks": {node{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := &failover{urls: []string{"https://a", "https://b"}, next: nodes{"a": c.first, "b": node{http.StatusOK, ""}}}
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
	no := node{http.StatusServiceUnavailable, problem.Unavailable}
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
