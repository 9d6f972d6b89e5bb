package channel

import (
	"context"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/topology"
)

// Peer is a channel server as a Cluster sees it: one of this process (*Server), or
// one of another process, which package channelnet reaches over a network.
//
//  1. NotOwner says that nothing was done, and that another server, or the same
//     one later, is to be asked. Who can't be reached says so, too.
//  2. Unknown says of Post, Member and Import that it may have been done. It is the
//     answer when a connection breaks, or ctx ends, after the request has left.
//  3. Every method but Wake and Free returns when ctx ends.
//  4. Wake and Free are hints: they may be lost, and Wake never waits.
type Peer interface { //nolint:interfacebloat // what is asked of an owner, each once
	ID() topology.ServerID
	Ping(ctx context.Context) (Status, error)
	Wake()
	Free(ctx context.Context, shards map[topology.Shard]topology.Token)

	Post(ctx context.Context, p Post) (change.Change, error)
	Member(ctx context.Context, m Member) (change.Change, error)
	Import(ctx context.Context, im Import) (uint64, error)
	Heads(ctx context.Context, chs []topology.ChannelRef) ([]OwnedHead, error)
	Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]Event, error)
	Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error)
	Thread(ctx context.Context, ch topology.ChannelRef, root topology.MessageID, after topology.Seq, limit int) ([]history.Message, error)
	Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error)
}

// Holdings are what each channel server of this process holds, itself named also
// when it holds nothing.
type Holdings map[topology.ServerID]map[topology.Shard]topology.Token

// Join makes a channel server of another process known, in place of another one
// with its id. It reports false, and does nothing, if that id is of this process.
func (c *Cluster) Join(p Peer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.servers[p.ID()]
	if _, own := old.(*Server); own {
		return false
	}
	if old != p {
		c.forgetAll(p.ID())
	}
	c.servers[p.ID()] = p
	return true
}

// Quit forgets a channel server that has joined.
func (c *Cluster) Quit(p Peer) {
	if c.holds(p, nil, true) > 0 {
		c.wakeOwn()
	}
}

// Holds says what a channel server that has joined holds, all of it. Nothing is
// also what is known of one that can't be reached: those who wait for it look for
// another owner, and this process's servers look whether it is their turn.
func (c *Cluster) Holds(p Peer, held map[topology.Shard]topology.Token) {
	if c.holds(p, held, false) > 0 {
		c.wakeOwn()
	}
}

// holds notes what a server holds, and returns how many shards it has left.
func (c *Cluster) holds(p Peer, held map[topology.Shard]topology.Token, quit bool) (left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.changed.fire()
	if c.servers[p.ID()] != p { // replaced meanwhile
		return 0
	}
	if quit {
		delete(c.servers, p.ID())
	}
	for i := range c.owners {
		o, id := &c.owners[i], topology.Shard(i)
		t, holds := held[id]
		switch {
		case holds && t > o.token:
			c.take(id, t, p.ID())
		case holds && t == o.token:
			o.id = p.ID() // it was out of reach for a while
		case o.id == p.ID():
			o.id = ""
			left++
		}
	}
	return left
}

// Holdings are this process's, and a channel that is closed at a change of them,
// or of others'.
func (c *Cluster) Holdings() (Holdings, <-chan struct{}) {
	changed := c.changed.next()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Holdings{}
	for id, p := range c.servers {
		if _, own := p.(*Server); own {
			out[id] = map[topology.Shard]topology.Token{}
		}
	}
	for i, o := range c.owners {
		if held := out[o.id]; held != nil {
			held[topology.Shard(i)] = o.token
		}
	}
	return out, changed
}

// Own is a channel server of this process, or nil.
func (c *Cluster) Own(id topology.ServerID) *Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, _ := c.servers[id].(*Server)
	return s
}

// wakeOwn wakes the servers of this process.
func (c *Cluster) wakeOwn() {
	for _, p := range c.all() {
		if s, own := p.(*Server); own {
			s.Wake()
		}
	}
}
