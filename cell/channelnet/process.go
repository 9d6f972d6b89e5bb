package channelnet

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"parley/cell/channel"
	"parley/internal/gen/parley/cell/v1/cellv1connect"
	"parley/internal/problem"
	"parley/internal/topology"
)

// process is another process of the cell, with the channel servers there.
//
// Lock order: process.mu before the Cluster's; no lock of a lane is taken under it.
type process struct {
	of        *Peers
	addr      string
	transport *http.Transport
	client    cellv1connect.ChannelServiceClient
	poke      chan struct{} // capacity 1: dial now
	stop      context.CancelFunc
	done      chan struct{} // closed when run has returned

	mu      sync.Mutex
	up      *connection                    // nil = out of reach
	tried   chan struct{}                  // closed at the end of the present attempt to connect
	servers map[topology.ServerID]*peer    // those that have joined
	listed  map[topology.ServerID]struct{} // those that the registry names here
	dropped bool                           // nobody names the process any more
}

func newProcess(of *Peers, addr string) *process {
	t := &http.Transport{
		TLSClientConfig: of.tls.Clone(), Protocols: new(http.Protocols), DisableCompression: true, TLSHandshakeTimeout: handshakeMax,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialMax)
			defer cancel()
			return of.cfg.Net.DialContext(ctx, network, addr)
		},
		HTTP2: &http.HTTP2Config{SendPingTimeout: deadAfter, PingTimeout: deadAfter, MaxReadFrameSize: 256 << 10},
	}
	t.Protocols.SetHTTP2(true)
	return &process{
		of: of, addr: addr, transport: t, poke: make(chan struct{}, 1), done: make(chan struct{}), tried: make(chan struct{}),
		client: cellv1connect.NewChannelServiceClient(&http.Client{Transport: t}, "https://"+addr,
			connect.WithReadMaxBytes(answerBytesMax), connect.WithAcceptCompression("gzip", nil, nil)),
		servers: map[topology.ServerID]*peer{}, listed: map[topology.ServerID]struct{}{},
	}
}

func (p *process) version() uint32 { return p.of.version }

// run keeps a connection until ctx ends, or nobody names the process any more and
// it is out of reach.
func (p *process) run(ctx context.Context) {
	defer close(p.done)
	defer p.transport.CloseIdleConnections()
	defer p.quit()
	wait, last := backoffMin, ""
	for ctx.Err() == nil {
		began := time.Now()
		c, streams, err := p.connect(ctx)
		p.attempted(c)
		if err == nil {
			p.of.log.Info("another process of the cell is in reach", "process", p.addr)
			p.of.metrics.connected.Inc()
			err = c.run(ctx, streams)
			p.lost(c, err)
			p.of.metrics.connected.Dec()
			p.transport.CloseIdleConnections()
			last = ""
		}
		if time.Since(began) > backoffMax {
			wait = backoffMin
		}
		if text := err.Error(); ctx.Err() == nil && text != last {
			p.of.log.Warn("another process of the cell is out of reach; trying again", "process", p.addr, "err", err)
			last = text
		}
		if p.unwanted() || !p.pause(ctx, &wait) {
			return
		}
	}
}

// pause waits before the next attempt, for the shortest time if somebody asks.
func (p *process) pause(ctx context.Context, wait *time.Duration) bool {
	least, most := time.NewTimer(backoffMin), time.NewTimer(*wait/2+rand.N(*wait))
	defer least.Stop()
	defer most.Stop()
	*wait = min(2**wait, backoffMax)
	select {
	case <-least.C:
	case <-ctx.Done():
		return false
	}
	select {
	case <-most.C:
	case <-p.poke:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// attempted notes the outcome of an attempt to connect; nil is a failure.
func (p *process) attempted(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = c
	close(p.tried)
	p.tried = make(chan struct{})
}

// lost notes that the connection is gone: nothing is known of what is held there
// any more (N2), and those who wait for an answer are told.
func (p *process) lost(c *connection, why error) {
	p.mu.Lock()
	p.up = nil
	for _, s := range p.servers {
		p.of.cluster.Holds(s, nil)
	}
	p.mu.Unlock()
	c.end(why) // after that: who asks again now must find nobody there
	p.of.metrics.lost.Inc()
}

// tell takes the peer's word on what its channel servers hold.
func (p *process) tell(h channel.Holdings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, held := range h {
		if s := p.join(id); s != nil {
			p.of.cluster.Holds(s, held)
		}
	}
	for id, s := range p.servers {
		if _, there := h[id]; there {
			continue
		}
		if _, listed := p.listed[id]; listed {
			p.of.cluster.Holds(s, nil)
			continue
		}
		p.of.cluster.Quit(s)
		delete(p.servers, id)
	}
}

// join makes a channel server of the process known. The lock is held.
func (p *process) join(id topology.ServerID) *peer {
	if s := p.servers[id]; s != nil {
		return s
	}
	s := &peer{id: id, p: p}
	if !p.of.cluster.Join(s) {
		p.of.log.Warn("another process has a channel server of this one's name; it is ignored", "server", id, "process", p.addr)
		return nil
	}
	p.servers[id] = s
	return s
}

// list says whom the registry names here; nobody, and dropped, if it names the
// process no more.
func (p *process) list(ids []topology.ServerID, dropped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.listed)
	p.dropped = dropped
	for _, id := range ids {
		p.listed[id] = struct{}{}
		p.join(id)
	}
	if dropped && p.up == nil {
		p.stop()
	}
}

func (p *process) unwanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

// quit makes the channel servers unknown.
func (p *process) quit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range slices.Collect(maps.Keys(p.servers)) {
		p.of.cluster.Quit(p.servers[id])
		delete(p.servers, id)
	}
}

// current is the connection, nil if there is none.
func (p *process) current() *connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

// dial makes the next attempt to connect come soon.
func (p *process) dial() {
	select {
	case p.poke <- struct{}{}:
	default: // it will, already
	}
}

var errDown = errors.New("no connection")

// reach is the connection; without one, it lets dial at once and waits for what
// becomes of it.
func (p *process) reach(ctx context.Context) (*connection, error) {
	p.mu.Lock()
	c, tried := p.up, p.tried
	p.mu.Unlock()
	if c != nil {
		return c, nil
	}
	p.dial()
	select {
	case <-tried:
		c = p.current()
	case <-p.done:
	case <-ctx.Done():
	}
	if c == nil {
		return nil, problem.Wrap(errDown, problem.Unavailable, "the process at %s can't be reached", p.addr)
	}
	return c, nil
}
