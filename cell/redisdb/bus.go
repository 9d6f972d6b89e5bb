package redisdb

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/router"
)

// busBuckets is how many hash tags the topics of a cell have: some hundred per
// node, so that nodes get about as much each, and a node's topics are
// subscribed to again with some hundred commands.
const busBuckets = 1024

// followMax is how long a Follow waits for the server.
const followMax = time.Second

// Bus is the cell's router over sharded pub-sub. A process has one connection per
// node to hear, and subscribes to a topic once, however many follow it; what
// comes is handed on as in a cell of one process.
//
// Invariants: B1 a topic's state is that of its node's present connection; B2 whoever
// followed a topic while it was not subscribed to is told Lost after it is, and
// before anything later; B3 nothing waits for a server under mu.
//
// Lock order: an attachment's, then the bus's, then an outbox's.
type Bus struct {
	d       *DB
	buckets bucketed
	local   *router.Local
	routes  atomic.Pointer[[]*node] // by bucket; nil = nobody has it

	mu       sync.Mutex
	nodes    map[string]*node
	topics   map[string]*topic // by channel: the topic's name in Redis
	stopping bool
}

// topic is one that somebody here follows, or whose subscription ends. Its fields
// are the bus's, under its mu.
type topic struct {
	name, channel string
	bucket        int
	node          *node // nil while nobody has its slot

	refs       int           // attachments that follow it
	subscribed bool          // the last command about it was to subscribe
	unanswered int           // commands about it that are under way
	restore    bool          // it is among those subscribed to again after a break
	owed       bool          // Lost is due when it is subscribed to (B2)
	on         chan struct{} // closed when it is subscribed to, or can't be now
	live       bool          // it is subscribed to
}

func newBus(d *DB) *Bus {
	return &Bus{
		d: d, buckets: newBuckets(d.access.KeyPrefix+":t", busBuckets),
		local: router.NewLocal(router.LocalConfig{QueueMax: d.access.QueueMax}),
		nodes: map[string]*node{}, topics: map[string]*topic{},
	}
}

// place is a topic's bucket and name in Redis: what belongs to one channel or user
// has one hash tag.
func (b *Bus) place(name string) (bucket int, channel string) {
	of := name
	if kind, rest, ok := strings.Cut(name, ":"); ok {
		id, _, _ := strings.Cut(rest, ":")
		of = kind + ":" + id
	}
	bucket = b.buckets.of(of)
	return bucket, b.buckets.tags[bucket] + name
}

// Publish implements router.Bus.
func (b *Bus) Publish(name string, payload []byte) {
	bucket, channel := b.place(name)
	n := (*b.routes.Load())[bucket]
	if n == nil || !n.out.push(item{channel: channel, payload: payload}) {
		b.d.metrics.dropped.Inc()
	}
}

// Attach implements router.Bus.
//
//nolint:ireturn // the interface asks for it
func (b *Bus) Attach(r router.Receiver) router.Attachment {
	return &attachment{bus: b, local: b.local.Attach(r), topics: map[string]struct{}{}}
}

type attachment struct {
	bus   *Bus
	local router.Attachment

	mu     sync.Mutex
	topics map[string]struct{} // nil after Close
}

// Follow implements router.Attachment.
func (a *attachment) Follow(name string) {
	a.mu.Lock()
	if a.topics == nil {
		a.mu.Unlock()
		return
	}
	_, known := a.topics[name]
	if !known {
		a.topics[name] = struct{}{}
		a.local.Follow(name)
		a.bus.hold(name)
	}
	a.mu.Unlock()
	a.bus.await(name)
}

// Unfollow implements router.Attachment.
func (a *attachment) Unfollow(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.topics[name]; !ok {
		return
	}
	delete(a.topics, name)
	a.local.Unfollow(name)
	a.bus.release(name)
}

// Close implements router.Attachment.
func (a *attachment) Close() {
	a.mu.Lock()
	topics := a.topics
	a.topics = nil
	a.mu.Unlock()
	a.local.Close()
	for name := range topics {
		a.bus.release(name)
	}
}

