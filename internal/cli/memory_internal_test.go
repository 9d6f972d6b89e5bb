package cli

import "testing"

func TestHeap_IsTrimmedWhenQuiet(t *testing.T) {
	const mib = 1 << 20
	before := heap{allocated: 1000 * mib}
	for name, c := range map[string]struct {
		now  heap
		want bool
	}{
		"quiet, much garbage":   {heap{allocated: 1006 * mib, lived: 64 * mib, held: 95 * mib}, true},
		"quiet, little garbage": {heap{allocated: 1006 * mib, lived: 64 * mib, held: 69 * mib}, false},
		"busy":                  {heap{allocated: 1070 * mib, lived: 64 * mib, held: 95 * mib}, false},
	} {
		if got := c.now.quietSince(before) && c.now.wasteful(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
