package controlplane

import (
	"context"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"parley/controlplane/state"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

// publication is the publisher of a region, at work.
type publication struct {
	etcd []string
	stop func() // waits
}

// keepPublishing runs a publisher per region, as regions come; a restored snapshot
// may also take some away, or move them.
func (l *leader) keepPublishing(ctx context.Context) {
	running := map[string]publication{}
	defer func() {
		for _, p := range running {
			p.stop()
		}
	}()
	for {
		grown := l.n.fsm.growing()
		rs := map[string]state.Region{}
		l.n.fsm.read(func(s *state.State) { maps.Copy(rs, s.Regions) })
		for id, p := range running {
			if r, ok := rs[id]; !ok || !slices.Equal(r.Etcd, p.etcd) {
				p.stop()
				delete(running, id)
				l.forgetRegion(id)
			}
		}
		for id, r := range rs {
			if _, ok := running[id]; !ok {
				running[id] = l.publication(ctx, r)
			}
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return
		}
	}
}

func (l *leader) publication(ctx context.Context, r state.Region) publication {
	ctx, cancel := context.WithCancel(ctx)
	var task sync.WaitGroup
	task.Go(func() { l.publishTo(ctx, r) })
	return publication{etcd: r.Etcd, stop: func() {
		cancel()
		task.Wait()
	}}
}

// publishTo keeps one region's etcd equal to the state, until ctx ends.
func (l *leader) publishTo(ctx context.Context, r state.Region) {
	log := l.n.log.With("region", r.ID)
	p, err := regions.NewPublisher(regions.PublisherConfig{
		Region: topology.RegionID(r.ID), Endpoints: r.Etcd, TLS: l.n.deps.Identity.Client(pki.RoleEtcd), Log: log,
	})
	if err != nil {
		log.Error("the region can't be published to", "err", err)
		return
	}
	defer func() {
		if err := p.Close(); err != nil {
			log.Debug("publisher not closed cleanly", "err", err)
		}
	}()
	var all sync.WaitGroup
	all.Go(func() { l.gather(ctx, r, p) })
	defer all.Wait()
	for {
		if err := l.publish(ctx, r, p); ctx.Err() == nil {
			log.Warn("publishing was interrupted; comparing everything again", "err", err)
			l.accuse(ctx, p, log)
		}
		if !pause(ctx, retryPause) {
			return
		}
	}
}

// accuse says it loudly if a region's etcd is ahead of this log though this node
// leads: that does not mend itself.
func (l *leader) accuse(ctx context.Context, p *regions.Publisher, log *slog.Logger) {
	index, _, err := p.Index(ctx)
	if err == nil && index > l.n.raft.LastIndex() && l.n.linearizable() == nil {
		log.Error("the region's etcd was published to by another control plane, or by this one before it was set up anew; "+
			"if this one is to be believed, delete the key /parley/v1/meta there", "index", index)
	}
}

// etcdMax bounds one call to a region's etcd; a full comparison reads all of it.
const (
	etcdMax = 5 * time.Second
	syncMax = 5 * time.Minute
)

// gather looks again and again at what lives in a region.
func (l *leader) gather(ctx context.Context, r state.Region, p *regions.Publisher) {
	for {
		if s, err := l.look(ctx, r, p); err == nil {
			l.see(r.ID, s)
		} else if ctx.Err() == nil {
			l.n.log.Warn("a region can't be looked at; what was seen last counts", "region", r.ID, "err", err)
		}
		if !pause(ctx, l.n.cfg.GatherEvery) {
			return
		}
	}
}

func (l *leader) look(ctx context.Context, r state.Region, p *regions.Publisher) (sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdMax)
	defer cancel()
	s := sighting{gateways: map[topology.CellID][]regions.Gateway{}, at: l.n.deps.Now()}
	var err error
	if s.edges, err = p.LiveEdges(ctx); err != nil {
		return s, err
	}
	if s.loads, err = p.Loads(ctx); err != nil {
		return s, err
	}
	var cells []state.Cell
	l.n.fsm.read(func(st *state.State) { cells = state.Sorted(st.Cells, "", len(st.Cells)) })
	for _, c := range cells {
		if c.Region != r.ID {
			continue
		}
		gs, err := p.Gateways(ctx, topology.CellID(c.ID))
		if err != nil {
			return s, err
		}
		if len(gs) > 0 {
			s.gateways[topology.CellID(c.ID)] = gs
		}
	}
	return s, nil
}

