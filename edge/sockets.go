package edge

import (
	"bufio"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/wire/chat"
)

// sockets holds all client sockets of an edge.
type sockets struct {
	cfg      Config
	pool     *pool
	metrics  *metrics
	log      *slog.Logger
	upgrader websocket.Upgrader
	buffers  sync.Pool // *[]byte of joinBytes
	poller   poller
	work     sync.WaitGroup // sessions, and who reads them
	next     atomic.Uint64

	gate    sync.RWMutex // of what follows: nobody begins to write once over is set
	writers sync.WaitGroup
	over    bool

	mu     sync.Mutex
	all    map[*session]struct{}
	closed bool
	gone   chan struct{} // holds one: a socket has left
}

func newSockets(cfg Config, p *pool, m *metrics, log *slog.Logger) *sockets {
	return &sockets{
		cfg: cfg, pool: p, metrics: m, log: log, all: map[*session]struct{}{}, gone: make(chan struct{}, 1),
		upgrader: websocket.Upgrader{
			// Read buffers are lent: a size here would make one per socket.
			WriteBufferSize: 1 << 10, WriteBufferPool: &sync.Pool{}, HandshakeTimeout: 5 * time.Second,
			CheckOrigin: func(*http.Request) bool { return true }, // checked before, with a problem document
		},
	}
}

// accept upgrades a request of a verified caller to a session.
func (k *sockets) accept(w http.ResponseWriter, r *http.Request, c token.Claims, resume bool) error {
	k.mu.Lock()
	full := k.closed || len(k.all) >= k.cfg.SocketsMax
	k.mu.Unlock()
	if full {
		return &problem.Error{Kind: problem.Unavailable, Msg: "this edge is full; GET /api/v1/edges lists others", RetryAfter: 2 * time.Second}
	}
	ws, conn, br, err := k.upgrade(w, r)
	if err != nil {
		return nil //nolint:nilerr // gorilla has answered
	}
	now := time.Now()
	c.ID = "" // of no use from here on
	s := &session{
		number: k.next.Add(1), claims: c, ws: ws, conn: conn, raw: conn.Conn, br: br, owner: k, resume: resume, homeless: now,
		bucket: bucket{perS: k.cfg.FramesPerS, burst: float64(k.cfg.FramesBurst), tokens: float64(k.cfg.FramesBurst), at: now},
	}
	s.out = queue{conn: s.raw, direct: newDirect(s.raw), writeMax: k.cfg.WriteMax, gated: true, bytesMax: k.cfg.QueueBytesMax, framesMax: k.cfg.QueueFramesMax}
	s.alive()
	s.pinged.Store(now.UnixNano())
	if !k.begin(s) {
		_ = ws.Close() // the edge stops
		return nil
	}
	k.metrics.sockets.Inc()
	k.pool.home(s)
	return nil
}

// upgrade has gorilla do it, with a reader whose buffer is lent.
func (k *sockets) upgrade(w http.ResponseWriter, r *http.Request) (*websocket.Conn, *upgraded, *bufio.Reader, error) {
	br := &bufio.Reader{}
	in := k.poller.intakes.get(nil)
	in.lend(br)
	u := &upgrading{ResponseWriter: w, br: br}
	ws, err := k.upgrader.Upgrade(u, r, nil)
	in.takeBack(br)
	k.poller.intakes.put(in)
	if err == nil {
		u.conn.done = true
	}
	return ws, u.conn, br, err
}

// begin has a session read, unless all sockets are closed.
func (k *sockets) begin(s *session) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false
	}
	k.all[s] = struct{}{}
	if s.out.direct != nil && k.poller.seat(s) {
		k.work.Add(1)
		s.prepareRead()
		in := k.poller.intakes.get(s.out.direct.conn)
		in.lend(s.br)
		s.park(in)
		return true
	}
	s.br.Reset(s.raw)
	k.work.Go(s.read) // a fresh goroutine: the request's has a grown stack
	return true
}

// leave ends a session at its gateway; its socket may live a little longer.
func (k *sockets) leave(s *session) {
	s.mu.Lock()
	s.closed = true
	a := s.att
	s.held = nil
	s.mu.Unlock()
	if a != nil {
		k.pool.detach(a, true)
	}
}

