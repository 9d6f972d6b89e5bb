package finder

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"parley/cell/change"
	"parley/cell/directory"
	"parley/cell/search"
	"parley/cell/search/query"
	"parley/cell/search/text"
	"parley/internal/problem"
	"parley/internal/topology"
)

// plan is a search with its names looked up.
type plan struct {
	asker Asker
	query search.Query
	until topology.MessageID // only older ones; "" = no bound
	limit int
	sum   uint32 // of the request: a cursor is for one search
	asOf  int64  // by relevance: what is newer is of no page
	skip  int    // by relevance: the hits that are on pages before
}

func (f *Finder) plan(ctx context.Context, a Asker, r Request) (*plan, error) {
	parsed, err := query.Parse(r.Text)
	if err != nil {
		return nil, err
	}
	p := &plan{asker: a, limit: r.Limit, sum: sumOf(a, r)}
	p.query = search.Query{Place: a.Place, All: parsed.All, None: parsed.None, Order: r.Order, Everything: a.Admin}
	if !parsed.After.IsZero() {
		p.query.From = parsed.After.UnixMicro()
	}
	if !parsed.Before.IsZero() {
		p.to(parsed.Before.UnixMicro())
	}
	if err := p.before(r.Before); err != nil {
		return nil, err
	}
	if p.query.Authors, err = f.authors(ctx, a, parsed.From); err != nil {
		return nil, err
	}
	if p.query.Channels, err = f.channels(ctx, a, r.Channel, parsed.In); err != nil {
		return nil, err
	}
	if err := f.mentioned(ctx, a, p.query.All); err != nil {
		return nil, err
	}
	if a.User != "" && !a.Admin {
		mine, err := f.Directory.ChannelsOf(ctx, a.Place, a.User)
		if err != nil {
			return nil, err
		}
		for _, m := range mine {
			p.query.Mine = append(p.query.Mine, m.Channel)
		}
	}
	return p, p.resume(r.Cursor, f.Now().UnixMicro())
}

// to bounds the search from above.
func (p *plan) to(us int64) {
	if p.query.To == 0 || us < p.query.To {
		p.query.To = us
	}
}

// before reads the request's before: a message's id holds its time to the ms.
func (p *plan) before(s string) error {
	if s == "" {
		return nil
	}
	if id, err := change.ParseID(topology.MessageID(s)); err == nil {
		p.until = topology.MessageID(s)
		p.to((id.MS + 1) * 1000)
		return nil
	}
	first, _, ok := query.Moment(s)
	if !ok {
		return problem.Field("before", "must be a message_id, or a time: %s", query.MomentForms)
	}
	p.to(first.UnixMicro())
	return nil
}

// allows reports whether a message, as it is now, is among those that the query is
// about, its text aside.
func (p *plan) allows(ch topology.ChannelID, c *change.Change) bool {
	q := &p.query
	switch {
	case c.TS < q.From, q.To != 0 && c.TS >= q.To, p.until != "" && c.ID >= p.until:
		return false
	case len(q.Authors) > 0 && !slices.Contains(q.Authors, c.Author):
		return false
	default:
		return len(q.Channels) == 0 || slices.Contains(q.Channels, ch)
	}
}

// authors looks up from:.
func (f *Finder) authors(ctx context.Context, a Asker, names []string) ([]topology.UserID, error) {
	if len(names) == 0 {
		return nil, nil
	}
	found, err := f.Directory.UsersByName(ctx, a.Place, spellings(names))
	if err != nil {
		return nil, err
	}
	var out []topology.UserID
	for _, n := range names {
		u, ok := found[n]
		if !ok {
			u, ok = found[strings.ToLower(n)]
		}
		if n == "me" && a.User != "" {
			u, ok = a.User, true
		}
		if !ok {
			return nil, problem.Field("q", "from:%s: nobody here has that name or id", n)
		}
		out = append(out, u)
	}
	return out, nil
}

func spellings(names []string) (out []string) {
	for _, n := range names {
		out = append(out, n, strings.ToLower(n))
	}
	return out
}

