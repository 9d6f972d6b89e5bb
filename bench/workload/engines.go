package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"parley/bench/cluster"
	"parley/bench/floor/quorum"
	"parley/bench/load"
	"parley/bench/process"
	"parley/bench/site"
	"parley/internal/engineset"
	"parley/internal/problem"
)

// quick has engines' second compiler on: what is measured is not how they start.
const quick = "PARLEY_ENGINES_JIT=full"

// cellSet is the engines of the nth cell.
func (e *Env) cellSet(n int, env ...string) engineset.Set {
	return engineset.Set{Script: e.Engines, Name: fmt.Sprintf("cell-%d", n+1), Env: env}
}

// startSite starts cells on engines.
func (e *Env) startSite(ctx context.Context, dir string, cells int, env ...string) (*site.Site, error) {
	return e.startThis(ctx, site.Config{Dir: dir}, cells, env...)
}

func (e *Env) startThis(ctx context.Context, c site.Config, cells int, env ...string) (*site.Site, error) {
	c.Binary, c.Etcd = e.Parley, e.Etcd
	for i := range cells {
		c.Engines = append(c.Engines, e.cellSet(i, env...))
	}
	e.Say("starting engines, and cells on them")
	return site.Start(ctx, c)
}

// EnginePosts is the typical load on a cell on engines, beside a minimal client of
// the same Cassandra that writes as many rows.
type EnginePosts struct{ Typical }

// EnginePostsSize is the table's: as Typical's, with fewer who are not online.
func EnginePostsSize() EnginePosts {
	return EnginePosts{Typical{Channels: 1000, Members: 10, Online: 10, Sockets: 2000}}
}

// A post's rows: its change in the log, its message row, the key that makes it safe to
// repeat, and, as far apart as a channel's posts are here, the mark of how far its
// history is. Two more are left out, to the floor's advantage: the mark of what the event
// log has, and the channel's place on the list of those to recover, once in some seconds.
const (
	rowsOfPost     = 4
	engineRatioMin = 0.4
	compiledAfter  = 20 * time.Second
)

// Run measures posts a second.
func (p EnginePosts) Run(ctx context.Context, e *Env) (_ []Row, err error) {
	dir, remove, err := e.scratch("engine-posts")
	if err != nil {
		return nil, err
	}
	defer remove()
	s, err := e.startThis(ctx, site.Config{Dir: dir, OwnIndex: true}, 1, quick)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	backlog := &backlog{site: s, say: e.Say}
	sides, end, err := e.sides(
		func() (*side, error) { return p.site(ctx, e, s, backlog) },
		func() (*side, error) { return p.floor(ctx, e, dir, backlog) },
	)
	if err != nil {
		return nil, err
	}
	defer end()
	for _, s := range sides { // the JVMs' compilers
		if _, err := s.measure(ctx, load.Plan{InFlight: 64, For: min(4*e.For, compiledAfter)}, without(sides, s)); err != nil {
			return nil, err
		}
	}
	best, runs, err := p.measure(ctx, e, sides)
	if err != nil {
		return nil, err
	}
	r := Row{
		Workload: fmt.Sprintf("posts: %d channels × %d online of %d, %d sockets, one node of each engine", p.Channels, p.Online, p.Members, p.Sockets),
		Measure:  "posts/s, p99 < 200 ms", Against: fmt.Sprintf("gocql, %d quorum writes a post", rowsOfPost),
		Targets: []Target{{Name: "first", Value: engineRatioMin}},
	}
	r.compare(runs, func(m measured) float64 { return m.PostsPerS })
	r.details(runs)
	r.Notes = append(r.Notes, p.honest(sides, best, runs), backlog.said(),
		"The cell is on Cassandra, Kafka, Redis and Postgres; search is embedded in it: the floor has none, and Elasticsearch takes a third of two cores.",
		"A post is four rows: its change in the log, its message row, its client_msg_id, the mark of its channel's history. The mark of what is emitted and the list of channels to recover, each once in some seconds, are not counted. The CPU of Parley's side is without the engines', the floor's is Cassandra's.")
	return []Row{r}, nil
}

