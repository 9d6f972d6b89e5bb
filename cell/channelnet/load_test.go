package channelnet_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/internal/problem"
	"parley/internal/topology"
)

// load posts through one process from many writers and remembers what was acked.
type load struct {
	p     *process
	refs  []topology.ChannelRef
	stop  chan struct{}
	wg    sync.WaitGroup
	acked atomic.Int64
	pause atomic.Int64 // ns: the longest that a post took

	mu      sync.Mutex
	posts   map[string]change.Change
	refused map[string]bool
}

func (p *process) load(refs []topology.ChannelRef, writers int) *load {
	l := &load{p: p, refs: refs, stop: make(chan struct{}), posts: map[string]change.Change{}, refused: map[string]bool{}}
	for w := range writers {
		l.wg.Go(func() { l.write(w) })
	}
	return l
}

func (l *load) write(w int) {
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		key := fmt.Sprintf("w%d-%d", w, i)
		began := time.Now()
		m, err := l.post(l.refs[(w+i)%len(l.refs)], key)
		took := int64(time.Since(began))
		for old := l.pause.Load(); took > old && !l.pause.CompareAndSwap(old, took); old = l.pause.Load() {
		}
		l.mu.Lock()
		if err == nil {
			l.posts[key] = m
			l.acked.Add(1)
		} else {
			l.refused[key] = true
		}
		l.mu.Unlock()
		if err != nil {
			l.p.c.tb.Errorf("post %s: %v", key, err)
			return
		}
	}
}

// post posts as a client does: while the outcome is unknown it asks again.
func (l *load) post(ref topology.ChannelRef, key string) (change.Change, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	unknown := false
	for {
		m, err := l.p.cluster.Post(ctx, channel.Post{Channel: ref, Author: "U1", Text: "text of " + key, Key: key})
		unknown = unknown || problem.Is(err, problem.Unknown)
		if err == nil || !unknown || ctx.Err() != nil {
			return m, err
		}
	}
}

func (l *load) more(n int64) {
	l.p.c.tb.Helper()
	from := l.acked.Load()
	eventually(l.p.c.tb, fmt.Sprintf("%d more posts are acked", n), func() bool { return l.acked.Load() >= from+n })
}

// worst is the longest that a post took since it was asked last.
func (l *load) worst() time.Duration { return time.Duration(l.pause.Swap(0)) }

// end stops the writers and checks that every acked post is in its channel's log
// where its ack says, once, and nothing else is.
func (l *load) end() {
	tb := l.p.c.tb
	tb.Helper()
	close(l.stop)
	l.wg.Wait()
	found := map[string]change.Change{}
	for _, ref := range l.refs {
		for _, e := range l.p.logOf(ref) {
			if e.Kind != change.Message {
				continue
			}
			if l.refused[e.ClientMsgID] {
				tb.Errorf("%s was refused, but is in the log", e.ClientMsgID)
			}
			if _, twice := found[e.ClientMsgID]; twice {
				tb.Errorf("%s is in the log twice", e.ClientMsgID)
			}
			found[e.ClientMsgID] = e.Change
		}
	}
	for key, m := range l.posts {
		if diff := cmp.Diff(m, found[key]); diff != "" {
			tb.Errorf("acked %s, but the log: %s", key, diff)
		}
	}
	if len(found) != len(l.posts) {
		tb.Errorf("%d posts acked, %d in the log", len(l.posts), len(found))
	}
}

// logOf is all of a channel, checked for dense revs and rising ids.
func (p *process) logOf(ref topology.ChannelRef) (all []channel.Event) {
	p.c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	var id topology.MessageID
	for {
		es, err := p.cluster.Changes(ctx, ref, topology.Rev(len(all)), 500)
		must(p.c.tb, err)
		if len(es) == 0 {
			return all
		}
		for _, e := range es {
			if e.Rev != topology.Rev(len(all)+1) || (e.Kind == change.Message && e.ID <= id) {
				p.c.tb.Fatalf("%s: rev %d with id %s at place %d after id %s", ref.Channel, e.Rev, e.ID, len(all)+1, id)
			}
			if e.Kind == change.Message {
				id = e.ID
			}
			all = append(all, e)
		}
	}
}
