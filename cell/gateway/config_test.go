package gateway_test

import (
	"strings"
	"testing"

	"parley/cell/gateway"
)

func TestNew_ListsEveryFault(t *testing.T) {
	_, err := gateway.New(gateway.Config{}, gateway.Deps{})
	if err == nil {
		t.Fatal("an empty config is taken")
	}
	for _, field := range []string{"id:", "cell:", "deps:", "addr:", "tls:"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}