// site is the cell with its people's sockets.
func (p EnginePosts) site(ctx context.Context, e *Env, s *site.Site, b *backlog) (*side, error) {
	every := p.Members / p.Online
	seed := cluster.Seed{Prefix: "posts", Users: p.Sockets * every, Channels: p.Channels, Members: p.Members}
	e.Say(fmt.Sprintf("parley: making %d people and %d channels", seed.Users, seed.Channels))
	people, err := s.Seed(ctx, 0, seed)
	if err != nil {
		return nil, err
	}
	l, err := e.sockets(ctx, "posts", []string{s.Edge()}, people, func(user int) bool { return user%every == 0 })
	if err != nil {
		return nil, err
	}
	return &side{name: "parley", proc: running{s}, load: b.before(l, true)}, nil
}

// floor is the minimal client.
func (p EnginePosts) floor(ctx context.Context, e *Env, dir string, b *backlog) (*side, error) {
	set := e.cellSet(0)
	stores, err := set.Stores(ctx, dir)
	if err != nil {
		return nil, err
	}
	nodes, err := set.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	c, err := quorum.Open(ctx, quorum.Config{
		Hosts: stores.Cassandra.Hosts, Datacenter: stores.Cassandra.Datacenter, Rows: rowsOfPost, Bytes: load.BodyBytes + rowNames,
	})
	if err != nil {
		return nil, err
	}
	out := &side{name: "floor", load: b.before(&writers{client: c, channels: p.Channels}, false)}
	for _, n := range nodes {
		if n.Name == "cassandra-1" {
			out.proc = pid(n.PID)
		}
	}
	return out, nil
}

// rowNames is what a row has beside a message's text: its author, id and key.
const rowNames = 80

// running is a site that its workload ends, not its side.
type running struct{ *site.Site }

// Stop implements server.
func (running) Stop() {}

// pid is a process of somebody else.
type pid int

// CPU implements server.
func (p pid) CPU() (time.Duration, error) { return process.CPUOf(int(p)) }

// Alive implements server.
func (p pid) Alive() error { return nil }

// Stop implements server.
func (p pid) Stop() {}

// backlog keeps what one run has left to workers out of the next.
type backlog struct {
	site *site.Site
	say  func(string)
	left []float64 // after Parley's runs
}

// settled is a traffic that waits until the cell has nothing left to do.
type settled struct {
	traffic
	*backlog

	parley bool
}

func (b *backlog) before(t traffic, parley bool) settled { return settled{t, b, parley} }

// Run implements traffic.
func (s settled) Run(ctx context.Context, p load.Plan) (load.Result, error) {
	if err := s.settle(ctx); err != nil {
		return load.Result{}, err
	}
	r, err := s.traffic.Run(ctx, p)
	if err == nil && s.parley {
		if n, failed := s.site.Behind(ctx, 0); failed == nil {
			s.left = append(s.left, n)
		}
	}
	return r, err
}

// settle keeps sockets alive meanwhile.
func (s settled) settle(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	stayed := make(chan struct{})
	go func() {
		defer close(stayed)
		var err error
		for err == nil && ctx.Err() == nil {
			err = s.Stay(ctx, 100*time.Millisecond)
		}
	}()
	err := s.site.Settle(ctx, func(behind float64) { s.say(fmt.Sprintf("%.0f changes and events wait for workers", behind)) })
	stop()
	<-stayed // its run says what is wrong with a socket
	return err
}

func (b *backlog) said() string {
	s := statOf(b.left)
	return fmt.Sprintf("changes and events that waited for workers when a run of Parley's ended: %.0f (%.0f … %.0f)", s.Median, s.Min, s.Max)
}

// writers are posts in flight at a minimal client.
type writers struct {
	client   *quorum.Client
	channels int

	mu   sync.Mutex
	next []int64
}

