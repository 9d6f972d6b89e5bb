package regions

import (
	"context"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"parley/internal/problem"
	"parley/internal/topology"
)

// wanted is what etcd should hold: routes in the compact form, in which a route
// that etcd has gets round 1, and the rest by key.
type wanted struct {
	routes *routes
	small  map[string]Change
}

func wantedOf(s Snapshot) (*wanted, error) {
	w := &wanted{routes: newRoutes(), small: map[string]Change{}}
	if s.Routes != nil {
		for r := range s.Routes {
			if err := PutRoute(r).err; err != nil {
				return nil, err
			}
			w.routes.published(r, 0)
		}
	}
	changes := []Change{PutEdges(s.Edges)}
	for _, c := range s.Cells {
		changes = append(changes, PutCell(c))
	}
	for _, k := range s.Keys {
		changes = append(changes, PutKey(k))
	}
	for _, c := range changes {
		if c.err != nil {
			return nil, c.err
		}
		w.small[c.key] = c
	}
	return w, nil
}

// reconcile reads what etcd has, page by page, and hands the differences to w.
func (p *Publisher) reconcile(w *syncWriter, want *wanted) error {
	// Each page as of its own moment: nobody else writes these keys by now.
	from := prefix
	for {
		resp, err := p.readPage(w.ctx, from)
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			w.compare(want, strings.TrimPrefix(string(kv.Key), prefix), string(kv.Value))
		}
		if !resp.More || len(resp.Kvs) == 0 {
			break
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	for _, c := range want.small {
		w.add(c)
	}
	for r := range want.routes.unseen(1) {
		w.add(PutRoute(r))
	}
	w.flush()
	return nil
}

func (p *Publisher) readPage(ctx context.Context, from string) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, syncCall)
	defer cancel()
	resp, err := p.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(p.page)))
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "region %s's etcd cannot be read", p.region)
	}
	return resp, nil
}

// syncWriter gathers the differences into transactions. All are of one index, so
// their order does not matter and several may be under way.
type syncWriter struct {
	publisher *Publisher
	index     uint64
	group     *errgroup.Group
	ctx       context.Context //nolint:containedctx // the group's, for its writes
	batch     []Change
	report    SyncReport
}

// compare looks at one entry that etcd has.
func (w *syncWriter) compare(want *wanted, key, value string) {
	if key == keyMeta || strings.HasPrefix(key, underLive) {
		return
	}
	if ws, ok := strings.CutPrefix(key, underRoutes); ok {
		r, ok := want.routes.get(topology.WorkspaceID(ws))
		switch {
		case !ok:
			w.add(Change{key: key, delete: true})
		case routeText(r) == value:
			want.routes.published(r, 1)
			w.report.Same++
		}
		return
	}
	c, ok := want.small[key]
	switch {
	case !ok:
		w.add(Change{key: key, delete: true})
	case c.value == value:
		delete(want.small, key)
		w.report.Same++
	}
}

func (w *syncWriter) add(c Change) {
	if c.delete {
		w.report.Deletes++
	} else {
		w.report.Puts++
	}
	w.batch = append(w.batch, c)
	if len(w.batch) == txnOps {
		w.flush()
	}
}

func (w *syncWriter) flush() {
	if len(w.batch) == 0 {
		return
	}
	batch := w.batch
	w.batch = nil
	w.group.Go(func() error { return w.publisher.write(w.ctx, w.index, nil, batch) })
}
