package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"parley/chaos/history"
	"parley/chaos/swarm"
	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// The noisy workspace posts many times its quota, over as many sockets as it takes: an
// edge bounds each.
const (
	noisyPeople = 8
	noisyPace   = 45 // posts a second of each socket: just what an edge lets pass
	noisyFor    = 8 * time.Second
)

// quota is how many posts a second each channel server of the drills' cells takes from a
// workspace: less than what both together can do while they share the machine with all
// of the drill, and with engines if there are any.
func (c Config) quota() int64 {
	if c.Engines != "" {
		return 25
	}
	return 400
}

// noisyEach is how many sockets each noisy person has.
func (c Config) noisyEach() int {
	if c.Engines != "" {
		return 1
	}
	return 8
}

// noise is how the posts of a workspace fared that posts without measure.
type noise struct {
	sockets                     sync.WaitGroup
	sent, acked, limited, other atomic.Int64
}

// noisyNeighbour has a workspace in the swarm's cell post more than its quota, and
// sees that it is refused what is above, and nothing below.
func noisyNeighbour(ctx context.Context, w *world) error {
	in, err := w.seed(ctx, noisyHome, fmt.Sprintf("noisy-%d", time.Now().Unix()), noisyPeople, noisyPeople, 2)
	if err != nil {
		return err
	}
	var n noise
	loud, cancel := context.WithTimeout(ctx, noisyFor)
	defer cancel()
	for _, p := range in.People(history.RoleSwarm, func(int) []string { return []string{w.regions[0].edge.url()} }) {
		for range w.cfg.noisyEach() {
			if err := n.add(loud, p); err != nil {
				return fmt.Errorf("a socket of %s: %w", p.Name, err)
			}
		}
	}
	n.sockets.Wait()
	return n.wrong(w.cfg.quota())
}

// add has one more socket of a person post until ctx ends.
func (n *noise) add(ctx context.Context, p swarm.Person) error {
	c, err := client.New(client.Config{URL: p.Edges[0], Token: p.Token})
	if err != nil {
		return err
	}
	s, err := c.Dial(ctx, false)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = s.Close() }) // its reader returns
	n.sockets.Go(func() { n.read(s) })
	n.sockets.Go(func() { n.post(ctx, s, p.Channels) })
	return nil
}

func (n *noise) post(ctx context.Context, s *client.Socket, channels []topology.ChannelID) {
	t := time.NewTicker(time.Second / noisyPace)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if s.Send(chat.ClientFrame{Type: chat.TypePost, ID: strconv.Itoa(i), ChannelID: channels[i%len(channels)], Text: "noise"}) != nil {
			return
		}
		n.sent.Add(1)
	}
}

func (n *noise) read(s *client.Socket) {
	for {
		raw, e, err := s.Read()
		if err != nil {
			return
		}
		var refusal chat.ErrorEvent
		switch {
		case e.Type == chat.TypeAck:
			n.acked.Add(1)
		case e.Type != chat.TypeError:
		case json.Unmarshal(raw, &refusal) == nil && refusal.Kind == string(problem.Exhausted):
			n.limited.Add(1)
		default:
			n.other.Add(1)
		}
	}
}

// wrong says what is not as the quota says. The channels may be at one server or at
// two: each lets the quota pass, and twice of it at once.
func (n *noise) wrong(quota int64) error {
	least, most := quota*int64(noisyFor/time.Second), 2*quota*int64(noisyFor/time.Second+2)
	sent, acked := n.sent.Load(), n.acked.Load()
	switch {
	case n.other.Load() > 0:
		return fmt.Errorf("of %d posts %d were refused for another reason than the quota", sent, n.other.Load())
	case n.limited.Load() == 0:
		return fmt.Errorf("%d posts were sent, and none was limited", sent)
	case acked < least*8/10 || acked > most:
		return fmt.Errorf("%d posts were acked; at %d a second %d to %d were due", acked, quota, least, most)
	}
	return nil
}