// channels looks up the request's channel and in:. A channel that the asker may
// not see is as one that does not exist.
func (f *Finder) channels(ctx context.Context, a Asker, only topology.ChannelID, names []string) ([]topology.ChannelID, error) {
	var out []topology.ChannelID
	for _, n := range names {
		id := topology.ChannelID(n)
		row, err := f.Directory.ChannelByName(ctx, a.Place, strings.ToLower(n))
		if err == nil {
			id = row.ID
		} else if !problem.Is(err, problem.NotFound) {
			return nil, err
		}
		if err := f.readable(ctx, a, id); problem.Is(err, problem.NotFound) {
			return nil, problem.Field("q", "in:%s: there is no channel of that name or id that you may see", n)
		} else if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	if only == "" {
		return out, nil
	}
	if err := f.readable(ctx, a, only); err != nil {
		return nil, err
	}
	if len(out) > 0 && !slices.Contains(out, only) {
		return nil, problem.Field("q", "in: names other channels than channel_id")
	}
	return []topology.ChannelID{only}, nil
}

func (f *Finder) readable(ctx context.Context, a Asker, ch topology.ChannelID) error {
	row, err := directory.Readable(ctx, f.Directory, a.Place, a.User, a.Admin, ch)
	if err == nil && row.Importing {
		return problem.New(problem.NotFound, "no such channel")
	}
	return err
}

// mentioned lets @ann find <@U1…>, too, if that is ann.
func (f *Finder) mentioned(ctx context.Context, a Asker, phrases []search.Phrase) error {
	var names []string
	for _, p := range phrases {
		for _, t := range p.Any {
			if n, ok := strings.CutPrefix(t, "@"); ok && n != "" {
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	found, err := f.Directory.UsersByName(ctx, a.Place, names)
	if err != nil {
		return err
	}
	for i := range phrases {
		var more []string
		for _, t := range phrases[i].Any {
			if u, ok := found[strings.TrimPrefix(t, "@")]; ok && t[0] == '@' {
				more = append(more, "@"+text.Fold(string(u)))
			}
		}
		phrases[i].Any = slices.Concat(phrases[i].Any, more)
	}
	return nil
}

// cursor is where a page ended. By relevance it is a number of hits: scores change
// with every message that is posted, their order hardly.
type cursor struct {
	Sum  uint32             `json:"s"`
	TS   int64              `json:"t,omitempty"`
	ID   topology.MessageID `json:"i,omitempty"`
	Skip int                `json:"n,omitempty"`
	AsOf int64              `json:"a,omitempty"`
}

// passed notes that the page has come as far as a hit.
func (p *plan) passed(at search.Point, rank int) {
	p.query.After, p.skip = &at, rank+1
	if p.query.Order == search.Relevant {
		p.query.After = nil
	}
}

// cursor is where the plan is.
func (p *plan) cursor() string {
	c := cursor{Sum: p.sum, AsOf: p.asOf}
	if at := p.query.After; at != nil {
		c.TS, c.ID = at.TS, at.ID
	} else {
		c.Skip = p.skip
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "" // numbers and an id are always JSON
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// resume goes on where a page ended. By relevance, what was posted since the first
// page is left out, or it would move what is on the next.
func (p *plan) resume(s string, now int64) error {
	if p.query.Order == search.Relevant {
		p.asOf = now + 1
	}
	if s != "" {
		b, err := base64.RawURLEncoding.DecodeString(s)
		var c cursor
		if err != nil || json.Unmarshal(b, &c) != nil || c.Sum != p.sum || c.AsOf > p.asOf || c.Skip < 0 {
			return problem.Field("cursor", "is not the next_cursor of this search")
		}
		if p.asOf = c.AsOf; c.ID != "" {
			p.query.After = &search.Point{TS: c.TS, ID: c.ID}
		}
		p.skip = min(c.Skip, relevantMax)
	}
	if p.asOf != 0 {
		p.to(p.asOf)
	}
	return nil
}

func sumOf(a Asker, r Request) uint32 {
	h := fnv.New32a()
	for _, s := range []string{string(a.User), r.Text, string(r.Channel), r.Before, strconv.Itoa(int(r.Order))} {
		_, _ = h.Write([]byte(s)) // a hash's Write never fails
		_, _ = h.Write([]byte{0})
	}
	return h.Sum32()
}