// Run implements traffic.
func (w *writers) Run(ctx context.Context, p load.Plan) (load.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		work  sync.WaitGroup
		fault error
		done  int64
		took  = hdrhistogram.New(1, time.Minute.Microseconds(), 3)
		begin = time.Now().Add(p.Warm)
		end   = begin.Add(p.For)
	)
	for i := range p.InFlight {
		work.Go(func() {
			for turn := i; ctx.Err() == nil && time.Now().Before(end); turn += p.InFlight {
				ch := turn % w.channels
				asked := time.Now()
				err := w.client.Post(ctx, ch, w.rev(ch))
				now := time.Now()
				w.mu.Lock()
				switch {
				case err != nil && fault == nil:
					fault = err
					cancel()
				case asked.After(begin) && now.Before(end):
					done++
					_ = took.RecordValue(min(now.Sub(asked).Microseconds(), took.HighestTrackableValue())) // in range
				}
				w.mu.Unlock()
			}
		})
	}
	work.Wait()
	if fault != nil {
		return load.Result{}, problem.Wrap(fault, problem.Unavailable, "the floor's client failed: %v", fault)
	}
	us := func(q float64) time.Duration { return time.Duration(took.ValueAtPercentile(q)) * time.Microsecond }
	l := load.Latency{P50: us(50), P99: us(99), Max: us(100)}
	rate := float64(done) / p.For.Seconds()
	return load.Result{Took: p.For, PostsPerS: rate, DeliveriesPerS: rate, Ack: l, Delivery: l, Counts: load.Counts{Posts: done}}, nil
}

// rev is the next of a channel.
func (w *writers) rev(ch int) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == nil {
		w.next = make([]int64, w.channels)
	}
	w.next[ch]++
	return w.next[ch]
}

// Stay implements traffic: a client's connections need nobody.
func (w *writers) Stay(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Close implements traffic.
func (w *writers) Close() { w.client.Close() }

// TwoCells is two whole cells, each with engines of its own, from empty directories.
type TwoCells struct{ Load time.Duration }

const (
	startMaxS     = 60
	memoryMaxMiB  = 4096
	twoInFlight   = 32
	twoPeople     = 200
	twoChannels   = 20
	twoMembers    = 10
	mib           = 1 << 20
	twoSettingsOf = "engines as `make cells` starts them, side by side; one etcd, control-plane node and edge for both"
)

// Run measures their start and, after a load on both, their memory.
func (c TwoCells) Run(ctx context.Context, e *Env) ([]Row, error) {
	start := Row{Workload: "two cells, empty directories", Measure: "s until all serve", Targets: mostTargets(startMaxS, startMaxS)[:1], Notes: []string{twoSettingsOf}}
	memory := Row{Workload: "two cells after a load", Measure: "resident, MiB", Targets: mostTargets(memoryMaxMiB, memoryMaxMiB)[:1]}
	var took, whole, own []float64
	for run := range e.Runs {
		e.Say(fmt.Sprintf("run %d of %d", run+1, e.Runs))
		if err := c.once(ctx, e, func(s *site.Site, parley, engines int64, counts load.Counts) {
			took = append(took, s.Took.Seconds())
			whole = append(whole, float64(parley+engines)/mib)
			own = append(own, float64(parley)/mib)
			memory.Counts = plus(memory.Counts, counts)
		}); err != nil {
			return nil, err
		}
	}
	start.set(took, nil)
	memory.set(whole, nil)
	memory.Notes = append(memory.Notes, fmt.Sprintf("of these, Parley's processes: %.0f MiB (two cells, edge, control-plane node, etcd)", statOf(own).Median))
	return []Row{start, memory}, nil
}

func (c TwoCells) once(ctx context.Context, e *Env, took func(*site.Site, int64, int64, load.Counts)) (err error) {
	dir, remove, err := e.scratch("two-cells")
	if err != nil {
		return err
	}
	defer remove()
	s, err := e.startSite(ctx, dir, 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	var counts load.Counts
	for cell := range 2 {
		people, err := s.Seed(ctx, cell, cluster.Seed{Prefix: "two", Users: twoPeople, Channels: twoChannels, Members: twoMembers})
		if err != nil {
			return err
		}
		l, err := e.sockets(ctx, fmt.Sprintf("two-%d", cell), []string{s.Edge()}, people, nil)
		if err != nil {
			return err
		}
		r, err := l.Run(ctx, load.Plan{InFlight: twoInFlight, For: c.Load})
		l.Close()
		if err != nil {
			return err
		}
		counts = plus(counts, r.Counts)
	}
	if err := s.Settle(ctx, nil); err != nil {
		return err
	}
	parley, engines, err := s.Memory(ctx)
	if err == nil {
		took(s, parley, engines, counts)
	}
	return err
}
