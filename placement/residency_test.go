package placement_test

import (
	"testing"

	"parley/internal/topology"
	"parley/placement"
)

func TestResidencyKeepsDataInItsRegions(t *testing.T) {
	in := func(rs ...topology.RegionID) placement.Request { return placement.Request{Residency: rs} }
	wantReasons(t, only(t, cell("eu-1"), in()))
	wantReasons(t, only(t, cell("eu-1"), in("us", "eu")))
	wantReasons(t, only(t, cell("eu-1"), in("us", "ca")), "it is in region eu, the workspace's data may only be in us, ca")
}
