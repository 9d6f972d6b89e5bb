package regions

import (
	"context"
	"crypto/tls"
	"iter"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
)

// PublisherConfig is what a Publisher needs to know.
type PublisherConfig struct {
	Region    topology.RegionID
	Endpoints []string
	TLS       *tls.Config
	PageSize  int // keys per read of Sync. Default 5,000
	Log       *slog.Logger
}

// Snapshot is everything that the control plane publishes to a region, as of
// one Raft index.
type Snapshot struct {
	Index  uint64
	Routes iter.Seq[topology.Route] // in any order, each workspace once; nil = none
	Cells  []Cell
	Keys   []token.Key
	Edges  []Edge // of all regions
}

const (
	// txnOps is how many entries go into one transaction, below etcd's default
	// limit of 128 operations.
	txnOps = 120
	// syncWriters is how many transactions of a Sync are under way at once.
	syncWriters = 4
	// syncCall bounds one transaction or page of a Sync.
	syncCall = 10 * time.Second
)

// Publisher is the control-plane leader's hand in one region's etcd. Every write
// of it compares the Raft index there first, so that a deposed leader cannot
// undo what a later one wrote. Safe for concurrent use; calls take turns.
type Publisher struct {
	region topology.RegionID
	client *clientv3.Client
	page   int
	log    *slog.Logger

	mu     sync.Mutex
	synced bool // etcd holds exactly what this Publisher wrote
	last   meta // what it wrote last
}

// SyncReport says what a Sync found and did.
type SyncReport struct {
	Same, Puts, Deletes int
}

// NewPublisher makes a Publisher. It does not wait for etcd. Close it.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Region == "" {
		return nil, problem.Field("region", "is empty; name the region whose etcd this is")
	}
	if err := checkEndpoints(cfg.Endpoints); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	client, err := dial(cfg.Endpoints, cfg.TLS)
	if err != nil {
		return nil, err
	}
	return &Publisher{
		region: cfg.Region, client: client, page: orDefault(cfg.PageSize, DefaultPageSize),
		log: cfg.Log.With("region", cfg.Region),
	}, nil
}

// Close releases the connection.
func (p *Publisher) Close() error { return p.client.Close() }

// Synced reports whether etcd holds what this Publisher wrote: false before the
// first Sync and after any failed call, and then only Sync helps.
func (p *Publisher) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.synced
}

// Index is the Raft index that etcd's entries reflect, and whether a Sync of it
// has ended; 0 if nothing was ever published. It tells a wiped etcd, too.
func (p *Publisher) Index(ctx context.Context) (index uint64, complete bool, err error) {
	m, _, err := p.readMeta(ctx)
	return m.Index, m.Complete, err
}

// Apply publishes changes as of a Raft index, without reading the rest. The
// indexes of successive calls must not fall. After an error, of any kind, the
// Publisher is in doubt and refuses to Apply before the next Sync. An etcd that
// reflects a higher index gives kind Conflict.
func (p *Publisher) Apply(ctx context.Context, index uint64, changes ...Change) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range changes {
		if c.err != nil {
			return c.err
		}
	}
	if !p.synced {
		return problem.New(problem.Precond, "the publisher of region %s is in doubt of what etcd holds; call Sync first", p.region)
	}
	p.synced = false
	for rest := lastPerKey(changes); len(rest) > 0; {
		n := min(len(rest), txnOps)
		m := p.last
		m.Index = index
		if err := p.write(ctx, index, &m, rest[:n]); err != nil {
			return err
		}
		p.last = m
		rest = rest[n:]
	}
	p.synced = true
	return nil
}

// lastPerKey drops changes that a later one of the same entry overtakes: etcd takes
// each key once in a transaction.
func lastPerKey(changes []Change) []Change {
	last := make(map[string]int, len(changes))
	for i, c := range changes {
		last[c.key] = i
	}
	out := make([]Change, 0, len(last))
	for i, c := range changes {
		if last[c.key] == i {
			out = append(out, c)
		}
	}
	return out
}

// Sync makes etcd's published entries equal to s: it reads them page by page,
// writes what differs and deletes what s lacks. Leased entries are not touched.
// An etcd that reflects a higher index gives kind Conflict and stays as it is.
func (p *Publisher) Sync(ctx context.Context, s Snapshot) (SyncReport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced = false
	want, err := wantedOf(s)
	if err != nil {
		return SyncReport{}, err
	}
	if err := p.raise(ctx, s.Index); err != nil {
		return SyncReport{}, err
	}
	w := &syncWriter{publisher: p, index: s.Index}
	w.group, w.ctx = errgroup.WithContext(ctx)
	w.group.SetLimit(syncWriters)
	err = p.reconcile(w, want)
	if err2 := w.group.Wait(); err2 != nil {
		err = err2
	}
	if err != nil {
		return w.report, err
	}
	m := meta{Index: s.Index, Complete: true, Routes: want.routes.len(), Cells: len(s.Cells)}
	if err := p.write(ctx, s.Index, &m, nil); err != nil {
		return w.report, err
	}
	p.last, p.synced = m, true
	p.log.Info("published the registry in full", "index", s.Index, "same", w.report.Same, "puts", w.report.Puts, "deletes", w.report.Deletes)
	return w.report, nil
}

