package drill

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"parley/chaos/fault"
	"parley/client"
	"parley/internal/wire/chat"
)

// Slow and cut links between the edges and the target's gateways.

func slowLink(ctx context.Context, w *world) error {
	way := fault.Conditions{Delay: 100 * time.Millisecond, Jitter: 25 * time.Millisecond, Loss: 0.005} // each way
	for _, g := range w.regions[0].cell.gateways {
		w.relays[g.id].Set(fault.Both, way)
	}
	err := w.wait(ctx, 10*time.Second)
	for _, g := range w.regions[0].cell.gateways {
		w.relays[g.id].Set(fault.Both, fault.Conditions{})
	}
	return err
}

func cutOneWay(ctx context.Context, w *world) error {
	r := w.relays[gatewayOne]
	r.Set(fault.Down, fault.Conditions{Cut: true})
	err := w.wait(ctx, 8*time.Second)
	r.Set(fault.Down, fault.Conditions{})
	return err
}

// stormSockets is how many sockets lose their edge at once.
const stormSockets = 480

// stormResult is how long it took until the sockets of a storm were back.
type stormResult struct {
	Sockets  int
	P99, Max time.Duration
}

// storm kills an edge under many sockets, and waits until all are back through
// the other.
func storm(ctx context.Context, w *world) error {
	listen, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var all sync.WaitGroup
	defer all.Wait()
	flock := make([]*bird, stormSockets)
	for i := range flock {
		p := w.swarm.people[i%users]
		b, err := newBird(p.Token, w.regions[0].edge.url(), w.regions[1].edge.url())
		if err != nil {
			return err
		}
		flock[i] = b
		defer b.close()
		all.Go(func() { b.run(listen) })
	}
	defer hangUp()
	if err := w.untilBack(ctx, flock, 1); err != nil {
		return err
	}
	began := time.Now()
	if err := w.kill(targetEdge); err != nil {
		return err
	}
	if err := w.untilBack(ctx, flock, 2); err != nil {
		return err
	}
	var took []time.Duration
	for _, b := range flock {
		took = append(took, b.backAt().Sub(began))
	}
	slices.Sort(took)
	w.mu.Lock()
	w.storm = &stormResult{Sockets: len(took), P99: took[len(took)*99/100], Max: took[len(took)-1]}
	w.mu.Unlock()
	return w.start(ctx, targetEdge)
}

func (w *world) untilBack(ctx context.Context, flock []*bird, opened uint64) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		back := 0
		for _, b := range flock {
			if b.opens() >= opened {
				back++
			}
		}
		if back == len(flock) {
			return nil
		}
		if w.wait(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%d of %d sockets are open after %s", back, len(flock), startMax)
		}
	}
}

// bird is a client that only listens.
type bird struct {
	stream *client.Stream
	edges  []*client.Client

	mu   sync.Mutex
	n    uint64
	last time.Time
}

func newBird(token string, edges ...string) (*bird, error) {
	b := &bird{}
	for _, u := range edges {
		c, err := client.New(client.Config{URL: u, Token: token})
		if err != nil {
			return nil, err
		}
		b.edges = append(b.edges, c)
	}
	var err error
	b.stream, err = client.NewStream(b.edges, nil, slog.New(slog.DiscardHandler))
	return b, err
}

func (b *bird) run(ctx context.Context) {
	go func() { _ = b.stream.Run(ctx) }() // ends with ctx, and closes the events
	for e := range b.stream.Events() {
		if e.Type == chat.TypeHello { // not only open: served
			b.mu.Lock()
			b.n++
			b.last = time.Now()
			b.mu.Unlock()
		}
	}
}

func (b *bird) opens() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (b *bird) backAt() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

func (b *bird) close() {
	for _, c := range b.edges {
		c.Close()
	}
}

// slowSockets is how many sockets of a hot channel do not read.
const slowSockets = 500

// slowReaders opens sockets that never read, and has their channel be busy.
func slowReaders(ctx context.Context, w *world) error {
	var held []*client.Socket
	defer func() {
		for _, s := range held {
			_ = s.Close() // it was meant to be bad
		}
	}()
	for i := range slowSockets {
		p := w.swarm.people[i%users]
		c, err := client.New(client.Config{URL: w.regions[0].edge.url(), Token: p.Token})
		if err != nil {
			return err
		}
		defer c.Close()
		s, err := c.Dial(ctx, false)
		if err != nil {
			return fmt.Errorf("slow reader %d: %w", i, err)
		}
		held = append(held, s)
	}
	hot := w.swarm.people[0].Channels[0]
	return w.postInto(ctx, 0, hot, 400)
}
