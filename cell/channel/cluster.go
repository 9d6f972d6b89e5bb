package channel

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// ownerWaitMax bounds how long a request waits for an owner, if its ctx does not.
// A takeover takes about a second; who waits longer waits for an outage to end,
// and had better come back.
const ownerWaitMax = 30 * time.Second

// wakeEvery is how often waiting requests remind the servers.
const wakeEvery = 250 * time.Millisecond

// ClusterConfig is the settings of a Cluster.
type ClusterConfig struct {
	Cell   topology.CellID
	Logger *slog.Logger
}

// Cluster is the cell's channel servers as one: it implements Servers. What it
// knows about owners is a hint: a server that is asked wrongly says so.
type Cluster struct {
	log *slog.Logger

	mu      sync.Mutex
	servers map[topology.ServerID]Peer
	owners  [topology.Shards]holder
	changed signal
}

// holder is who took a shard, with which token.
type holder struct {
	token topology.Token
	id    topology.ServerID  // "" = has left it
	calls map[*call]struct{} // under way there
}

// call is a request under way at a holder. It is given up when another takes the
// shard: one that hangs may be asked in vain for ever.
type call struct {
	cancel context.CancelFunc
	passed bool // the holder was passed over; under Cluster.mu
}

// pinged is a server's answer to a ping.
type pinged struct {
	Status
	ok bool
}

// NewCluster makes a cluster without servers.
func NewCluster(cfg ClusterConfig) *Cluster {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Cluster{log: log.With("cell", cfg.Cell), servers: map[topology.ServerID]Peer{}}
}

// Add makes a server of this process known, and the cluster known to it; one with
// the same id is replaced. It may be called before the server runs, or while it does.
func (c *Cluster) Add(s *Server) {
	s.peers.Store(c)
	c.mu.Lock()
	if old := c.servers[s.ID()]; old != nil && old != Peer(s) {
		c.forgetAll(s.ID())
	}
	c.servers[s.ID()] = s
	c.mu.Unlock()
	for i := range s.held {
		if sh := s.held[i].Load(); sh != nil {
			c.taken(sh.id, sh.token, s.ID())
			if s.held[i].Load() != sh { // left meanwhile: its word may have come first
				c.left(sh.id, sh.token)
			}
		}
	}
	c.wakeAll()
}

// Remove forgets a server.
func (c *Cluster) Remove(id topology.ServerID) {
	c.mu.Lock()
	delete(c.servers, id)
	c.forgetAll(id)
	c.mu.Unlock()
	c.wakeAll()
}

// forgetAll takes a server off the owners. The lock is held.
func (c *Cluster) forgetAll(id topology.ServerID) {
	for i := range c.owners {
		if c.owners[i].id == id {
			c.owners[i].id = ""
		}
	}
}

// all is a copy of the known servers.
func (c *Cluster) all() []Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Peer, 0, len(c.servers))
	for _, s := range c.servers {
		list = append(list, s)
	}
	return list
}

func (c *Cluster) wakeAll() {
	for _, s := range c.all() {
		s.Wake()
	}
}

// pingMax bounds a ping: who needs longer inside a cell hangs, and is passed over.
const pingMax = time.Second

// ping asks every known server, all at once.
func (c *Cluster) ping(ctx context.Context) map[topology.ServerID]pinged {
	type answer struct {
		id topology.ServerID
		pinged
	}
	ctx, cancel := context.WithTimeout(ctx, pingMax)
	defer cancel()
	all := c.all()
	answers := make(chan answer, len(all)) // one slot each: who answers late blocks nobody
	for _, s := range all {
		go func() {
			st, err := s.Ping(ctx)
			answers <- answer{s.ID(), pinged{Status: st, ok: err == nil}}
		}()
	}
	out := make(map[topology.ServerID]pinged, len(all))
	for range all {
		select {
		case a := <-answers:
			out[a.id] = a.pinged
		case <-ctx.Done():
			for _, s := range all {
				if _, ok := out[s.ID()]; !ok {
					out[s.ID()] = pinged{}
				}
			}
			return out
		}
	}
	return out
}