// raise writes the index before anything else, so that an older leader's writes
// are refused from here on.
func (p *Publisher) raise(ctx context.Context, index uint64) error {
	old, exists, err := p.readMeta(ctx)
	if err != nil {
		return err
	}
	if !exists {
		ctx, cancel := context.WithTimeout(ctx, syncCall)
		defer cancel()
		// Whoever comes first makes it; the comparison in write decides the rest.
		_, err := p.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(prefix+keyMeta), "=", 0)).
			Then(clientv3.OpPut(prefix+keyMeta, meta{}.text())).Commit()
		if err != nil {
			return p.failed(err)
		}
	}
	if old.Index > index {
		return p.refused(index)
	}
	// The entries of a complete publication stay good while they are brought up
	// to date; readers must not take them for an unfinished first one.
	old.Index = index
	return p.write(ctx, index, &old, nil)
}

// write commits changes if etcd reflects no higher index, with m as the new meta
// unless nil.
func (p *Publisher) write(ctx context.Context, index uint64, m *meta, changes []Change) error {
	ctx, cancel := context.WithTimeout(ctx, syncCall)
	defer cancel()
	ops := make([]clientv3.Op, 0, len(changes)+1)
	for _, c := range changes {
		ops = append(ops, c.op())
	}
	if m != nil {
		ops = append(ops, clientv3.OpPut(prefix+keyMeta, m.text()))
	}
	// Compares text: meta's begins with 20 digits, so this is "index there <= index".
	resp, err := p.client.Txn(ctx).If(clientv3.Compare(clientv3.Value(prefix+keyMeta), "<", indexText(index+1))).Then(ops...).Commit()
	if err != nil {
		return p.failed(err)
	}
	if !resp.Succeeded {
		return p.refused(index)
	}
	return nil
}

func (p *Publisher) refused(index uint64) error {
	return problem.New(problem.Conflict, "region %s's etcd reflects a Raft index above %d, or was wiped; another leader writes there, or Sync is due", p.region, index)
}

func (p *Publisher) failed(err error) error {
	return problem.Wrap(err, problem.Unknown, "region %s's etcd did not answer; the write may have been done", p.region)
}

func (p *Publisher) readMeta(ctx context.Context) (m meta, exists bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := p.client.Get(ctx, prefix+keyMeta)
	if err != nil {
		return m, false, problem.Wrap(err, problem.Unavailable, "region %s's etcd cannot be read", p.region)
	}
	if len(resp.Kvs) == 0 {
		return m, false, nil
	}
	m, err = parseMeta(resp.Kvs[0].Value)
	if err != nil {
		return m, true, problem.Wrap(err, problem.Internal, "the key %s%s of region %s's etcd is damaged; delete it to have all published again", prefix, keyMeta, p.region)
	}
	return m, true, nil
}

// Published are the cells and the edges of all regions as this etcd holds them, be
// the publication old or unfinished: by them a new leader knows what lived in a
// region that it can't look at.
func (p *Publisher) Published(ctx context.Context) (cells []Cell, edges []Edge, err error) {
	if cells, err = readLive[Cell](ctx, p, underCells); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := p.client.Get(ctx, prefix+keyEdges)
	if err != nil {
		return nil, nil, problem.Wrap(err, problem.Unavailable, "region %s's etcd cannot be read", p.region)
	}
	if len(resp.Kvs) == 0 {
		return cells, nil, nil
	}
	v, err := parseJSON[[]Edge](resp.Kvs[0].Value)
	if err != nil {
		p.log.Error("unreadable entry in the region's etcd; left out", "key", prefix+keyEdges, "err", err)
		return cells, nil, nil
	}
	edges, _ = v.([]Edge) // what parseJSON of it gives
	return cells, edges, nil
}

// LiveEdges are the edges that are registered in this region: the leader gathers
// those of all regions into each region's Snapshot.
func (p *Publisher) LiveEdges(ctx context.Context) ([]Edge, error) {
	return readLive[Edge](ctx, p, underLiveEdges)
}

// Gateways are the registered gateways of a cell of this region.
func (p *Publisher) Gateways(ctx context.Context, cell topology.CellID) ([]Gateway, error) {
	return readLive[Gateway](ctx, p, underGateways+string(cell)+"/")
}

// Loads are the last reports of this region's cells, each the sum of those of its
// processes.
func (p *Publisher) Loads(ctx context.Context) ([]Load, error) {
	parts, err := readLive[Load](ctx, p, underLoads)
	return sumLoads(parts), err
}

// maxLive bounds how many entries of a sort are read at once.
const maxLive = 10_000

func readLive[T any](ctx context.Context, p *Publisher, under string) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := p.client.Get(ctx, prefix+under, clientv3.WithPrefix(), clientv3.WithLimit(maxLive))
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "region %s's etcd cannot be read", p.region)
	}
	out := make([]T, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		if string(kv.Value) == farewell {
			continue
		}
		v, err := parseJSON[T](kv.Value)
		if err != nil {
			p.log.Error("unreadable entry in the region's etcd; left out", "key", string(kv.Key), "err", err)
			continue
		}
		out = append(out, v.(T))
	}
	return out, nil
}
