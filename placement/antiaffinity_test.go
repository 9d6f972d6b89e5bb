package placement_test

import (
	"testing"

	"parley/placement"
)

func TestAntiAffinityKeepsGroupApart(t *testing.T) {
	c := cell("eu-1", func(c *placement.Cell) { c.Groups = []string{"other", "acme"} })
	wantReasons(t, only(t, c, placement.Request{}))
	wantReasons(t, only(t, c, placement.Request{AntiAffinity: "third"}))
	wantReasons(t, only(t, c, placement.Request{AntiAffinity: "acme"}),
		`it holds another workspace of the anti-affinity group "acme"`)
}
