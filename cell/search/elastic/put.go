package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"
	"golang.org/x/sync/errgroup"

	"parley/cell/search"
	"parley/cell/search/text"
	"parley/internal/problem"
	"parley/internal/topology"
)

// bulkBytes and bulkDocs bound one request, and bulksMax how many of a call of Put
// are under way at once: enough to keep a shard at work while the next is made.
const (
	bulkBytes = 4 << 20
	bulkDocs  = 500
	bulksMax  = 2
)

// document is a message in Elasticsearch; of a deletion only what must stay.
type document struct {
	Place   string   `json:"place"`
	TS      int64    `json:"ts"`
	ID      string   `json:"id"`
	Stamp   int64    `json:"stamp"` // ms: when it was put
	Gone    bool     `json:"gone,omitempty"`
	Words   string   `json:"words,omitempty"`
	Extras  []string `json:"extras,omitempty"`
	Author  string   `json:"author,omitempty"`
	Channel string   `json:"channel,omitempty"`
	Private *bool    `json:"private,omitempty"`
	Root    string   `json:"root,omitempty"`
	Seq     uint64   `json:"seq,omitempty"`
}

func placeOf(p topology.Place) string {
	return string(p.Workspace) + "/" + strconv.FormatUint(uint64(p.Generation), 10)
}

func documentOf(d *search.Doc, now time.Time) document {
	out := document{Place: placeOf(d.Channel.Place), TS: d.TS, ID: string(d.ID), Stamp: now.UnixMilli(), Gone: d.Gone}
	if d.Gone {
		return out
	}
	t := text.Analyse(d.Text)
	var b strings.Builder
	for i, w := range t.Words {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(w.Term)
	}
	for _, e := range t.Extras {
		out.Extras = append(out.Extras, e.Term)
	}
	out.Words, out.Author, out.Channel, out.Private = b.String(), string(d.Author), string(d.Channel.Channel), &d.Private
	out.Root, out.Seq = string(d.Root), uint64(d.Seq)
	return out
}

// action is the line before a document, or a deletion.
type action struct {
	Index        string `json:"_index"`
	ID           string `json:"_id"`
	Routing      string `json:"routing"`
	Version      uint64 `json:"version"`
	VersionType  string `json:"version_type"`
	RequireAlias bool   `json:"require_alias,omitempty"`
}

// notOlder lets a document take the place of one with the same version, too.
const notOlder = "external_gte"

// bulk is a request in the making.
type bulk struct {
	body bytes.Buffer
	ids  []topology.MessageID
	ends []int // of each action, with its document, in body
}

// part is some of the actions.
func (b *bulk) part(from, to int) *bulk {
	begin := 0
	if from > 0 {
		begin = b.ends[from-1]
	}
	p := &bulk{ids: b.ids[from:to]}
	p.body.Write(b.body.Bytes()[begin:b.ends[to-1]])
	for _, end := range b.ends[from:to] {
		p.ends = append(p.ends, end-begin)
	}
	return p
}

// line is one of its pointers.
type line struct {
	Index  *action `json:"index,omitempty"`
	Delete *action `json:"delete,omitempty"`
}

// add adds an action, and the document of one that has one.
func (b *bulk) add(l line, id topology.MessageID, doc any) error {
	e := json.NewEncoder(&b.body)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return err
	}
	if doc != nil {
		if err := e.Encode(doc); err != nil {
			return err
		}
	}
	b.ids, b.ends = append(b.ids, id), append(b.ends, b.body.Len())
	return nil
}

// Put implements search.Index. While one request is under way the next is made.
func (d *DB) Put(ctx context.Context, docs []search.Doc) error {
	var mu sync.Mutex
	var all search.Refused
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(bulksMax)
	send := func(b *bulk) {
		g.Go(func() error {
			var refused search.Refused
			_, err := d.send(ctx, b, &refused)
			mu.Lock()
			defer mu.Unlock()
			for _, id := range refused.IDs {
				refuse(&all, id, refused.Why)
			}
			return err
		})
	}
	err := d.cut(ctx, docs, send)
	if failed := g.Wait(); failed != nil { // it may be why the other was cut short
		return failed
	}
	if err == nil && len(all.IDs) > 0 {
		return &all
	}
	return err
}