// free passes a server's word on to another: these shards are yours.
func (c *Cluster) free(ctx context.Context, to topology.ServerID, shards map[topology.Shard]topology.Token) {
	c.mu.Lock()
	s := c.servers[to]
	c.mu.Unlock()
	if s != nil {
		s.Free(ctx, shards)
	}
}

// taken notes an owner; the higher token wins.
func (c *Cluster) taken(id topology.Shard, t topology.Token, by topology.ServerID) {
	c.mu.Lock()
	if t > c.owners[id].token {
		c.take(id, t, by)
	}
	c.mu.Unlock()
	c.changed.fire()
}

// take notes a new owner and gives up what is under way at the old one. The lock
// is held.
func (c *Cluster) take(id topology.Shard, t topology.Token, by topology.ServerID) {
	for under := range c.owners[id].calls {
		under.passed = true
		under.cancel()
	}
	c.owners[id] = holder{token: t, id: by}
}

// begin notes a call at the holder of a shard; end is called once.
func (c *Cluster) begin(ctx context.Context, id topology.Shard, t topology.Token) (_ context.Context, end func() (passed bool)) {
	ctx, cancel := context.WithCancel(ctx)
	under := &call{cancel: cancel}
	c.mu.Lock()
	o := &c.owners[id]
	if o.token != t { // meanwhile
		under.passed = true
		cancel()
	} else {
		if o.calls == nil {
			o.calls = map[*call]struct{}{}
		}
		o.calls[under] = struct{}{}
	}
	c.mu.Unlock()
	return ctx, func() bool {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.owners[id].calls, under)
		return under.passed
	}
}

// left notes that a holder is one no more.
func (c *Cluster) left(id topology.Shard, t topology.Token) {
	c.mu.Lock()
	if c.owners[id].token == t {
		c.owners[id].id = ""
	}
	c.mu.Unlock()
	c.changed.fire()
}

// owner is the owner of a shard as far as is known, with its token.
//
//nolint:ireturn // one of this process or of another
func (c *Cluster) owner(id topology.Shard) (Peer, topology.Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.owners[id]
	return c.servers[o.id], o.token
}

// await gives the owner of a shard, and waits within ctx while there is none.
//
//nolint:ireturn // as above
func (c *Cluster) await(ctx context.Context, id topology.Shard) (Peer, topology.Token, error) {
	if s, t := c.owner(id); s != nil {
		return s, t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, ownerWaitMax)
	defer cancel()
	remind := time.NewTicker(wakeEvery)
	defer remind.Stop()
	c.wakeAll()
	for {
		changed := c.changed.next()
		if s, t := c.owner(id); s != nil {
			return s, t, nil
		}
		select {
		case <-changed:
		case <-remind.C:
			c.wakeAll()
		case <-ctx.Done():
			return nil, 0, &problem.Error{
				Kind: problem.Unavailable, Msg: "no channel server has this channel at the moment; try again",
				RetryAfter: time.Second, Cause: ctx.Err(),
			}
		}
	}
}

// ask calls the owner of a channel, and the next one if that is not it, or is
// passed over meanwhile. again says that a call with an unknown outcome may be
// repeated. Once one outcome was unknown, a refusal of the repetition does not
// mean that nothing was done.
func ask[T any](ctx context.Context, c *Cluster, ch topology.ChannelRef, again bool, call func(context.Context, Peer) (T, error)) (T, error) {
	var unknown error
	for {
		var v T
		var passed bool
		s, token, err := c.await(ctx, ch.Shard())
		if err == nil {
			under, end := c.begin(ctx, ch.Shard(), token)
			v, err = call(under, s)
			passed = end() && ctx.Err() == nil
		}
		switch kind := problem.KindOf(err); {
		case err == nil:
			return v, nil
		case kind == problem.NotOwner, kind == problem.Fenced:
			c.left(ch.Shard(), token)
		case passed && kind == problem.Unavailable: // it was not begun there
		case kind == problem.Unknown && again && ctx.Err() == nil:
			unknown = err
		case unknown != nil && kind != problem.Conflict:
			return v, problem.Wrap(err, problem.Unknown, "%s", problem.Show(unknown))
		default:
			return v, err
		}
	}
}