// publish compares everything once, then passes on what changes; it returns with
// the first failure.
func (l *leader) publish(ctx context.Context, r state.Region, p *regions.Publisher) error {
	cells, edges, err := p.Published(ctx)
	if err != nil {
		return err
	}
	l.recall(cells, edges)
	snap, seen := l.snapshot()
	full, cancel := context.WithTimeout(ctx, syncMax)
	report, err := p.Sync(full, snap)
	cancel()
	if err != nil {
		return err
	}
	l.setPublished(r.ID, snap.Index)
	l.n.log.Debug("region compared", "region", r.ID, "puts", report.Puts, "deletes", report.Deletes)
	at, wrote := snap.Index, snap.Index
	check := time.NewTicker(checkTimes * l.n.cfg.GatherEvery)
	defer check.Stop()
	for {
		_, _, n, moved := l.union()
		changes, grown, ok := l.n.fsm.after(at)
		if !ok {
			return problem.New(problem.Precond, "what changed since index %d is no longer known", at)
		}
		out, index := l.changesOf(changes, at)
		if n != seen {
			seen = n
			out = append(out, l.cellsAndEdges()...)
		}
		if len(out) > 0 {
			one, cancel := context.WithTimeout(ctx, etcdMax)
			err := p.Apply(one, index, out...)
			cancel()
			if err != nil {
				return err
			}
			wrote = index
		}
		at = index
		l.setPublished(r.ID, at)
		if len(changes) > 0 {
			continue
		}
		select {
		case <-grown:
		case <-moved:
		case <-check.C:
			if err := intact(ctx, p, wrote); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkTimes is after how many gatherings a region's etcd is asked whether it still
// is the one that was written to.
const checkTimes = 5

// intact finds an etcd that was wiped, or went back to a backup, also when nothing
// is due to be written. One that does not answer is left in peace: it is asked again.
func intact(ctx context.Context, p *regions.Publisher, wrote uint64) error {
	ctx, cancel := context.WithTimeout(ctx, etcdMax)
	defer cancel()
	index, complete, err := p.Index(ctx)
	if err == nil && (index != wrote || !complete) {
		return problem.New(problem.Conflict, "the region's etcd reflects index %d, not %d as it was told", index, wrote)
	}
	return nil
}

// snapshot is everything to publish, as of one index.
func (l *leader) snapshot() (regions.Snapshot, uint64) {
	edges, gateways, n, _ := l.union()
	var s *state.State
	l.n.fsm.read(func(now *state.State) { s = now.Clone() })
	return regions.Snapshot{Index: s.Index, Routes: routes(s), Cells: cells(s, gateways), Keys: publicKeys(s), Edges: edges}, n
}

// routes are those of workspaces whose cell has opened them.
func routes(s *state.State) iter.Seq[topology.Route] {
	return func(yield func(topology.Route) bool) {
		for _, w := range s.Workspaces {
			if w.State == state.WorkspaceActive && !yield(routeOf(w)) {
				return
			}
		}
	}
}

func routeOf(w state.Workspace) topology.Route {
	return topology.Route{Workspace: topology.WorkspaceID(w.ID), Cell: topology.CellID(w.Cell), Epoch: topology.Epoch(w.Epoch)}
}

func cells(s *state.State, gateways map[topology.CellID][]regions.Gateway) []regions.Cell {
	out := make([]regions.Cell, 0, len(s.Cells))
	for _, c := range state.Sorted(s.Cells, "", len(s.Cells)) {
		id := topology.CellID(c.ID)
		out = append(out, regions.Cell{ID: id, Region: topology.RegionID(c.Region), State: c.State, Gateways: gateways[id]})
	}
	return out
}

func publicKeys(s *state.State) []token.Key {
	out := make([]token.Key, 0, len(s.Keys))
	for _, k := range state.Sorted(s.Keys, "", len(s.Keys)) {
		out = append(out, signing(k).WithoutPrivate())
	}
	return out
}

// changesOf is what changed entries mean to a region, and the last one's index.
func (l *leader) changesOf(changes []change, at uint64) ([]regions.Change, uint64) {
	var out []regions.Change
	_, gateways, _, _ := l.union()
	l.n.fsm.read(func(s *state.State) {
		for _, c := range changes {
			at = c.index
			switch c.kind {
			case "workspace":
				if w, ok := s.Workspaces[c.id]; ok && w.State == state.WorkspaceActive {
					out = append(out, regions.PutRoute(routeOf(w)))
				}
			case "cell":
				if i := slices.IndexFunc(cells(s, gateways), func(x regions.Cell) bool { return string(x.ID) == c.id }); i >= 0 {
					out = append(out, regions.PutCell(cells(s, gateways)[i]))
				}
			case "signing_key":
				if k, ok := s.Keys[c.id]; ok {
					out = append(out, regions.PutKey(signing(k).WithoutPrivate()))
				} else {
					out = append(out, regions.DeleteKey(c.id))
				}
			}
		}
	})
	return out, at
}

// cellsAndEdges is what lives, as it is told to other regions.
func (l *leader) cellsAndEdges() []regions.Change {
	edges, gateways, _, _ := l.union()
	out := []regions.Change{regions.PutEdges(edges)}
	l.n.fsm.read(func(s *state.State) {
		for _, c := range cells(s, gateways) {
			out = append(out, regions.PutCell(c))
		}
	})
	return out
}