// cut makes bulks of documents.
func (d *DB) cut(ctx context.Context, docs []search.Doc, send func(*bulk)) error {
	now := time.Now()
	b := &bulk{}
	for i := range docs {
		doc := &docs[i]
		alias := d.quarter(doc.TS)
		if err := d.ensure(ctx, alias); err != nil {
			return err
		}
		to := action{
			Index: alias, ID: placeOf(doc.Channel.Place) + "/" + string(doc.ID), Routing: string(doc.Channel.Workspace),
			Version: uint64(doc.Version), VersionType: notOlder, RequireAlias: true,
		}
		from := documentOf(doc, now)
		if err := b.add(line{Index: &to}, doc.ID, &from); err != nil {
			return problem.Wrap(err, problem.Internal, "a document can't be encoded")
		}
		if b.body.Len() >= bulkBytes || len(b.ids) >= bulkDocs || i == len(docs)-1 {
			send(b)
			b = &bulk{}
		}
	}
	return nil
}

// outcome is what became of one action.
type outcome struct {
	Status int    `json:"status"`
	Result string `json:"result"`
	Error  *struct {
		Type   string `json:"type"`
		Reason string `json:"reason"`
	} `json:"error"`
}

// send sends a bulk, and says how many documents are deleted by it. Some faults of
// one document make Elasticsearch refuse the whole: then the halves are sent, until
// it stands alone.
func (d *DB) send(ctx context.Context, b *bulk, refused *search.Refused) (deleted int, err error) {
	var got struct {
		Items []map[string]outcome `json:"items"`
	}
	err = d.do(ctx, esapi.BulkRequest{
		Body: bytes.NewReader(b.body.Bytes()), FilterPath: []string{"items.*.status", "items.*.result", "items.*.error.type", "items.*.error.reason"},
	}, &got)
	n := len(b.ids)
	switch {
	case statusOf(err) == http.StatusBadRequest && n > 1:
		for _, half := range []*bulk{b.part(0, n/2), b.part(n/2, n)} {
			some, err := d.send(ctx, half, refused)
			if deleted += some; err != nil {
				return deleted, err
			}
		}
		return deleted, nil
	case statusOf(err) == http.StatusBadRequest:
		refuse(refused, b.ids[0], err.Error())
		return 0, nil
	case err != nil:
		return 0, failed(err, "writing a bulk")
	case len(got.Items) != n:
		return 0, problem.New(problem.Unavailable, "elasticsearch answered for %d of %d documents", len(got.Items), n)
	}
	for i, item := range got.Items {
		for _, o := range item {
			gone, err := o.take(b.ids[i], refused)
			if err != nil {
				d.forget() // an index may have been removed
				return deleted, failed(err, "writing a bulk")
			}
			deleted += gone
		}
	}
	return deleted, nil
}

// take says what became of a document. A conflict of versions is fine: what is
// there is newer.
func (o *outcome) take(id topology.MessageID, refused *search.Refused) (deleted int, err error) {
	switch {
	case o.Result == "deleted":
		return 1, nil
	case o.Error == nil, o.Status == http.StatusConflict:
		return 0, nil
	case o.Status == http.StatusBadRequest:
		refuse(refused, id, o.Error.Type+": "+o.Error.Reason)
		return 0, nil
	default:
		return 0, fmt.Errorf("%d %s: %s", o.Status, o.Error.Type, o.Error.Reason)
	}
}

func refuse(r *search.Refused, id topology.MessageID, why string) {
	r.IDs = append(r.IDs, id)
	if r.Why == "" {
		r.Why = why
	}
}
