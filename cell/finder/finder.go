// Package finder answers a person's search. It asks the index, reads every message
// that the index proposes afresh, and shows those that still match and that the
// person may see now. When the index doesn't answer, it looks through the newest
// messages of the person's channels itself, and says so.
package finder

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/history"
	"parley/cell/search"
	"parley/cell/search/text"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Directory is what a search looks up.
type Directory interface {
	directory.Rooms
	ChannelByName(ctx context.Context, p topology.Place, name string) (directory.Channel, error)
	ListChannels(ctx context.Context, p topology.Place, u topology.UserID, admin bool, after string, limit int) ([]directory.Channel, error)
	ChannelsOf(ctx context.Context, p topology.Place, u topology.UserID) ([]directory.Membership, error)
	UsersByName(ctx context.Context, p topology.Place, names []string) (map[string]topology.UserID, error)
}

// Messages reads messages and what changed of late; channel.Servers is it.
type Messages interface {
	Get(ctx context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error)
	Thread(ctx context.Context, ch topology.ChannelRef, root topology.MessageID, after topology.Seq, limit int) ([]history.Message, error)
	Heads(ctx context.Context, chs []topology.ChannelRef) ([]channel.Head, error)
	Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error)
}

// Config is a Finder's settings.
type Config struct {
	// IndexMax is how long the index may take, over all rounds of a search: 0 is 700
	// ms, with which a degraded answer comes within a second. Less calls a slow index
	// away.
	IndexMax time.Duration
	// WindowMax is how long a degraded answer may take: 0 is 250 ms. It shows what
	// was found by then.
	WindowMax time.Duration
}

const (
	indexNormal  = 700 * time.Millisecond
	windowNormal = 250 * time.Millisecond
	// roundsMax bounds how often the index is asked on for one page: what it proposed
	// may all have been edited or taken away.
	roundsMax = 5
	// relevantMax is how far one can page by relevance: nobody reads on from there.
	relevantMax = 1_000
	// readers is how many messages of a page are read at once.
	readers = 8
)

// Deps are what a Finder stands on.
type Deps struct {
	Index     search.Index
	Directory Directory
	Messages  Messages
	Now       func() time.Time
	Log       *slog.Logger
}

// Finder answers searches. It may be used from any goroutine.
type Finder struct {
	Deps
	cfg     Config
	breaker breaker
}

// New makes a Finder. It starts nothing.
func New(cfg Config, d Deps) *Finder {
	if cfg.IndexMax <= 0 {
		cfg.IndexMax = indexNormal
	}
	if cfg.WindowMax <= 0 {
		cfg.WindowMax = windowNormal
	}
	return &Finder{Deps: d, cfg: cfg}
}

// Asker is who searches.
type Asker struct {
	topology.Place
	User  topology.UserID // "" for a tool
	Admin bool
}

// Request is a search as it was asked for.
type Request struct {
	Text    string
	Channel topology.ChannelID // "" = all
	Before  string             // a message id or a moment; "" = now
	Order   search.Order
	Limit   int
	Cursor  string // of the page before; "" = the first page
}

// Found is a message, and where in its text the query's words are.
type Found struct {
	Channel topology.ChannelID
	history.Message
	Where []search.Span
	at    search.Point
	rank  int // among all that the index proposes
}

// Page is an answer.
type Page struct {
	Found []Found
	Next  string // cursor of the next page; "" = there is none
	// Degraded says that the index was away: only the newest messages of the asker's
	// channels were looked at, back to CoveredFrom (µs; 0 = all of them).
	Degraded    bool
	CoveredFrom int64
}

// Find answers a search.
func (f *Finder) Find(ctx context.Context, a Asker, r Request) (Page, error) {
	p, err := f.plan(ctx, a, r)
	if err != nil {
		return Page{}, err
	}
	if f.breaker.allows(f.Now()) {
		page, err := f.indexed(ctx, p)
		failed := isIndex(err)
		f.breaker.note(f.Now(), failed)
		if !failed || ctx.Err() != nil {
			return page, err
		}
		f.Log.Warn("the search index is away; answering from the newest messages", "workspace", a.Workspace, "err", err)
	}
	return f.recent(ctx, p)
}

