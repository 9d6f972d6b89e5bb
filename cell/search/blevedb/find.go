package blevedb

import (
	"context"
	"slices"

	bleve "github.com/blevesearch/bleve/v2/search"
	"github.com/blevesearch/bleve/v2/search/searcher"
	index "github.com/blevesearch/bleve_index_api"

	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Find implements search.Index. Newest first, it goes back year by year until it
// has enough; by relevance it goes through all years.
func (d *DB) Find(ctx context.Context, q search.Query) ([]search.Hit, error) {
	years, err := d.years(q.Place)
	if err != nil || q.Limit <= 0 {
		return nil, err
	}
	best := top{order: q.Order, limit: q.Limit}
	for _, year := range years {
		if q.Order == search.Newest && len(best.hits) == q.Limit {
			break
		}
		if !q.Reaches(year) {
			continue
		}
		if err := d.findIn(ctx, key{q.Place, year}, q, &best); err != nil {
			return nil, err
		}
	}
	return best.hits, nil
}

func (d *DB) findIn(ctx context.Context, k key, q search.Query, best *top) error {
	want := newWanted(q)
	return d.with(k, false, func(p *part) error {
		err := p.each(ctx, q, func(f *facts, score float64) {
			if want.has(f, score) {
				best.add(search.Hit{Point: f.point(score), Channel: f.channel, Seq: f.seq, Root: f.root})
			}
		})
		if ctx.Err() != nil {
			return problem.Wrap(ctx.Err(), problem.Unavailable, "the search took too long")
		}
		if err != nil {
			return problem.Wrap(err, problem.Unavailable, "the search index can't be read")
		}
		return nil
	})
}

// wanted is what a query asks for beside its phrases.
type wanted struct {
	search.Query
	mine, channels map[topology.ChannelID]bool
}

func newWanted(q search.Query) wanted {
	return wanted{q, set(q.Mine), set(q.Channels)}
}

func set(chs []topology.ChannelID) map[topology.ChannelID]bool {
	m := make(map[topology.ChannelID]bool, len(chs))
	for _, ch := range chs {
		m[ch] = true
	}
	return m
}

func (w *wanted) has(f *facts, score float64) bool {
	switch {
	case f.gone, f.ts < w.From, w.To != 0 && f.ts >= w.To:
		return false
	case f.private && !w.Everything && !w.mine[f.channel]:
		return false
	case len(w.channels) > 0 && !w.channels[f.channel]:
		return false
	default:
		return w.After == nil || w.Order.Less(*w.After, f.point(score))
	}
}

// top keeps the first hits in an order.
type top struct {
	order search.Order
	limit int
	hits  []search.Hit
}

func (t *top) add(h search.Hit) {
	at, _ := slices.BinarySearchFunc(t.hits, h, func(a, b search.Hit) int {
		if t.order.Less(a.Point, b.Point) {
			return -1
		}
		return 1
	})
	if at == t.limit {
		return
	}
	if len(t.hits) == t.limit {
		t.hits = t.hits[:t.limit-1]
	}
	t.hits = slices.Insert(t.hits, at, h)
}

// checkEvery is how many documents are looked at between looks at the clock.
const checkEvery = 512

// each hands over every document with the query's phrases and authors.
func (p *part) each(ctx context.Context, q search.Query, take func(*facts, float64)) (err error) {
	r, err := p.engine.Reader()
	if err != nil {
		return err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	look, err := newLookup(r)
	if err != nil {
		return err
	}
	ctx = context.WithValue(ctx, bleve.GetScoringModelCallbackKey, bleve.GetScoringModelCallbackFn(func() string { return index.BM25Scoring }))
	b := builder{ctx: ctx, r: r}
	if q.Order != search.Relevant || len(q.All) == 0 { // without words all are equal
		b.opts.Score = "none"
	}
	s, err := b.query(q)
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	state := &bleve.SearchContext{DocumentMatchPool: bleve.NewDocumentMatchPool(s.DocumentMatchPoolSize()+1, 0), IndexReader: r}
	for n := 0; ; n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		m, err := s.Next(state)
		if err != nil || m == nil {
			return err
		}
		f, err := look.of(m.IndexInternalID)
		if err != nil {
			return err
		}
		take(&f, m.Score)
		state.DocumentMatchPool.Put(m)
	}
}

// builder makes searchers. The first error stays.
type builder struct {
	ctx  context.Context //nolint:containedctx // it lives as long as one call
	r    index.IndexReader
	opts bleve.SearcherOptions
	err  error
}

// channelsTerms is up to how many channels are looked up as terms; more are sorted
// out hit by hit.
const channelsTerms = 64

func (b *builder) query(q search.Query) (bleve.Searcher, error) { //nolint:ireturn // as keep
	var must, not []bleve.Searcher
	for _, p := range q.All {
		must = append(must, b.phrase(p))
	}
	if len(q.Authors) > 0 {
		must = append(must, b.anyOf(fieldAuthor, texts(q.Authors), 0))
	}
	if n := len(q.Channels); n > 0 && n <= channelsTerms {
		must = append(must, b.anyOf(fieldChannel, texts(q.Channels), 0))
	}
	for _, p := range q.None {
		not = append(not, b.phrase(p))
	}
	if len(must) == 0 {
		must = append(must, b.keep(searcher.NewMatchAllSearcher(b.ctx, b.r, 0, b.opts)))
	}
	if b.err != nil {
		return nil, b.err
	}
	all := b.keep(searcher.NewConjunctionSearcher(b.ctx, b.r, must, b.opts))
	if len(not) == 0 || b.err != nil {
		return all, b.err
	}
	none := b.keep(searcher.NewDisjunctionSearcher(b.ctx, b.r, not, 1, b.opts))
	if b.err != nil {
		return nil, b.err
	}
	return searcher.NewBooleanSearcher(b.ctx, b.r, all, nil, none, b.opts)
}

func texts[S ~string](in []S) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

// keep notes the first error.
func (b *builder) keep(s bleve.Searcher, err error) bleve.Searcher { //nolint:ireturn // Bleve has no other type for it
	if b.err == nil {
		b.err = err
	}
	return s
}

func (b *builder) phrase(p search.Phrase) bleve.Searcher { //nolint:ireturn // as keep
	var either []bleve.Searcher
	switch len(p.Words) {
	case 0:
	case 1:
		either = append(either, b.keep(searcher.NewTermSearcher(b.ctx, b.r, p.Words[0], fieldWords, 1, b.opts)))
	default:
		either = append(either, b.keep(searcher.NewPhraseSearcher(b.ctx, b.r, p.Words, 0, false, fieldWords, 1, b.opts)))
	}
	if len(p.Any) > 0 {
		either = append(either, b.anyOf(fieldExtras, p.Any, 1))
	}
	if len(either) == 1 || b.err != nil {
		return either[0]
	}
	return b.keep(searcher.NewDisjunctionSearcher(b.ctx, b.r, either, 1, b.opts))
}

func (b *builder) anyOf(field string, terms []string, boost float64) bleve.Searcher { //nolint:ireturn // as keep
	var some []bleve.Searcher
	for _, t := range terms {
		some = append(some, b.keep(searcher.NewTermSearcher(b.ctx, b.r, t, field, boost, b.opts)))
	}
	if b.err != nil {
		return nil
	}
	return b.keep(searcher.NewDisjunctionSearcher(b.ctx, b.r, some, 1, b.opts))
}
