package channel

import "sync"

// signal wakes everybody who waits for a state to change. Take the channel
// before looking at the state, then wait on it: no change is missed.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed by the next fire.
func (g *signal) next() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch == nil {
		g.ch = make(chan struct{})
	}
	return g.ch
}

func (g *signal) fire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ch != nil {
		close(g.ch)
		g.ch = nil
	}
}
