// Package load puts sockets on a server and messages through them, and checks
// every event that comes back. Parley's edge and the floor programs get the same
// load from the same code, so that the client costs the same on both sides.
//
// It is one epoll loop with hand-made RFC 6455 framing: the machine is shared
// with the server that is measured, and a generator that costs as much as the
// server would measure itself. A message event is read as far as its rev; only
// the first copy of a change is looked at closely.
//
// Invariants:
//
//	L1 A post is in flight until it is acked and every socket that follows its
//	   channel has it. The plan's number of posts is in flight at all times.
//	L2 Per socket and channel the revs are c+1, c+2 … from the hello on; anything
//	   else is counted as lost, doubled or out of order, and fails the run.
//	L3 A post without its ack or with a delivery missing, DrainMax after the last
//	   one was sent, is lost.
package load

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// Socket is one client socket to be opened.
type Socket struct {
	Addr  string // host:port of the server, TCP without TLS
	Token string
}

// Config is a load's.
type Config struct {
	Sockets   []Socket
	BodyBytes int    // of each message; 0 takes BodyBytes
	Name      string // unique among the loads of one server: it is part of the posts' keys
	// Progress, if not nil, is called a few times a second from the loop.
	Progress func(Progress)
}

// Progress is how far a load is.
type Progress struct {
	Doing            string // connect, warm, run, drain, or Staying
	Sockets          int
	Posts, Delivered int64
	Left             time.Duration // of what it does; 0 = until it is done
}

// Staying is what a load does that only keeps its sockets alive.
const Staying = "stay"

// Bounds of a load.
const (
	// BodyBytes is the normal message.
	BodyBytes = 300
	// ConnectMax bounds opening all sockets up to the last hello.
	ConnectMax = 2 * time.Minute
	// DrainMax is how long the last posts may take to get everywhere.
	DrainMax = 10 * time.Second
	// Latencies above latencyMax count as latencyMax.
	latencyMax    = time.Minute
	readBytes     = 128 << 10
	eventsAtOnce  = 512
	progressEvery = 250 * time.Millisecond
)

// Load is a set of open sockets. It is used by one goroutine at a time.
type Load struct {
	cfg      Config
	poll     int
	conns    []*conn
	byFD     map[int32]*conn
	channels map[string]*channel
	order    []*channel // in the order of the hellos
	filler   string
	buf      []byte
	start    time.Time
	greeted  int

	flights  map[uint64]*flight
	next     uint64 // number of the next post
	refill   bool   // a finished post is followed by the next
	turn     uint64 // of the choice of channels
	plan     Plan
	pingedAt int64 // the second of the last pings

	sum      Counts
	ack      *hdrhistogram.Histogram // µs
	delivery *hdrhistogram.Histogram // µs
	shown    time.Time
}

// Connect opens all sockets and waits for their hellos.
func Connect(ctx context.Context, cfg Config) (_ *Load, err error) {
	if len(cfg.Sockets) == 0 {
		return nil, problem.Field("sockets", "at least one is needed")
	}
	if err := RaiseFiles(uint64(len(cfg.Sockets)) + 256); err != nil {
		return nil, err
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "no epoll")
	}
	l := &Load{
		cfg: cfg, poll: poll, byFD: make(map[int32]*conn, len(cfg.Sockets)), channels: map[string]*channel{},
		filler: filler(cfg.BodyBytes), buf: make([]byte, readBytes), start: time.Now(), flights: map[uint64]*flight{},
	}
	l.forget()
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, ConnectMax)
	defer cancel()
	if err := l.dialAll(ctx); err != nil {
		return nil, err
	}
	err = l.until(ctx, func() bool { return l.greeted == len(l.conns) }, "connect", unbounded)
	if err == nil && l.sum.Broken > 0 {
		err = problem.New(problem.Unavailable, "%d sockets were closed before their hello", l.sum.Broken)
	}
	return l, err
}

// Close closes all sockets.
func (l *Load) Close() {
	for _, c := range l.conns {
		c.close()
	}
	_ = unix.Close(l.poll) // nothing depends on it any more
}

// Channels are the ids of all channels that the sockets follow.
func (l *Load) Channels() []string {
	out := make([]string, len(l.order))
	for i, c := range l.order {
		out[i] = c.id
	}
	return out
}

// Plan is one run.
type Plan struct {
	InFlight  int           // posts in flight over all channels (L1)
	Warm, For time.Duration // what is measured begins after Warm and lasts For
	Drain     time.Duration // for the last posts; 0 takes DrainMax
}

// Run keeps posts in flight, in channels taken in turns, and measures.
func (l *Load) Run(ctx context.Context, p Plan) (Result, error) {
	if p.InFlight < 1 || p.For <= 0 || len(l.order) == 0 {
		return Result{}, problem.Field("plan", "needs posts in flight, a time, and sockets that follow a channel")
	}
	before := l.sum
	l.plan, l.refill = p, true
	for range p.InFlight {
		l.post()
	}
	if err := l.until(ctx, never, "warm", p.Warm); err != nil {
		return Result{}, err
	}
	l.forget()
	from, began, cpu := l.sum, time.Now(), selfCPU()
	if err := l.until(ctx, never, "run", p.For); err != nil {
		return Result{}, err
	}
	took := time.Since(began)
	r := Result{
		Took: took, PostsPerS: rate(l.sum.Posts-from.Posts, took), DeliveriesPerS: rate(l.sum.Delivered-from.Delivered, took),
		Ack: latencyOf(l.ack), Delivery: latencyOf(l.delivery), ClientCPU: selfCPU() - cpu,
	}
	l.refill = false
	if err := l.until(ctx, func() bool { return len(l.flights) == 0 }, "drain", cmp.Or(p.Drain, DrainMax)); err != nil {
		return Result{}, err
	}
	l.giveUp()
	r.Counts = l.sum.minus(before)
	return r, nil
}

// Stay keeps the sockets open and alive.
func (l *Load) Stay(ctx context.Context, d time.Duration) error {
	return l.until(ctx, never, Staying, d)
}

func never() bool { return false }

func rate(n int64, d time.Duration) float64 { return float64(n) / d.Seconds() }

// unbounded leaves it to done and ctx to end a wait.
const unbounded = -1

// until turns the loop until done, the time is over, or ctx ends.
func (l *Load) until(ctx context.Context, done func() bool, doing string, most time.Duration) error {
	end := time.Now().Add(most)
	for !done() {
		if err := ctx.Err(); err != nil {
			return problem.Wrap(err, problem.Unavailable, "%s ended early: %d of %d sockets were greeted", doing, l.greeted, len(l.cfg.Sockets))
		}
		left := time.Duration(0)
		if most != unbounded {
			if left = time.Until(end); left <= 0 {
				return nil
			}
		}
		if err := l.once(left); err != nil {
			return err
		}
		l.keepAlive()
		l.show(doing, left)
	}
	return nil
}

func (l *Load) show(doing string, left time.Duration) {
	if l.cfg.Progress == nil || time.Since(l.shown) < progressEvery {
		return
	}
	l.shown = time.Now()
	l.cfg.Progress(Progress{Doing: doing, Sockets: l.greeted, Posts: l.sum.Posts, Delivered: l.sum.Delivered, Left: left})
}

func filler(n int) string {
	if n <= 0 {
		n = BodyBytes
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = "the quick brown fox jumps over the lazy dog "[i%44]
	}
	return string(b)
}

// key is a post's client_msg_id; number reads it back.
func (l *Load) key(n uint64) string { return l.cfg.Name + "-" + strconv.FormatUint(n, 10) }
