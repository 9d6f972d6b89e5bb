package gateway

import (
	"context"
	"sync"

	"parley/internal/topology"
)

// readsMax bounds the reads of the log that are under way.
const readsMax = 64

// read reads events after a rev from the log.
func (g *Gateway) read(ctx context.Context, ref topology.ChannelRef, after topology.Rev) ([]event, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	select {
	case g.reading <- struct{}{}:
		defer func() { <-g.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	es, err := g.deps.Servers.Changes(ctx, ref, after, pageSize)
	if err != nil {
		return nil, err
	}
	out := make([]event, len(es))
	for i, e := range es {
		out[i] = eventOf(e)
	}
	return out, nil
}

// pages shares reads of the log: the sessions of a gateway that died are mostly at
// the same revs, and read the same pages. What is confirmed never changes, so
// a page is good as long as it is kept.
type pages struct {
	bytesMax int

	mu    sync.Mutex
	kept  map[pageKey]*page
	order []pageKey // of those that are read, oldest first
	bytes int
}

type pageKey struct {
	ref   topology.ChannelRef
	after topology.Rev
}

type page struct {
	done   chan struct{} // closed when what follows is set
	events []event
	err    error
	bytes  int
}

func (p *pages) init(bytesMax int) {
	p.bytesMax = bytesMax
	p.kept = map[pageKey]*page{}
}

// page is the events after a rev, read once for all who ask meanwhile or soon
// after. It is empty only at the head.
func (g *Gateway) page(ctx context.Context, ref topology.ChannelRef, after topology.Rev) ([]event, error) {
	key := pageKey{ref, after}
	ps := &g.pages
	ps.mu.Lock()
	pg := ps.kept[key]
	if pg == nil {
		pg = &page{done: make(chan struct{})}
		ps.kept[key] = pg
		g.spawn(func(ctx context.Context) {
			pg.events, pg.err = g.read(ctx, ref, after)
			ps.keep(key, pg)
			close(pg.done)
		})
	}
	ps.mu.Unlock()
	select {
	case <-pg.done:
		return pg.events, pg.err
	case <-ctx.Done(): // of a session's: it ends before the gateway does
		return nil, ctx.Err()
	}
}

// keep keeps a page that was read, and makes room for it.
func (p *pages) keep(key pageKey, pg *page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pg.err != nil || len(pg.events) == 0 {
		delete(p.kept, key)
		return
	}
	const overhead = 200 // of an event, besides its payload
	for _, e := range pg.events {
		pg.bytes += overhead + len(e.payload)
	}
	p.bytes += pg.bytes
	p.order = append(p.order, key)
	for p.bytes > p.bytesMax && len(p.order) > 0 {
		old := p.order[0]
		p.order = p.order[1:]
		p.bytes -= p.kept[old].bytes
		delete(p.kept, old)
	}
}
