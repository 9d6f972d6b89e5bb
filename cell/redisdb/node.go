package redisdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/problem"
)

// Pace of a node's connection: a node that is silent for silenceMax is away.
const (
	pingEvery    = time.Second
	silenceMax   = 3 * time.Second
	redialMin    = 100 * time.Millisecond
	redialMax    = time.Second
	subscribeMax = 256 // topics in one command
)

// node is a server: what is published to it, and the connection on which its
// topics are heard. The client library would subscribe again by itself, but in one
// command for all topics, which a cluster refuses; so a connection is used once.
type node struct {
	bus   *Bus
	addr  string
	stop  context.CancelFunc
	out   outbox
	wake  chan struct{} // holds one: topics are dirty
	again chan struct{} // holds one: connect anew

	first sync.Once     // for ready
	ready chan struct{} // closed when it is up for the first time

	restoring atomic.Bool  // what comes is dropped: Lost comes after it
	heard     atomic.Int64 // Unix ns of the last sign of life

	// Under the bus's mu.
	dirty map[*topic]struct{}
	up    bool // all topics are subscribed to, but for new ones
	stuck bool // it left a Follow without an answer
	left  int  // topics to be restored still
}

var errSlotMoved = errors.New("a slot has moved")

// note has a topic looked at. The caller holds the bus's mu.
func (n *node) note(t *topic) {
	n.dirty[t] = struct{}{}
	poke(n.wake)
}

// anew ends the node's connection, so that all is subscribed to again.
func (n *node) anew() { poke(n.again) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is known
	}
}

// waitsFor reports whether a topic is still to be subscribed to.
func (n *node) waitsFor(channel string) bool {
	n.bus.mu.Lock()
	defer n.bus.mu.Unlock()
	t := n.bus.topics[channel]
	return t != nil && t.node == n && !t.live && !t.subscribed && n.up && !n.stuck
}

// send publishes until ctx ends.
func (n *node) send(ctx context.Context) {
	o := n.bus.d.access.options(n.addr)
	o.PoolSize = 1
	c := redis.NewClient(o)
	n.out.run(ctx, c)
	_ = c.Close() // nothing is under way
}

// hear keeps the node's topics subscribed to until ctx ends.
func (n *node) hear(ctx context.Context) {
	d := n.bus.d
	wait, told := redialMin, false
	for {
		began := time.Now()
		err := n.connection(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > redialMax {
			wait, told = redialMin, false
		}
		if !told { // once per outage
			d.log.Warn("a node of the router is away; connecting anew", "addr", n.addr, "err", err)
			told = true
		}
		d.metrics.reconnects.Inc()
		d.doubt()
		if !pause(ctx, wait) {
			return
		}
		wait = min(2*wait, redialMax)
	}
}

// once lets a client dial once only.
func once(o *redis.Options) *redis.Options {
	dial := o.Dialer
	var used atomic.Bool
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, net.ErrClosed
		}
		return dial(ctx, network, addr)
	}
	return o
}

// connection is one connection from its beginning to its end.
func (n *node) connection(ctx context.Context) error {
	c := redis.NewClient(once(n.bus.d.access.options(n.addr)))
	defer c.Close() //nolint:errcheck // it has failed, or ends
	ps := c.SSubscribe(ctx)
	dial, cancel := context.WithTimeout(ctx, dialMax+answerMax)
	err := ps.Ping(dial)
	cancel()
	if err != nil {
		return err
	}
	n.begin()
	defer n.end()
	ended := make(chan error, 1)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		ended <- n.read(ctx, ps)
	}()
	err = n.serve(ctx, ps, ended)
	_ = ps.Close() // ends the reading
	<-reading
	return err
}

// serve subscribes to what is wanted, until the connection ends.
func (n *node) serve(ctx context.Context, ps *redis.PubSub, ended <-chan error) error {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		if err := n.update(ctx, ps); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case <-n.again:
			return errSlotMoved
		case <-n.wake:
		case <-t.C:
			if silent := time.Since(time.Unix(0, n.heard.Load())); silent > silenceMax {
				return problem.New(problem.Unavailable, "nothing was heard for %s", silent.Round(time.Millisecond))
			}
			if err := ps.Ping(ctx); err != nil {
				return err
			}
		}
	}
}

// begin has all topics of the node subscribed to.
func (n *node) begin() {
	b := n.bus
	n.heard.Store(time.Now().UnixNano())
	n.restoring.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(n.dirty)
	n.left = 0
	for _, t := range b.topics {
		if t.node != n {
			continue
		}
		n.dirty[t] = struct{}{}
		if t.refs > 0 {
			t.restore, t.owed = true, true
			n.left++
		}
	}
	if n.left == 0 {
		n.restored()
	}
	poke(n.wake)
}

