package placement_test

import (
	"testing"

	"parley/placement"
)

func TestPinAllowsItsCellOnly(t *testing.T) {
	wantReasons(t, only(t, cell("eu-1"), placement.Request{Pin: "eu-1"}))
	wantReasons(t, only(t, cell("eu-2"), placement.Request{Pin: "eu-1"}), "the workspace is pinned to cell eu-1")
}
