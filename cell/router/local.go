package router

import (
	"hash/maphash"
	"slices"
	"sync"
)

// LocalConfig is a Local's.
type LocalConfig struct {
	// QueueMax bounds the messages that wait for one attachment. Default 16,384:
	// at 50,000 messages/s a third of a second of a stalled receiver. Less loses
	// sooner, which costs a repair; more costs memory.
	QueueMax int
}

const (
	queueNormal = 16 << 10
	topicShards = 64
)

// Local is the router of a cell that is one process. Invariants: L1 an attachment's
// queue holds messages in the order of their publishing per publisher; L2 what did
// not fit is announced by Lost before anything later is delivered.
//
// Lock order: a topic shard's, then an attachment's.
type Local struct {
	queueMax int
	seed     maphash.Seed
	shards   [topicShards]topicShard
}

type topicShard struct {
	mu     sync.RWMutex
	topics map[string][]*attachment
}

// NewLocal makes a router.
func NewLocal(cfg LocalConfig) *Local {
	if cfg.QueueMax <= 0 {
		cfg.QueueMax = queueNormal
	}
	l := &Local{queueMax: cfg.QueueMax, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].topics = make(map[string][]*attachment)
	}
	return l
}

func (l *Local) shard(topic string) *topicShard {
	return &l.shards[maphash.String(l.seed, topic)%topicShards]
}

// Publish hands a message to all who follow the topic.
func (l *Local) Publish(topic string, payload []byte) {
	s := l.shard(topic)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.topics[topic] {
		a.push(Message{Topic: topic, Payload: payload})
	}
}

// Lose tells all who follow the topic that messages may be missing, before they get
// anything published later. It is for a bus that reaches other processes and
// hands on here what it gets.
func (l *Local) Lose(topic string) {
	s := l.shard(topic)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.topics[topic] {
		a.lose()
	}
}

// Attach gives a receiver a place on the bus, and a goroutine until its Close.
//
//nolint:ireturn // the Bus interface asks for it
func (l *Local) Attach(r Receiver) Attachment {
	a := &attachment{bus: l, receiver: r, topics: make(map[string]struct{}), wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{})}
	go a.run()
	return a
}

type attachment struct {
	bus      *Local
	receiver Receiver
	wake     chan struct{} // holds one: something is queued
	done     chan struct{} // closed by Close
	ended    chan struct{} // closed by run

	following sync.Mutex
	topics    map[string]struct{} // nil after Close

	mu    sync.Mutex
	queue []Message
	lost  bool
}

func (a *attachment) push(m Message) {
	a.mu.Lock()
	if a.lost || len(a.queue) >= a.bus.queueMax { // once it has lost, Lost comes first (L2)
		a.lost = true
	} else {
		a.queue = append(a.queue, m)
	}
	a.mu.Unlock()
	a.rouse()
}

func (a *attachment) lose() {
	a.mu.Lock()
	a.lost = true
	a.mu.Unlock()
	a.rouse()
}

func (a *attachment) rouse() {
	select {
	case a.wake <- struct{}{}:
	default: // it is awake
	}
}

func (a *attachment) run() {
	defer close(a.ended)
	var spare []Message
	for {
		select {
		case <-a.done:
			return
		case <-a.wake:
		}
		a.mu.Lock()
		ms, lost := a.queue, a.lost
		a.queue, a.lost = spare[:0], false
		a.mu.Unlock()
		// What is queued was published before what was lost: it goes first.
		if len(ms) > 0 {
			a.receiver.Deliver(ms)
		}
		if lost {
			a.receiver.Lost()
		}
		clear(ms) // let go of the payloads
		spare = ms
	}
}

// Follow takes effect before it returns.
func (a *attachment) Follow(topic string) {
	a.following.Lock()
	defer a.following.Unlock()
	if a.topics == nil {
		return
	}
	if _, ok := a.topics[topic]; ok {
		return
	}
	a.topics[topic] = struct{}{}
	s := a.bus.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	// A new slice each time: Publish reads the old one under its read lock only.
	s.topics[topic] = append(slices.Clip(s.topics[topic]), a)
}

// Unfollow ends a Follow; what is queued may still be delivered.
func (a *attachment) Unfollow(topic string) {
	a.following.Lock()
	defer a.following.Unlock()
	if _, ok := a.topics[topic]; !ok {
		return
	}
	delete(a.topics, topic)
	a.leave(topic)
}

func (a *attachment) leave(topic string) {
	s := a.bus.shard(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := make([]*attachment, 0, len(s.topics[topic])-1)
	for _, other := range s.topics[topic] {
		if other != a {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(s.topics, topic)
	} else {
		s.topics[topic] = rest
	}
}

// Close ends all follows and waits for a Deliver under way; it must not be called
// from the receiver.
func (a *attachment) Close() {
	a.following.Lock()
	topics := a.topics
	a.topics = nil
	a.following.Unlock()
	if topics == nil {
		<-a.ended
		return
	}
	for t := range topics {
		a.leave(t)
	}
	close(a.done)
	<-a.ended
}