// restored ends the time after a connection in which nothing is handed on: Lost
// first (B2). The caller holds the bus's mu.
func (n *node) restored() {
	n.up, n.stuck = true, false
	n.first.Do(func() { close(n.ready) })
	n.bus.d.metrics.connected.Inc()
	for _, t := range n.bus.topics {
		if t.node == n && t.owed && t.live {
			t.owed = false
			n.bus.local.Lose(t.name)
		}
	}
	n.restoring.Store(false)
}

// end notes that nothing of the node is heard any more, and says so at once: who
// follows looks elsewhere.
func (n *node) end() {
	b := n.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.up {
		b.d.metrics.connected.Dec()
	}
	for channel, t := range b.topics {
		switch {
		case t.node != n:
		case t.refs == 0:
			delete(b.topics, channel)
		default:
			if n.up {
				b.local.Lose(t.name)
			}
			t.reset()
		}
	}
	n.up, n.stuck, n.left = false, false, 0
}

// update sends the commands that dirty topics need, those of a bucket together.
func (n *node) update(ctx context.Context, ps *redis.PubSub) error {
	on, off := n.takeDirty()
	for _, channels := range on {
		if err := ps.SSubscribe(ctx, channels...); err != nil {
			return err
		}
	}
	for _, channels := range off {
		if err := ps.SUnsubscribe(ctx, channels...); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) takeDirty() (on, off [][]string) {
	b := n.bus
	subscribe, unsubscribe := map[int][]string{}, map[int][]string{}
	put := func(to map[int][]string, all *[][]string, t *topic) {
		t.unanswered++
		to[t.bucket] = append(to[t.bucket], t.channel)
		if len(to[t.bucket]) == subscribeMax {
			*all = append(*all, to[t.bucket])
			delete(to, t.bucket)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range n.dirty {
		switch {
		case t.node != n:
		case t.refs > 0 && !t.subscribed:
			t.subscribed = true
			put(subscribe, &on, t)
		case t.refs == 0 && t.subscribed:
			t.subscribed = false
			if t.live {
				t.live, t.on = false, make(chan struct{})
			}
			put(unsubscribe, &off, t)
		case t.refs == 0 && t.unanswered == 0:
			delete(b.topics, t.channel)
			n.settled(t)
		}
		delete(n.dirty, t)
	}
	for _, channels := range subscribe {
		on = append(on, channels)
	}
	for _, channels := range unsubscribe {
		off = append(off, channels)
	}
	return on, off
}

// read takes what comes, until the connection ends.
func (n *node) read(ctx context.Context, ps *redis.PubSub) error {
	for {
		got, err := ps.Receive(ctx)
		if err != nil {
			return err
		}
		n.heard.Store(time.Now().UnixNano())
		switch m := got.(type) {
		case *redis.Message:
			if !n.restoring.Load() {
				n.bus.deliver(m)
			}
		case *redis.Subscription:
			if err := n.answered(m.Channel, m.Kind == "ssubscribe"); err != nil {
				return err
			}
		case *redis.Pong:
		default:
			return fmt.Errorf("the server sent a %T", got)
		}
	}
}

func (b *Bus) deliver(m *redis.Message) {
	for i := range len(m.Channel) {
		if m.Channel[i] == '}' {
			b.local.Publish(m.Channel[i+1:], []byte(m.Payload))
			return
		}
	}
}

// answered takes the answer to a command about a topic.
func (n *node) answered(channel string, subscribed bool) error {
	b := n.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[channel]
	if t == nil || t.node != n {
		return nil
	}
	if t.unanswered == 0 {
		if !subscribed { // the server ended it
			return errSlotMoved
		}
		return nil
	}
	t.unanswered--
	if t.unanswered > 0 {
		return nil
	}
	n.stuck = false
	switch {
	case t.subscribed:
		t.live = true
		close(t.on)
		if t.owed && n.up {
			t.owed = false
			b.local.Lose(t.name)
		}
	case t.refs == 0:
		delete(b.topics, channel)
	}
	n.settled(t)
	return nil
}

// settled notes that a topic needs nothing more after a break. The caller holds
// the bus's mu.
func (n *node) settled(t *topic) {
	if !t.restore {
		return
	}
	t.restore = false
	if n.left--; n.left == 0 && !n.up {
		n.restored()
	}
}
