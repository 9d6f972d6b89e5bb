package redisdb

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Bounds of what is sent at once: enough that a round trip costs little per message.
const (
	sendMax      = 512
	sendBytesMax = 1 << 20
	outBytesMax  = 64 << 20 // that wait for one node
)

// Pauses after a node did not take what was sent.
const (
	sendPauseMin = 50 * time.Millisecond
	sendPauseMax = time.Second
)

// item is a message on its way, or a mark: sent is closed when all before it
// has been.
type item struct {
	channel string
	payload []byte
	sent    chan struct{}
}

// outbox sends what is published to one node, in order. Publishing never waits for
// it: what does not fit is dropped, and what a node did not take is not sent again,
// for by then the gap has been found.
type outbox struct {
	max     int
	metrics *metrics
	doubt   func() // the layout may have changed
	wake    chan struct{}

	mu    sync.Mutex
	queue []item
	bytes int
}

// push queues an item; false if it was dropped.
func (o *outbox) push(it item) bool {
	o.mu.Lock()
	if len(o.queue) >= o.max || o.bytes+len(it.payload) > outBytesMax {
		o.mu.Unlock()
		return false
	}
	o.queue = append(o.queue, it)
	o.bytes += len(it.payload)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default: // it is awake
	}
	return true
}

// run sends until ctx ends.
func (o *outbox) run(ctx context.Context, to *redis.Client) {
	var spare []item
	wait := sendPauseMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		o.mu.Lock()
		items := o.queue
		o.queue, o.bytes = spare[:0], 0
		o.mu.Unlock()
		for rest := items; len(rest) > 0; {
			n := chunk(rest)
			if err := o.send(ctx, to, rest[:n]); err == nil {
				wait = sendPauseMin
			} else {
				o.doubt()
				if !pause(ctx, wait) {
					return
				}
				wait = min(2*wait, sendPauseMax)
			}
			rest = rest[n:]
		}
		clear(items) // let go of the payloads
		spare = items
	}
}

// chunk is how many of the items go at once.
func chunk(items []item) int {
	bytes := 0
	for i, it := range items {
		if bytes += len(it.payload); i == sendMax || i > 0 && bytes > sendBytesMax {
			return i
		}
	}
	return len(items)
}

func (o *outbox) send(ctx context.Context, to *redis.Client, items []item) error {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	p := to.Pipeline()
	cmds := make([]*redis.IntCmd, 0, len(items))
	for _, it := range items {
		if it.sent == nil {
			cmds = append(cmds, p.SPublish(ctx, it.channel, it.payload))
		}
	}
	var err error
	if len(cmds) > 0 {
		_, err = p.Exec(ctx)
	}
	for _, c := range cmds {
		if c.Err() != nil {
			o.metrics.dropped.Inc()
		}
	}
	for _, it := range items {
		if it.sent != nil {
			close(it.sent)
		}
	}
	return err
}
