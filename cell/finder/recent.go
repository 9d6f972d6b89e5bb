package finder

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"parley/cell/change"
	"parley/cell/search"
	"parley/cell/search/text"
	"parley/internal/topology"
)

// Bounds of a degraded answer: 10,000 messages at most are looked at, which takes
// some 100 ms.
const (
	recentChannels = 50  // the most recently active ones
	recentChanges  = 200 // of each
	headsMax       = 500 // channels that are asked when they were last active
	headsAtOnce    = 25
)

// recent looks through the newest changes of the asker's channels, newest first in
// any order asked for. By relevance there is one page: the index will be back.
func (f *Finder) recent(ctx context.Context, p *plan) (Page, error) {
	p.query.Order = search.Newest
	chs, err := f.recentlyActive(ctx, p)
	if err != nil {
		return Page{}, err
	}
	looking, cancel := context.WithTimeout(ctx, f.cfg.WindowMax)
	defer cancel()
	w := window{p: p}
	g, looking := errgroup.WithContext(looking)
	g.SetLimit(readers)
	for _, ch := range chs {
		g.Go(func() error {
			w.add(ch, f.newest(looking, ch))
			return nil // what can't be read now is left out
		})
	}
	_ = g.Wait() // never fails
	slices.SortFunc(w.hits, func(a, b search.Hit) int {
		return cmp.Or(cmp.Compare(b.TS, a.TS), cmp.Compare(b.ID, a.ID))
	})
	out := Page{Degraded: true, CoveredFrom: w.from}
	more := len(w.hits) > p.limit
	if out.Found, err = f.verify(ctx, p, w.hits[:min(len(w.hits), p.limit)]); err != nil {
		return Page{}, err
	}
	if more && p.asOf == 0 {
		p.passed(w.hits[p.limit-1].Point, 0)
		out.Next = p.cursor()
	}
	return out, nil
}

// active is a channel and where it is.
type active struct {
	ref topology.ChannelRef
	rev topology.Rev
	ts  int64
}

// recentlyActive are those of the channels that the query is about, or else of the
// asker's, in which something happened last.
func (f *Finder) recentlyActive(ctx context.Context, p *plan) ([]active, error) {
	ids := p.query.Channels
	if len(ids) == 0 {
		ids = p.query.Mine
	}
	if len(ids) == 0 && p.asker.Admin {
		rows, err := f.Directory.ListChannels(ctx, p.asker.Place, p.asker.User, true, "", headsMax)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			ids = append(ids, row.ID)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.WindowMax)
	defer cancel()
	var mu sync.Mutex
	var found []active
	var g errgroup.Group
	g.SetLimit(readers)
	for some := range slices.Chunk(ids[:min(len(ids), headsMax)], headsAtOnce) {
		g.Go(func() error {
			refs := make([]topology.ChannelRef, len(some))
			for i, id := range some {
				refs[i] = topology.ChannelRef{Place: p.asker.Place, Channel: id}
			}
			heads, err := f.Messages.Heads(ctx, refs)
			if err != nil {
				return nil // what can't be asked now is left out
			}
			mu.Lock()
			defer mu.Unlock()
			for i, h := range heads {
				found = append(found, active{refs[i], h.Rev, h.TS})
			}
			return nil
		})
	}
	_ = g.Wait() // never fails
	slices.SortFunc(found, func(a, b active) int { return cmp.Compare(b.ts, a.ts) })
	return found[:min(len(found), recentChannels)], nil
}

// newest are the last changes of a channel, rising.
func (f *Finder) newest(ctx context.Context, ch active) (out []change.Change) {
	after := ch.rev - min(ch.rev, recentChanges)
	for after < ch.rev {
		es, err := f.Messages.Changes(ctx, ch.ref, after, int(ch.rev-after)) //nolint:gosec // at most recentChanges
		if err != nil || len(es) == 0 {
			return nil // a gap would be one that nobody sees
		}
		for i := range es {
			out = append(out, es[i].Change)
		}
		after = es[len(es)-1].Rev
	}
	return out
}

// window gathers what matches.
type window struct {
	p    *plan
	mu   sync.Mutex
	hits []search.Hit
	from int64
}

func (w *window) add(ch active, cs []change.Change) {
	var hits []search.Hit
	for i := range cs {
		c := &cs[i]
		if c.Kind != change.Message && c.Kind != change.Reply || !w.p.allows(ch.ref.Channel, c) {
			continue
		}
		at := search.Point{TS: c.TS, ID: c.ID}
		if w.p.query.After != nil && !search.Newest.Less(*w.p.query.After, at) {
			continue
		}
		if _, ok := w.p.query.Match(text.Analyse(c.Text)); ok {
			hits = append(hits, search.Hit{Point: at, Channel: ch.ref.Channel, Seq: c.Seq, Root: c.Root})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hits = append(w.hits, hits...)
	if len(cs) > 0 && cs[0].Rev > 1 {
		w.from = max(w.from, cs[0].TS)
	}
}