// remove is the end of a socket, called once by its reader.
func (k *sockets) remove(s *session) {
	k.leave(s)
	s.out.end(true, time.Nanosecond) // wakes nobody: the socket is closed next
	_ = s.raw.Close()                // nothing depends on it any more
	k.mu.Lock()
	delete(k.all, s)
	k.mu.Unlock()
	if s.loop != nil {
		s.loop.leave(s)
		k.work.Done()
	}
	k.metrics.sockets.Dec()
	select {
	case k.gone <- struct{}{}:
	default:
	}
}

func (k *sockets) list() []*session {
	k.mu.Lock()
	defer k.mu.Unlock()
	ss := make([]*session, 0, len(k.all))
	for s := range k.all {
		ss = append(ss, s)
	}
	return ss
}

// sweepEvery is how often deadlines of sockets are looked at: one pass in place
// of timers per socket.
const sweepEvery = 250 * time.Millisecond

// run flushes sockets and looks after deadlines until ctx ends.
func (k *sockets) run(ctx context.Context) {
	var loops sync.WaitGroup
	defer loops.Wait()
	for i := range k.pool.flushers.loops {
		loops.Go(func() { k.pool.flushers.loops[i].run(ctx) })
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, s := range k.list() {
				k.sweep(s, now)
			}
		}
	}
}

func (k *sockets) sweep(s *session, now time.Time) {
	s.expireHeld(now)
	silent := now.Sub(time.Unix(0, s.heard.Load()))
	s.mu.Lock()
	closed, greeted, resumed := s.closed, s.greeted, s.resumed
	var alone time.Duration
	if !s.homeless.IsZero() {
		alone = now.Sub(s.homeless)
	}
	s.mu.Unlock()
	leaveAt, cutAt := s.leaveAt.Load(), s.cutAt.Load()
	switch {
	case cutAt > 0 && now.UnixNano() > cutAt:
		s.cut()
	case closed:
	case leaveAt > 0 && now.UnixNano() > leaveAt:
		s.end(closeGoingAway, "the edge stops")
	case now.After(s.claims.Expires):
		s.end(closeToken, "the token has expired", errorEvent("", problem.New(problem.Unauthentic, "the token has expired")))
	case silent > 3*k.cfg.Heartbeat:
		s.end(closeResume, "no sign of life")
	case s.resume && !resumed && !greeted.IsZero() && now.Sub(greeted) > chat.ResumeWait:
		err := problem.Field("type", "no resume frame came within %s, though resume=1 announced it", chat.ResumeWait)
		s.end(closeMisuse, "no resume frame", errorEvent("", err))
	case alone > k.cfg.HomelessMax:
		s.end(closeResume, "the workspace's cell can't be reached", errorEvent("", problem.New(problem.Unavailable, "the workspace's cell can't be reached")))
	case silent > k.cfg.Heartbeat && now.UnixNano()-s.pinged.Load() > int64(k.cfg.Heartbeat):
		s.pinged.Store(now.UnixNano())
		if !greeted.IsZero() { // before its hello a socket gets nothing
			s.sendFrame(framed(opPing, nil))
		}
	}
}

// leaveGrace is how long after its time a client that was asked to leave is closed.
const leaveGrace = time.Second

// drain asks all sockets to leave at random times within spread, and waits.
func (k *sockets) drain(ctx context.Context, spread time.Duration) error {
	start := time.Now()
	for _, s := range k.list() {
		after := time.Duration(rand.Int64N(int64(spread) + 1))
		s.leaveAt.Store(start.Add(after + leaveGrace).UnixNano())
		s.send(chat.GoawayEvent{Type: chat.TypeGoaway, Reason: "draining", AfterMS: after.Milliseconds()})
	}
	for {
		k.mu.Lock()
		n := len(k.all)
		k.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-k.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// closeAll ends what is left, and waits for readers and writers.
func (k *sockets) closeAll(code uint16, reason string, within time.Duration) {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	for _, s := range k.list() {
		s.end(code, reason)
	}
	cut := time.AfterFunc(min(within, stopMax), func() {
		for _, s := range k.list() {
			s.cut() // would not go
		}
	})
	defer cut.Stop()
	k.work.Wait()
	k.gate.Lock()
	k.over = true
	k.gate.Unlock()
	k.writers.Wait()
	k.poller.stop()
}

// write runs a socket's writer, unless all sockets are closed.
func (k *sockets) write(do func()) {
	k.gate.RLock()
	defer k.gate.RUnlock()
	if !k.over {
		k.writers.Go(do)
	}
}
