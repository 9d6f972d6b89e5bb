package placement_test

import (
	"testing"

	"parley/placement"
)

func TestRegionKeepsWorkspaceAtHome(t *testing.T) {
	wantReasons(t, only(t, cell("eu-1"), placement.Request{}))
	wantReasons(t, only(t, cell("eu-1"), placement.Request{HomeRegion: "eu"}))
	wantReasons(t, only(t, cell("eu-1"), placement.Request{HomeRegion: "us"}),
		"it is in region eu, the workspace's home is us")
}
