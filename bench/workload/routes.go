package workload

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"parley/internal/ids"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/regions"
)

// Routes is a region's route table, and the way of a change to it.
type Routes struct {
	Table     int // workspaces in the table whose lookups are measured
	Published int // workspaces in etcd while changes are measured
	Changes   int
}

// RoutesSize is the table's.
func RoutesSize() Routes { return Routes{Table: 1_000_000, Published: 100_000, Changes: 200} }

const (
	lookups    = 5_000_000
	askedMax   = 1 << 18
	oftenAsked = 4096
	stride     = 1_005_713 // a prime
	cellsInUse = 20
	changeMax  = 10 * time.Second
	changeGap  = 10 * time.Millisecond
)

// Run measures lookups and memory in a table alone, then changes from the
// publisher over a real etcd into a registry.
func (r Routes) Run(ctx context.Context, e *Env) ([]Row, error) {
	if r.Table < 1 || r.Table > 10_000_000 || r.Published < 1 || r.Published > r.Table || r.Changes < 1 {
		return nil, problem.Field("workspaces", "must be 1 to 10,000,000, and at least as many as are published")
	}
	all := make([]topology.Route, r.Table)
	for i := range all {
		all[i] = topology.Route{Workspace: topology.WorkspaceID(ids.New(ids.Workspace)), Cell: cellOf(i), Epoch: 1}
	}
	rows, err := r.lookups(e, all)
	if err != nil {
		return nil, err
	}
	change, err := r.changes(ctx, e, all[:r.Published])
	return append(rows, change), err
}

func cellOf(i int) topology.CellID {
	return topology.CellID(fmt.Sprintf("eu-%d", 1+i%cellsInUse))
}

func (r Routes) lookups(e *Env, all []topology.Route) ([]Row, error) {
	what := fmt.Sprintf("routes, %d workspaces", r.Table)
	speed := Row{Workload: what, Measure: "lookup, ns", Targets: mostTargets(200, 100)}
	garbage := Row{Workload: what, Measure: "allocations per lookup", Targets: mostTargets(0, 0)}
	memory := Row{Workload: what, Measure: "memory, bytes each", Targets: mostTargets(150, 100)}
	var ns, often, allocs, bytes []float64
	asked := strangers(all)
	for run := range e.Runs {
		e.Say(fmt.Sprintf("run %d of %d: lookups", run+1, e.Runs))
		before := heap()
		t := regions.NewTable("eu")
		t.Merge(all)
		bytes = append(bytes, float64(heap().HeapAlloc-before.HeapAlloc)/float64(len(all)))
		var from, to runtime.MemStats
		runtime.ReadMemStats(&from)
		far, err := perLookup(t, asked)
		if err != nil {
			return nil, err
		}
		near, err := perLookup(t, asked[:min(oftenAsked, len(asked))])
		if err != nil {
			return nil, err
		}
		ns, often = append(ns, far), append(often, near)
		runtime.ReadMemStats(&to)
		// A lookup that allocates does so every time: less is the runtime's own.
		allocs = append(allocs, float64((to.Mallocs-from.Mallocs)/(2*lookups)))
		runtime.KeepAlive(t)
	}
	speed.set(ns, nil)
	speed.Notes = append(speed.Notes, fmt.Sprintf("Each lookup is of another workspace, %d in all: most are not in the CPU's caches. With %d that come back: %.0f ns.",
		len(asked), oftenAsked, statOf(often).Median))
	garbage.set(allocs, nil)
	memory.set(bytes, nil)
	return []Row{speed, garbage, memory}, nil
}

// strangers are ids as tokens bring them: each far from the last one in the table,
// so that the table is out of the caches, but themselves at hand.
func strangers(all []topology.Route) []topology.WorkspaceID {
	out := make([]topology.WorkspaceID, min(askedMax, len(all)))
	at := 0
	for i := range out {
		at = (at + stride) % len(all)
		out[i] = topology.WorkspaceID(strings.Clone(string(all[at].Workspace)))
	}
	return out
}

