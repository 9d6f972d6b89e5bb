package finder

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	var b breaker
	now := time.Unix(0, 0)
	step := func(what string, allowed bool) {
		t.Helper()
		if got := b.allows(now); got != allowed {
			t.Errorf("%s: allowed %v", what, got)
		}
	}
	for range breakAfter {
		step("before it breaks", true)
		b.note(now, true)
	}
	step("broken", false)
	now = now.Add(breakFor - 1)
	step("still", false)
	now = now.Add(1)
	step("one tries", true)
	step("the others don't", false)
	b.note(now, true)
	step("in vain", false)
	now = now.Add(breakFor)
	step("one tries again", true)
	b.note(now, false)
	step("healed", true)
	b.note(now, true)
	step("one failure is none", true)
}
