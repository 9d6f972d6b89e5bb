// Package gateway owns client sessions in a cell: it knows who is connected
// through which edge, follows the channels they are in, and gives every session
// each change of them once, in order. It holds no state that a restart would
// lose: edges resume their sessions by cursors.
//
// Invariants, which the tests name:
//
//	G1 A session gets the changes of a channel from its cursor on, each once, in
//	   order of rev; between catch-up and live nothing is lost or doubled. A
//	   follower goes on only by rev + 1; a jump is repaired from the log.
//	G2 Nothing of a channel after the rev at which a user left it reaches that user.
//	G3 A lost event, beacon or notice about a list of channels is found by beacons,
//	   urevs or Lost, and repaired. Typing and presence may be lost; a read state
//	   comes again with the next one.
//	G4 Live events wait for no edge: a link that doesn't take them is closed. Catch-up
//	   waits while much is pending on its lane.
//
// Lock order: a turn on a link's lane, then a follower's mu, then the gateway's, then a user's, then a
// session's, then a peer's. The followers' roll and presence are locked alone.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/presence"
	"parley/cell/router"
	"parley/internal/failpoint"
	"parley/internal/link"
	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// Config is a gateway's settings. Zero fields take the defaults in brackets.
type Config struct {
	ID          topology.GatewayID
	Cell        topology.CellID
	Region      topology.RegionID
	Incarnation topology.Incarnation
	Listen      string // host:port for links, UDP; port 0 takes any
	ResetKey    *link.ResetKey
	Liveness    link.Liveness
	Net         network.Network

	SessionsMax int           // more are refused [100,000]; each costs some 4 KB and 1 KB per channel
	OpeningMax  int           // sessions that are opened side by side; more wait [256]
	PostsMax    int           // unanswered posts of one session; more are refused [64]
	RequestMax  time.Duration // one request of a session [8 s]
	URevEvery   time.Duration // pause between two looks at all users' urevs [10 s]
	SilenceMax  time.Duration // a shard without a beacon for this long is asked [3 s]
	// RouterSilence: without any beacon for this long all shards are asked; less than
	// two beacons' pace asks for nothing, more is what an event may be late [2 s].
	RouterSilence time.Duration
	PollEvery     time.Duration // pause between two questions to a silent shard; each costs one per 500 channels followed [2 s]
	LingerMax     time.Duration // a channel nobody follows any more is kept this long [30 s]
	OfflineGrace  time.Duration // a user without sessions counts as present this long [5 s]
	DrainAfter    time.Duration // how long edges may take to leave in a Drain [5 s]
	BeaconGrace   time.Duration // an event may come this much after a beacon that names its rev [200 ms]
	CatchUpBytes  int           // memory for pages of the log that sessions share [32 MiB]
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c Config) withDefaults() Config {
	orElse(&c.SessionsMax, 100_000)
	orElse(&c.OpeningMax, 256)
	orElse(&c.PostsMax, 64)
	orElse(&c.RequestMax, 8*time.Second)
	orElse(&c.URevEvery, 10*time.Second)
	orElse(&c.SilenceMax, 3*time.Second)
	orElse(&c.RouterSilence, 2*time.Second)
	orElse(&c.PollEvery, 2*time.Second)
	orElse(&c.LingerMax, 30*time.Second)
	orElse(&c.OfflineGrace, 5*time.Second)
	orElse(&c.DrainAfter, 5*time.Second)
	orElse(&c.BeaconGrace, 200*time.Millisecond)
	orElse(&c.CatchUpBytes, 32<<20)
	return c
}

// heartbeat is how often clients are to ping.
const heartbeat = 10 * time.Second

// Directory is what a gateway asks the cell's directory. ChannelsOf, URevs and
// UserChanges must not be from a cache, since they decide what a user gets (G2), but
// for the time when the directory's engine is away: what has changed before that is
// not in the answers, and nothing can change meanwhile.
type Directory interface {
	Workspace(ctx context.Context, ws topology.WorkspaceID) (directory.Workspace, error)
	User(ctx context.Context, p topology.Place, u topology.UserID) (directory.User, error)
	ChannelsOf(ctx context.Context, p topology.Place, u topology.UserID) ([]directory.Membership, error)
	MemberCount(ctx context.Context, p topology.Place, ch topology.ChannelID) (int, error)
	Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (directory.Channel, error)
	URevs(ctx context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]topology.URev, error)
	UserChanges(ctx context.Context, p topology.Place, u topology.UserID, after topology.URev, limit int) ([]directory.UserChange, error)
}

// Unread derives read states; see package unread.
type Unread interface {
	MarkRead(ctx context.Context, p topology.Place, u topology.UserID, ch topology.ChannelID, m topology.MessageID) (chat.ReadState, error)
	State(ctx context.Context, p topology.Place, u topology.UserID, ch topology.ChannelID) (chat.ReadState, error)
	All(ctx context.Context, p topology.Place, u topology.UserID) ([]chat.ReadState, error)
}

// Deps is what a gateway works on.
type Deps struct {
	TLS       *tls.Config // accepts role edge
	Directory Directory
	Servers   channel.Servers
	Bus       router.Bus
	Unread    Unread
	Presence  presence.Store
	Now       func() time.Time
	Log       *slog.Logger
	Metrics   prometheus.Registerer // nil = none
}

