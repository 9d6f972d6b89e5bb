package finder

import (
	"sync"
	"time"
)

const (
	// breakAfter failures in a row, the index is left alone for breakFor; then one
	// search tries it again.
	breakAfter = 3
	breakFor   = 2 * time.Second
)

// breaker spares searches the wait for an index that is away.
type breaker struct {
	mu     sync.Mutex
	failed int
	until  time.Time // before it nobody asks
}

// allows reports whether the index may be asked. Who is the first after a pause
// tries it for all: the others wait for its outcome, or another pause.
func (b *breaker) allows(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed < breakAfter {
		return true
	}
	if now.Before(b.until) {
		return false
	}
	b.until = now.Add(breakFor)
	return true
}

// note takes the outcome of having asked.
func (b *breaker) note(now time.Time, failed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !failed {
		b.failed = 0
		return
	}
	if b.failed++; b.failed >= breakAfter {
		b.until = now.Add(breakFor)
	}
}
