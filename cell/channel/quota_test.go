package channel

import (
	"fmt"
	"testing"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

func TestQuotas_EachWorkspaceHasItsOwn(t *testing.T) {
	now := time.Unix(1, 0)
	q := newQuotas(10, 20)
	loud := func() (passed int, last error) {
		for range 100 {
			if err := q.take("loud", now); err != nil {
				last = err
			} else {
				passed++
			}
		}
		return passed, last
	}
	n, err := loud()
	if n != 20 || !problem.Is(err, problem.Exhausted) {
		t.Fatalf("a burst of %d passed, then %v", n, err)
	}
	p := err.(*problem.Error) //nolint:errorlint,forcetypeassert // as take makes it
	if p.RetryAfter <= 0 || p.RetryAfter > 100*time.Millisecond {
		t.Errorf("it is to come back after %s", p.RetryAfter)
	}
	if err := q.take("quiet", now); err != nil {
		t.Errorf("another workspace got %v", err)
	}
	now = now.Add(p.RetryAfter)
	if err := q.take("loud", now); err != nil {
		t.Errorf("after that time it got %v", err)
	}
	now = now.Add(time.Second)
	if n, _ := loud(); n != 10 {
		t.Errorf("%d passed after a second at 10 a second", n)
	}
}

func TestQuotas_AreBounded(t *testing.T) {
	now := time.Unix(1, 0)
	q := newQuotas(1, 2)
	for i := range quotasMax {
		_ = q.take(topology.WorkspaceID(fmt.Sprintf("W%d", i)), now)
	}
	now = now.Add(2 * time.Second) // all are at rest but one
	for range 3 {
		_ = q.take("W7", now)
	}
	_ = q.take("new", now)
	if len(q.all) != 2 {
		t.Errorf("%d are remembered", len(q.all))
	}
	if err := q.take("W7", now); err == nil {
		t.Error("the one that was not at rest was forgotten")
	}
}

func TestQuotas_NoneIsNoLimit(t *testing.T) {
	q := newQuotas(0, 0)
	for range 1000 {
		if err := q.take("W", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}