// Gateway is one gateway. New, then Run once; Drain before Run's ctx ends.
type Gateway struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	links   *link.Server
	opening chan struct{} // a slot per session or channel that is being opened
	reading chan struct{} // a slot per read of the log

	ctx  context.Context //nolint:containedctx // Run's, for work that frames start
	bus  router.Attachment
	work sync.WaitGroup

	mu        sync.Mutex
	peers     map[*peer]struct{}
	users     map[topology.UserID][]*user // of one id several only after a return to this cell
	unsettled map[*user]struct{}          // to be looked at again
	sessions  int
	draining  bool
	stopped   bool          // no more work is started
	left      chan struct{} // closed and renewed when a session ends

	roll      roll
	questions questions
	pages     pages
	beacons   beacons
	presence  presenceState
	comparing atomic.Bool
}

// New checks its arguments; it touches nothing.
func New(cfg Config, deps Deps) (*Gateway, error) {
	cfg = cfg.withDefaults()
	var faults []error
	check := func(ok bool, field, fault string) {
		if !ok {
			faults = append(faults, problem.Field(field, "%s", fault))
		}
	}
	check(cfg.ID != "", "id", "is empty")
	check(cfg.Cell != "", "cell", "is empty")
	check(deps.Directory != nil && deps.Servers != nil && deps.Bus != nil && deps.Unread != nil && deps.Presence != nil, "deps", "one is missing")
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	g := &Gateway{
		cfg: cfg, deps: deps, log: deps.Log.With("gateway", string(cfg.ID)),
		opening: make(chan struct{}, cfg.OpeningMax), reading: make(chan struct{}, readsMax),
		peers: map[*peer]struct{}{}, users: map[topology.UserID][]*user{}, unsettled: map[*user]struct{}{},
		left: make(chan struct{}),
	}
	g.pages.init(cfg.CatchUpBytes)
	g.presence.init()
	var err, unmeasured error
	g.metrics, unmeasured = newMetrics(deps.Metrics)
	g.links, err = link.NewServer(link.ServerConfig{
		Addr: cfg.Listen, TLS: deps.TLS, Accept: g.accept, Log: g.log, ResetKey: cfg.ResetKey, Liveness: cfg.Liveness, Net: cfg.Net,
	})
	return g, errors.Join(append(faults, err, unmeasured)...)
}

// LinkAddr is where edges connect, with the port that was got. It waits until Run
// has bound it.
func (g *Gateway) LinkAddr() string { return g.links.Addr() }

// Run serves links until ctx ends, then closes them and waits for all work.
func (g *Gateway) Run(ctx context.Context, ready func()) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g.ctx = work
	g.bus = g.deps.Bus.Attach(receiver{g})
	g.bus.Follow(router.BeaconTopic)
	g.beacons.start(g.deps.Now())
	g.spawn(g.tick)
	g.spawn(g.keepPresence)
	err := g.links.Run(ctx, ready)
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	cancel()
	g.work.Wait()
	g.bus.Close()
	if failpoint.Crashed(ctx) {
		return err
	}
	leave, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	if err := g.deps.Presence.Leave(leave, g.cfg.ID); err != nil {
		g.log.Warn("presence lease not ended", "err", err)
	}
	return err
}

// spawn runs work that ends with Run. After Run's end it does nothing.
func (g *Gateway) spawn(do func(ctx context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return
	}
	g.work.Go(func() { do(g.ctx) })
}

// Drain asks the edges to take their sessions elsewhere and returns when they
// have, or ctx or the time they were given ends. From then on no session is
// opened. The gateway's entry in the registry should be gone first.
func (g *Gateway) Drain(ctx context.Context) error {
	g.mu.Lock()
	g.draining = true
	g.mu.Unlock()
	for _, p := range g.allPeers() {
		p.askToLeave()
	}
	t := time.NewTimer(g.cfg.DrainAfter)
	defer t.Stop()
	for {
		g.mu.Lock()
		n, left := g.sessions, g.left
		g.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-left:
		case <-t.C:
			return problem.New(problem.Unavailable, "%d sessions did not leave in time", n)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Connections is how many sessions are served now.
func (g *Gateway) Connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions
}

// accept takes an edge's link. Links of the same edge's former runs are dead.
//
//nolint:ireturn // link asks for its Handler
func (g *Gateway) accept(h frame.Hello, id pki.Identity) (frame.Welcome, link.Handler, error) {
	if id.Name != string(h.Edge) || id.Region != h.Region { // its next run ends the links of this one
		return frame.Welcome{}, nil, problem.New(problem.Denied, "the edge calls itself %s of %s, its certificate is of %s of %s", h.Edge, h.Region, id.Name, id.Region)
	}
	p := newPeer(g, h)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return frame.Welcome{}, nil, problem.New(problem.Unavailable, "the gateway stops")
	}
	for old := range g.peers {
		if old.edge == p.edge && old.run < p.run {
			old.end(problem.New(problem.Conflict, "a later run of the edge has connected"))
		}
	}
	return frame.Welcome{Gateway: g.cfg.ID, Cell: g.cfg.Cell, Incarnation: g.cfg.Incarnation}, p, nil
}

// add notes a link that works.
func (g *Gateway) add(p *peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers[p] = struct{}{}
}

func (g *Gateway) allPeers() []*peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*peer, 0, len(g.peers))
	for p := range g.peers {
		out = append(out, p)
	}
	return out
}

// flush puts everything on its way that was queued on any link.
func (g *Gateway) flush() {
	for _, p := range g.allPeers() {
		p.flush()
	}
}

// tickEvery is the pace of what is looked at from time to time.
const tickEvery = time.Second

func (g *Gateway) tick(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	looked := g.deps.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := g.deps.Now()
		g.askSilentShards(now)
		g.dropIdleFollowers(now)
		g.settle()
		if now.Sub(looked) >= g.cfg.URevEvery {
			looked = now
			g.spawn(g.compareURevs)
		}
	}
}

func (g *Gateway) isDraining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}
