package controlplane

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Who forwards a call may read its body after the handler has returned.
func TestUnhurried_ABodyMayBeReadAfterItsCall(t *testing.T) {
	bodies := make(chan io.Reader, 1)
	s := httptest.NewUnstartedServer(unhurried(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { bodies <- r.Body })))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	res, err := s.Client().Post(s.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.ProtoMajor != 2 {
		t.Fatalf("HTTP/%d, %v", res.ProtoMajor, err)
	}
	_, _ = (<-bodies).Read(make([]byte, 1)) // it must not panic
}