// perLookup is how many ns a lookup of these takes.
func perLookup(t *regions.Table, asked []topology.WorkspaceID) (float64, error) {
	start := time.Now()
	for left := lookups; left > 0; left -= len(asked) {
		for _, ws := range asked[:min(left, len(asked))] {
			if _, ok := t.Route(ws); !ok {
				return 0, problem.New(problem.Internal, "the table has lost a route")
			}
		}
	}
	return float64(time.Since(start).Nanoseconds()) / lookups, nil
}

func heap() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}

// changes moves workspaces one after the other and looks until the registry, as
// an edge has it, knows.
func (r Routes) changes(ctx context.Context, e *Env, published []topology.Route) (Row, error) {
	row := Row{
		Workload: fmt.Sprintf("routes, a change among %d in etcd", len(published)), Measure: "until an edge has it, p99, ms",
		Targets: mostTargets(500, 100),
	}
	dir, remove, err := e.scratch("routes")
	if err != nil {
		return row, err
	}
	defer remove()
	w, err := newRegion(ctx, dir)
	if err != nil {
		return row, err
	}
	defer w.close()
	e.Say("publishing the routes")
	index := uint64(1)
	if _, err := w.publisher.Sync(ctx, regions.Snapshot{Index: index, Routes: func(yield func(topology.Route) bool) {
		for _, r := range published {
			if !yield(r) {
				return
			}
		}
	}}); err != nil {
		return row, err
	}
	if err := w.follow(ctx, filepath.Join(dir, "edge")); err != nil {
		return row, err
	}
	var p99, all []float64
	for run := range e.Runs {
		e.Say(fmt.Sprintf("run %d of %d: changes", run+1, e.Runs))
		var took []float64
		for i := range r.Changes {
			index++
			rt := &published[(run*r.Changes+i*31)%len(published)]
			rt.Epoch++
			rt.Cell = cellOf(i + run)
			d, err := w.change(ctx, index, *rt)
			if err != nil {
				return row, err
			}
			took = append(took, float64(d.Microseconds())/1000)
		}
		p99, all = append(p99, quantile(took, 0.99)), append(all, took...)
	}
	row.set(p99, nil)
	row.Notes = append(row.Notes, fmt.Sprintf("p50 %.2f ms", quantile(all, 0.5)))
	return row, nil
}

// region is an etcd, the control plane's writer of it, and an edge's reader.
type region struct {
	etcd      *regions.Etcd
	publisher *regions.Publisher
	registry  *regions.Registry
	stop      context.CancelFunc
	done      chan struct{}
}

func newRegion(ctx context.Context, dir string) (*region, error) {
	w := &region{}
	client, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	w.etcd, err = regions.StartEtcd(ctx, regions.EtcdConfig{Dir: filepath.Join(dir, "etcd"), ClientAddr: client, PeerAddr: peer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	w.publisher, err = regions.NewPublisher(regions.PublisherConfig{Region: "eu", Endpoints: []string{w.etcd.Endpoint()}})
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func freeAddr(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// follow starts the registry and waits until it has loaded.
func (w *region) follow(ctx context.Context, dir string) (err error) {
	w.registry, err = regions.Open(regions.Config{Region: "eu", Endpoints: []string{w.etcd.Endpoint()}, Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx, w.stop = context.WithCancel(ctx)
	w.done = make(chan struct{})
	ready, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(w.done)
		failed <- w.registry.Run(ctx, func() { close(ready) })
	}()
	select {
	case <-ready:
		return nil
	case err := <-failed:
		return err
	}
}

func (w *region) change(ctx context.Context, index uint64, r topology.Route) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, changeMax)
	defer cancel()
	if err := pause(ctx, changeGap); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := w.publisher.Apply(ctx, index, regions.PutRoute(r)); err != nil {
		return 0, err
	}
	for {
		changed := w.registry.Changed()
		if now, ok := w.registry.Route(r.Workspace); ok && now.Epoch >= r.Epoch {
			return time.Since(start), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, problem.New(problem.Unavailable, "a change of a route did not arrive within %s", changeMax)
		}
	}
}

func (w *region) close() {
	if w.stop != nil {
		w.stop()
		<-w.done
	}
	if w.publisher != nil {
		_ = w.publisher.Close() // nothing depends on it any more
	}
	w.etcd.Close()
}
