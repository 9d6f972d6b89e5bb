package kafka

import (
	"context"
	"sync"
)

// flights lets calls that wait at the same time share one answer. Who comes while
// a request is under way waits for the next one, so that no answer is older than
// its question.
type flights[T any] struct {
	db *DB
	do func(ctx context.Context) (T, error)

	mu   sync.Mutex
	busy bool
	next *flight[T]
}

type flight[T any] struct {
	done  chan struct{} // closed when the two below are set
	value T
	err   error
}

func newFlights[T any](db *DB, do func(context.Context) (T, error)) *flights[T] {
	return &flights[T]{db: db, do: do}
}

// get asks, or waits for others who do.
func (f *flights[T]) get(ctx context.Context) (T, error) {
	var none T
	f.mu.Lock()
	if f.next == nil {
		f.next = &flight[T]{done: make(chan struct{})}
	}
	mine := f.next
	if !f.busy {
		if !f.db.spawn(f.run) {
			f.mu.Unlock()
			return none, errClosed()
		}
		f.busy = true
	}
	f.mu.Unlock()
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		return none, away(ctx.Err(), "does not answer")
	}
}

// run asks for as long as somebody waits.
func (f *flights[T]) run() {
	for {
		f.mu.Lock()
		now := f.next
		f.next, f.busy = nil, now != nil
		f.mu.Unlock()
		if now == nil {
			return
		}
		ctx, cancel := context.WithTimeout(f.db.ctx, callMax)
		now.value, now.err = f.do(ctx)
		cancel()
		close(now.done)
	}
}
