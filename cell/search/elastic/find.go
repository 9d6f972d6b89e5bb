package elastic

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
)

// sizeMax is what Elasticsearch gives at most in one answer.
const sizeMax = 10_000

// found is an answer to a search.
type found struct {
	TimedOut bool `json:"timed_out"`
	Hits     struct {
		Hits []hit `json:"hits"`
	} `json:"hits"`
}

type hit struct {
	Index   string            `json:"_index"`
	DocID   string            `json:"_id"`
	Version uint64            `json:"_version"`
	Routing string            `json:"_routing"`
	Sort    []json.RawMessage `json:"sort"`
	Fields  struct {
		Channel []topology.ChannelID `json:"channel"`
		Root    []topology.MessageID `json:"root"`
		Seq     []topology.Seq       `json:"seq"`
	} `json:"fields"`
}

var errHit = errors.New("a hit lacks what was asked for")

// Find implements search.Index.
func (d *DB) Find(ctx context.Context, q search.Query) ([]search.Hit, error) {
	if q.Limit <= 0 {
		return nil, nil
	}
	sort := []object{{"ts": "desc"}, {"id": "desc"}}
	if q.Order == search.Relevant {
		sort = append([]object{{"_score": "desc"}}, sort...)
	}
	body := object{
		"size": min(q.Limit, sizeMax), "track_total_hits": false, "query": queryOf(q), "sort": sort,
		"docvalue_fields": []string{"channel", "root", "seq"},
	}
	if q.After != nil && q.Order == search.Newest {
		body["search_after"] = []any{q.After.TS, string(q.After.ID)}
	}
	got, err := d.search(ctx, q.Place, body, "searching")
	if err != nil {
		return nil, err
	}
	hits := make([]search.Hit, len(got))
	for i := range got {
		if hits[i], err = got[i].hit(q.Order); err != nil {
			return nil, problem.Wrap(err, problem.Unavailable, "the search index gives no sense; try again")
		}
	}
	return hits, nil
}

func (d *DB) search(ctx context.Context, p topology.Place, body object, doing string) ([]hit, error) {
	yes, no := true, false
	var got found
	err := d.do(ctx, esapi.SearchRequest{
		Index: []string{d.cfg.Prefix}, Routing: []string{string(p.Workspace)}, Body: encoded(body),
		IgnoreUnavailable: &yes, AllowNoIndices: &yes, AllowPartialSearchResults: &no,
	}, &got)
	if err != nil {
		return nil, failed(err, doing)
	}
	if got.TimedOut {
		return nil, problem.New(problem.Unavailable, "the search took too long; try again")
	}
	return got.Hits.Hits, nil
}

func (h *hit) hit(order search.Order) (out search.Hit, err error) {
	want := []any{&out.TS, &out.ID}
	if order == search.Relevant {
		want = append([]any{&out.Score}, want...)
	}
	if len(h.Sort) != len(want) || len(h.Fields.Channel) != 1 {
		return out, errHit
	}
	for i, to := range want {
		if err := json.Unmarshal(h.Sort[i], to); err != nil {
			return out, err
		}
	}
	out.Channel = h.Fields.Channel[0]
	if len(h.Fields.Root) > 0 {
		out.Root = h.Fields.Root[0]
	}
	if len(h.Fields.Seq) > 0 {
		out.Seq = h.Fields.Seq[0]
	}
	return out, nil
}

// queryOf is a query as Elasticsearch has it. Only the phrases count for the
// score.
func queryOf(q search.Query) object {
	var must []object
	filter := []object{term("place", placeOf(q.Place))}
	not := []object{term("gone", true)}
	for _, p := range q.All {
		must = append(must, phrase(p))
	}
	for _, p := range q.None {
		not = append(not, phrase(p))
	}
	if len(q.Authors) > 0 {
		filter = append(filter, object{"terms": object{"author": q.Authors}})
	}
	if n := len(q.Channels); n > 0 {
		filter = append(filter, object{"terms": object{"channel": q.Channels[:min(n, search.ChannelsMax)]}})
	}
	if !q.Everything {
		mine := q.Mine[:min(len(q.Mine), search.ChannelsMax)]
		filter = append(filter, anyOf(term("private", false), object{"terms": object{"channel": append([]topology.ChannelID{}, mine...)}}))
	}
	within := object{"gte": q.From}
	if q.To != 0 {
		within["lt"] = q.To
	}
	if q.After != nil && q.Order == search.Newest {
		within["lte"] = q.After.TS // spares the indexes of later quarters
	}
	filter = append(filter, object{"range": object{"ts": within}})
	return object{"bool": object{"must": must, "filter": filter, "must_not": not}}
}

func term(field string, value any) object { return object{"term": object{field: value}} }

func anyOf(either ...object) object {
	return object{"bool": object{"should": either, "minimum_should_match": 1}}
}

func phrase(p search.Phrase) object {
	var either []object
	switch len(p.Words) {
	case 0:
	case 1:
		either = append(either, term("words", p.Words[0]))
	default:
		either = append(either, object{"match_phrase": object{"words": strings.Join(p.Words, " ")}})
	}
	for _, t := range p.Any {
		either = append(either, term("extras", t))
	}
	if len(either) == 1 {
		return either[0]
	}
	return anyOf(either...)
}

// sweepPage is how many documents are looked for at a time.
const sweepPage = 1_000

// Sweep implements search.Index. What is put between its being found and its being
// deleted stays if its version is higher.
func (d *DB) Sweep(ctx context.Context, p topology.Place, before time.Time, limit int) (n int, err error) {
	yes := true
	err = d.do(ctx, esapi.IndicesRefreshRequest{Index: []string{d.cfg.Prefix}, IgnoreUnavailable: &yes, AllowNoIndices: &yes}, nil)
	if err != nil {
		return 0, failed(err, "refreshing the indexes")
	}
	body := object{
		"track_total_hits": false, "version": true, "sort": []object{{"ts": "desc"}, {"id": "desc"}},
		"query": object{"bool": object{"filter": []object{
			term("place", placeOf(p)), {"range": object{"stamp": object{"lt": before.UnixMilli()}}},
		}}},
	}
	for n < limit {
		page := min(limit-n, sweepPage)
		body["size"] = page
		hits, err := d.search(ctx, p, body, "looking for what to sweep")
		if err != nil || len(hits) == 0 {
			return n, err
		}
		var b bulk
		for i := range hits {
			a := action{Index: hits[i].Index, ID: hits[i].DocID, Routing: string(p.Workspace), Version: hits[i].Version, VersionType: notOlder}
			if err := b.add(line{Delete: &a}, "", nil); err != nil {
				return n, problem.Wrap(err, problem.Internal, "a deletion can't be encoded")
			}
		}
		gone, err := d.send(ctx, &b, &search.Refused{})
		if n += gone; err != nil || len(hits) < page {
			return n, err
		}
		body["search_after"] = hits[len(hits)-1].Sort
	}
	return n, nil
}