// indexError tells a failure of the index from one of the message store.
type indexError struct{ error }

func (e indexError) Unwrap() error { return e.error }

func isIndex(err error) bool {
	_, ok := err.(indexError) //nolint:errorlint // it is made here and never wrapped
	return ok
}

// indexed goes through what the index proposes until a page is full.
func (f *Finder) indexed(ctx context.Context, p *plan) (Page, error) {
	asking, cancel := context.WithTimeout(ctx, f.cfg.IndexMax)
	defer cancel()
	out := Page{}
	for range roundsMax {
		base := p.skip
		hits, more, err := f.propose(asking, p)
		if err != nil {
			return Page{}, indexError{err}
		}
		found, err := f.verify(ctx, p, hits)
		if err != nil {
			return Page{}, err
		}
		for _, m := range found {
			if len(out.Found) == p.limit {
				out.Next = p.cursor()
				return out, nil
			}
			out.Found = append(out.Found, m)
			p.passed(m.at, m.rank)
		}
		if !more {
			return out, nil
		}
		p.passed(hits[len(hits)-1].Point, base+len(hits)-1)
	}
	out.Next = p.cursor()
	return out, nil
}

// propose asks the index for what comes after where the plan is.
func (f *Finder) propose(ctx context.Context, p *plan) (hits []search.Hit, more bool, err error) {
	q, skip := p.query, 0
	q.Limit = p.limit + 1
	if q.Order == search.Relevant {
		skip = p.skip
		q.After, q.Limit = nil, min(skip+q.Limit, relevantMax)
	}
	hits, err = f.Index.Find(ctx, q)
	return hits[min(skip, len(hits)):], len(hits) == q.Limit && q.Limit < relevantMax, err
}

// verify reads proposed messages and keeps those that match and may be seen.
func (f *Finder) verify(ctx context.Context, p *plan, hits []search.Hit) ([]Found, error) {
	all, keep := make([]Found, len(hits)), make([]bool, len(hits))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, h := range hits {
		g.Go(func() (err error) {
			all[i], keep[i], err = f.read(ctx, p, h)
			all[i].rank = p.skip + i
			if problem.Is(err, problem.NotFound) {
				err = nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := all[:0]
	for i := range all {
		if keep[i] {
			out = append(out, all[i])
		}
	}
	return out, nil
}

// read is one proposed message as it is now.
func (f *Finder) read(ctx context.Context, p *plan, h search.Hit) (Found, bool, error) {
	row, err := directory.Readable(ctx, f.Directory, p.asker.Place, p.asker.User, p.asker.Admin, h.Channel)
	if err != nil || row.Importing {
		return Found{}, false, err
	}
	m, err := f.message(ctx, topology.ChannelRef{Place: p.asker.Place, Channel: h.Channel}, h)
	if err != nil || m.ID != h.ID || !p.allows(h.Channel, &m.Change) {
		return Found{}, false, err
	}
	where, ok := p.query.Match(text.Analyse(m.Text))
	return Found{Channel: h.Channel, Message: m, Where: where, at: h.Point}, ok, nil
}

func (f *Finder) message(ctx context.Context, ch topology.ChannelRef, h search.Hit) (history.Message, error) {
	if h.Root == "" {
		return f.Messages.Get(ctx, ch, h.ID)
	}
	if h.Seq == 0 {
		return history.Message{}, problem.New(problem.NotFound, "a reply without a number")
	}
	ms, err := f.Messages.Thread(ctx, ch, h.Root, h.Seq-1, 1)
	if err != nil || len(ms) == 0 {
		return history.Message{}, err
	}
	return ms[0], nil
}
