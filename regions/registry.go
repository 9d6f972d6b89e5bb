package regions

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Config is what a Registry needs to know.
type Config struct {
	Region    topology.RegionID
	Endpoints []string    // of the region's etcd, host:port or URLs
	TLS       *tls.Config // of the client; nil = plain text, for tests
	Dir       string      // of the disk copy; "" = none
	// WithoutRoutes leaves the routes alone: for those that only register
	// themselves or want the small entries, as the control plane does.
	WithoutRoutes bool
	// ReadyWait bounds how long Run waits for etcd before it is ready with what
	// the disk gave, be that nothing. Default 2 s.
	ReadyWait time.Duration
	// SaveEvery is the least time between two disk copies. Default 5 s.
	SaveEvery time.Duration
	// LeaseTTL is how long a registration outlives its holder, in whole
	// seconds. Default 5 s.
	LeaseTTL time.Duration
	PageSize int // keys per read when loading. Default 5,000
	Log      *slog.Logger
}

// Defaults of Config.
const (
	DefaultReadyWait = 2 * time.Second
	DefaultSaveEvery = 5 * time.Second
	DefaultLeaseTTL  = 5 * time.Second
	DefaultPageSize  = 5_000
)

const (
	// callTimeout bounds one call to etcd.
	callTimeout = 3 * time.Second
	// probeEvery is how often Registry asks whether etcd is there.
	probeEvery   = time.Second
	probeTimeout = time.Second
	// reconnectMax bounds the wait between two attempts to connect; gRPC's own
	// two minutes would be the time to find an etcd that came back.
	reconnectMax = 2 * time.Second
	// maxRegistrations bounds the registrations of one Registry.
	maxRegistrations = 64
)

// Registry follows a region's etcd into a Table, and registers this process in
// it. Safe for concurrent use.
type Registry struct {
	*Table

	cfg       Config
	log       *slog.Logger
	connected atomic.Bool
	whole     atomic.Bool   // the table was complete once, from disk or etcd: worth a disk copy
	pages     atomic.Uint64 // read so far

	opened chan struct{} // closed when client is set
	client *clientv3.Client
	life   context.Context //nolint:containedctx // of the registrations: ends with Run
	end    context.CancelFunc

	mu      sync.Mutex // guards what follows
	started bool
	closing bool
	leases  int
	loads   map[string]*Registration // by key
	holders sync.WaitGroup
}

// Open checks the configuration and makes a Registry; it touches nothing before
// Run.
func Open(cfg Config) (*Registry, error) {
	if cfg.Region == "" {
		return nil, problem.Field("region", "is empty; name the region whose etcd this is")
	}
	if err := checkEndpoints(cfg.Endpoints); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.ReadyWait = orDefault(cfg.ReadyWait, DefaultReadyWait)
	cfg.SaveEvery = orDefault(cfg.SaveEvery, DefaultSaveEvery)
	cfg.LeaseTTL = orDefault(cfg.LeaseTTL, DefaultLeaseTTL)
	cfg.PageSize = orDefault(cfg.PageSize, DefaultPageSize)
	if cfg.LeaseTTL < time.Second {
		return nil, problem.Field("lease_ttl", "is %s; etcd counts leases in whole seconds, use at least 1s", cfg.LeaseTTL)
	}
	life, end := context.WithCancel(context.Background())
	return &Registry{
		life: life, end: end,
		Table: NewTable(cfg.Region), cfg: cfg, log: cfg.Log.With("region", cfg.Region),
		opened: make(chan struct{}),
		loads:  map[string]*Registration{},
	}, nil
}

func checkEndpoints(endpoints []string) error {
	if len(endpoints) == 0 {
		return problem.Field("endpoints", "is empty; name at least one etcd address, such as 127.0.0.1:2379")
	}
	if slices.Contains(endpoints, "") {
		return problem.Field("endpoints", "has an empty address")
	}
	return nil
}

func orDefault[T time.Duration | int](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Connected reports whether the table follows etcd at this time. If not, it
// holds what was last known.
func (r *Registry) Connected() bool { return r.connected.Load() }

// setConnected notes whether etcd is there, and wakes the waiters of Changed on
// a change.
func (r *Registry) setConnected(up bool) {
	if r.connected.Swap(up) == up {
		return
	}
	if up {
		r.log.Info("following the region's etcd")
	} else {
		r.log.Warn("region's etcd is away; going on with what was last known")
	}
	r.Table.mu.Lock()
	r.notify(false)
	r.Table.mu.Unlock()
}

// Run follows etcd until ctx ends. It is ready once the table is loaded, or
// after ReadyWait with what the disk copy gave. Registrations that outlive ctx
// end with it. A Registry runs once.
func (r *Registry) Run(ctx context.Context, ready func()) error {
	if err := r.start(); err != nil {
		return err
	}
	defer r.end()
	r.loadDisk()
	saved := r.durableChanges()
	client, err := dial(r.cfg.Endpoints, r.cfg.TLS)
	if err != nil {
		return err
	}
	r.client = client
	close(r.opened)

	loaded := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.follow(ctx, loaded) })
	if r.cfg.Dir != "" {
		wg.Go(func() { r.saveLoop(ctx, saved) })
	}
	r.awaitLoaded(ctx, loaded)
	if ctx.Err() == nil {
		ready()
	}
	<-ctx.Done()
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	r.end()
	wg.Wait()
	r.holders.Wait()
	r.connected.Store(false)
	if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return problem.Wrap(err, problem.Internal, "closing the client of region %s's etcd failed", r.cfg.Region)
	}
	return nil
}

func (r *Registry) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return problem.New(problem.Conflict, "a Registry runs once; open another one")
	}
	r.started = true
	return nil
}

// awaitLoaded waits for the first load, but no longer than ReadyWait if the disk
// gave a copy, or if no page came within that time.
func (r *Registry) awaitLoaded(ctx context.Context, loaded <-chan struct{}) {
	tick := time.NewTicker(r.cfg.ReadyWait)
	defer tick.Stop()
	for pages := uint64(0); ; pages = r.pages.Load() {
		select {
		case <-loaded:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if r.whole.Load() || r.pages.Load() == pages {
				r.log.Warn("region's etcd did not answer in time; starting with what is known", "known", r.Known(), "routes", r.Len())
				return
			}
		}
	}
}

// dial makes a client of a region's etcd. It does not wait for a connection.
// Dead connections are found within 5 s.
func dial(endpoints []string, conf *tls.Config) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: conf, DialTimeout: callTimeout,
		DialKeepAliveTime: 3 * time.Second, DialKeepAliveTimeout: 2 * time.Second, PermitWithoutStream: true,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: callTimeout,
		})},
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "the etcd endpoints %v cannot be used: %v", endpoints, err)
	}
	return client, nil
}
