package swarm

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Flat out no line is left unsaid, however slow its speaker is.
func TestSwarm_FlatOutWaitsForSpeakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &person{queue: make(chan task, 2)}
		s := &Swarm{cfg: Config{Script: Chatter(1, 50, 1e6), Speed: 1, FlatOut: true}, people: []*person{p}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.recite(ctx)
		for line := range 50 {
			time.Sleep(time.Second) //nolint:forbidigo // the speaker is slow, in simulated time
			if got := <-p.queue; got.line != line {
				t.Fatalf("line %d came in place of %d", got.line, line)
			}
		}
		synctest.Wait()
		if s.unsaid != 0 || s.scripted != 50 || !s.Recited() {
			t.Errorf("%d unsaid, %d scripted, recited: %v", s.unsaid, s.scripted, s.Recited())
		}
	})
}

// What is handed out and not taken up yet is not recited.
func TestSwarm_IsNotRecitedWhileALineWaits(t *testing.T) {
	p := &person{queue: make(chan task, 100)}
	s := &Swarm{cfg: Config{Script: Chatter(1, 10, 1e6), Speed: 1, FlatOut: true}, people: []*person{p}}
	s.recite(t.Context())
	if s.Recited() {
		t.Error("ten lines wait for their speaker")
	}
}