// hold notes that one more follows a topic.
func (b *Bus) hold(name string) {
	bucket, channel := b.place(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[channel]
	if t == nil {
		t = &topic{name: name, channel: channel, bucket: bucket, on: make(chan struct{}), node: (*b.routes.Load())[bucket]}
		b.topics[channel] = t
	}
	t.refs++
}

func (b *Bus) release(name string) {
	_, channel := b.place(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.topics[channel]; t != nil {
		t.refs--
		b.look(t)
	}
}

// look has a topic's node do what its followers want. The caller holds mu.
func (b *Bus) look(t *topic) {
	switch {
	case t.node != nil:
		t.node.note(t)
	case t.refs == 0:
		delete(b.topics, t.channel)
	}
}

// await has a topic subscribed to and waits until it is. Without a server it does
// not wait, and after a server has let one wait in vain nobody else does: Lost
// comes later (B2).
func (b *Bus) await(name string) {
	bucket, channel := b.place(name)
	if n := (*b.routes.Load())[bucket]; n != nil && n.waitsFor(channel) {
		// What was published here before the Follow goes first: it is not meant.
		sent := make(chan struct{})
		if n.out.push(item{sent: sent}) {
			within(sent, followMax)
		}
	}
	b.mu.Lock()
	t := b.topics[channel]
	if t == nil || t.refs == 0 {
		b.mu.Unlock()
		return
	}
	b.look(t)
	n, on := t.node, t.on
	switch {
	case n == nil || !n.up || n.stuck:
		t.owed = true
		b.mu.Unlock()
		return
	case t.live:
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	if within(on, followMax) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !t.live {
		t.owed, n.stuck = true, true
	}
}

// within waits for c to be closed, but not for longer than limit.
func within(c <-chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// start makes the nodes of a layout; it is called once, before the bus is used.
func (b *Bus) start(l *layout) {
	routes := make([]*node, busBuckets)
	b.routes.Store(&routes)
	b.relayout(l)
}

// relayout takes a new layout. A topic whose slot has moved counts as lost, and a
// node that has less than before is connected to anew.
func (b *Bus) relayout(l *layout) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		return
	}
	for _, addr := range l.nodes {
		if b.nodes[addr] == nil {
			b.nodes[addr] = b.newNode(addr)
		}
	}
	old := *b.routes.Load()
	routes := make([]*node, busBuckets)
	for i := range routes {
		routes[i] = b.nodes[l.node(b.buckets.slots[i])]
		if old[i] != nil && old[i] != routes[i] {
			old[i].anew()
		}
	}
	b.routes.Store(&routes)
	for _, t := range b.topics {
		if to := routes[t.bucket]; to != t.node {
			t.node = to
			t.reset()
			b.look(t)
		}
	}
	for addr, n := range b.nodes {
		if !slices.Contains(l.nodes, addr) {
			n.stop()
			delete(b.nodes, addr)
		}
	}
}

// reset is for a topic whose subscription is gone. The caller holds the bus's mu.
func (t *topic) reset() {
	if !t.live {
		close(t.on) // nobody waits for what can't come now
	}
	t.on = make(chan struct{})
	t.subscribed, t.unanswered, t.restore, t.live, t.owed = false, 0, false, false, true
}

// ready waits until all nodes are heard, or limit has passed.
func (b *Bus) ready(limit time.Duration) bool {
	until := time.Now().Add(limit)
	b.mu.Lock()
	nodes := slices.Collect(maps.Values(b.nodes))
	b.mu.Unlock()
	for _, n := range nodes {
		if !within(n.ready, time.Until(until)) {
			return false
		}
	}
	return true
}

func (b *Bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopping = true
	for _, n := range b.nodes {
		n.stop()
	}
}

func (b *Bus) newNode(addr string) *node {
	ctx, stop := context.WithCancel(b.d.ctx)
	n := &node{
		bus: b, addr: addr, stop: stop, wake: make(chan struct{}, 1), again: make(chan struct{}, 1), ready: make(chan struct{}), dirty: map[*topic]struct{}{},
		out: outbox{max: b.d.access.QueueMax, metrics: b.d.metrics, doubt: b.d.doubt, wake: make(chan struct{}, 1)},
	}
	b.d.work.Go(func() { n.hear(ctx) })
	b.d.work.Go(func() { n.send(ctx) })
	return n
}
