package blevedb

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blevesearch/bleve/v2/analysis"
	"github.com/blevesearch/bleve/v2/document"
	"github.com/blevesearch/bleve/v2/index/scorch"
	index "github.com/blevesearch/bleve_index_api"

	"parley/cell/search"
	"parley/cell/search/text"
)

// The fields of a document.
const (
	fieldID      = "_id"
	fieldWords   = "words"
	fieldExtras  = "extras"
	fieldAuthor  = "author"
	fieldChannel = "channel"
	fieldFacts   = "facts" // all that is not searched by: see facts
)

// part is one open index.
type part struct {
	engine *scorch.Scorch
	// writes is held from reading the versions of what is stored until the new ones
	// are: scorch itself knows no versions.
	writes sync.Mutex

	broken atomic.Bool // scorch has panicked: nobody is to use it again

	users int            // under DB.mu
	used  uint64         // under DB.mu
	idle  sync.WaitGroup // counts users, for Close
}

// mergeFloor is how many documents the smallest segments are taken to have when
// scorch decides what to merge. Its own 2,000 has a small index merged whole after
// nearly every batch; a live feed's batches are of this order.
const mergeFloor = 128

func openPart(dir string, queue *index.AnalysisQueue) (*part, error) {
	// With unsafe_batch off a batch is on the disk, synced, when it returns.
	made, err := scorch.NewScorch(scorch.Name, map[string]any{
		"path": dir, "unsafe_batch": false, "bolt_timeout": "5s", "scorchMergePlanOptions": map[string]any{"FloorSegmentSize": mergeFloor},
	}, queue)
	if err != nil {
		return nil, err
	}
	engine, ok := made.(*scorch.Scorch)
	if !ok {
		return nil, errNoScorch
	}
	if err := engine.Open(); err != nil {
		return nil, err
	}
	return &part{engine: engine}, nil
}

// close ends the engine; of one that is broken also that may fail in any way.
func (p *part) close() (err error) {
	defer func() {
		if failed := recover(); failed != nil {
			err = fmt.Errorf("%v", failed)
		}
	}()
	return p.engine.Close()
}

// put stores those documents that are not older than what is there.
func (p *part) put(docs []*search.Doc, now time.Time) (err error) {
	p.writes.Lock()
	defer p.writes.Unlock()
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
	newest := make(map[string]*search.Doc, len(docs))
	for _, d := range docs {
		if had := newest[string(d.ID)]; had == nil || d.Version >= had.Version {
			newest[string(d.ID)] = d
		}
	}
	b := index.NewBatch()
	for id, d := range newest {
		had, ok, err := look.byID(id)
		if err != nil {
			return err
		}
		if !ok || d.Version >= had.version {
			b.Update(documentOf(d, now))
		}
	}
	if len(b.IndexOps) == 0 {
		return nil
	}
	return p.engine.Batch(b)
}

// sweep deletes documents that were put before a moment.
func (p *part) sweep(ctx context.Context, before time.Time, limit int) (n int, empty bool, err error) {
	p.writes.Lock()
	defer p.writes.Unlock()
	b := index.NewBatch()
	err = p.each(ctx, search.Query{Everything: true}, func(f *facts, _ float64) {
		if len(b.IndexOps) < limit && f.stamp < before.UnixMilli() {
			b.Delete(string(f.id))
		}
	})
	if err != nil {
		return 0, false, err
	}
	if n = len(b.IndexOps); n > 0 {
		if err := p.engine.Batch(b); err != nil {
			return 0, false, err
		}
	}
	return n, p.empty(), nil
}

// empty reports whether nothing is in the index, as far as it can tell.
func (p *part) empty() bool {
	r, err := p.engine.Reader()
	if err != nil {
		return false
	}
	n, err := r.DocCount()
	return r.Close() == nil && err == nil && n == 0
}

// documentOf is a document as scorch takes it.
func documentOf(d *search.Doc, now time.Time) *document.Document {
	out := document.NewDocument(string(d.ID))
	f := factsOf(d, now)
	out.AddField(document.NewTextFieldWithIndexingOptions(fieldFacts, nil, f.append(nil), index.IndexField|index.DocValues|index.SkipFreqNorm))
	if d.Gone {
		return out
	}
	t := text.Analyse(d.Text)
	term := index.IndexField | index.SkipFreqNorm
	out.AddField(document.NewTextFieldWithIndexingOptions(fieldAuthor, nil, []byte(d.Author), term))
	out.AddField(document.NewTextFieldWithIndexingOptions(fieldChannel, nil, []byte(d.Channel.Channel), term))
	out.AddField(document.NewTextFieldCustom(fieldWords, nil, joined(t.Words), index.IndexField|index.IncludeTermVectors, spaces{}))
	if len(t.Extras) > 0 {
		out.AddField(document.NewTextFieldCustom(fieldExtras, nil, joined(t.Extras), term, spaces{}))
	}
	return out
}

func joined(ts []text.Token) []byte {
	var b strings.Builder
	for i, t := range ts {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t.Term)
	}
	return []byte(b.String())
}

// spaces cuts at spaces what package text has prepared.
type spaces struct{}

// Analyze implements analysis.Analyzer.
func (spaces) Analyze(in []byte) analysis.TokenStream {
	out := make(analysis.TokenStream, 0, len(in)/6+1)
	for at := 0; at < len(in); {
		end := at
		for end < len(in) && in[end] != ' ' {
			end++
		}
		if end > at {
			out = append(out, &analysis.Token{Term: in[at:end], Start: at, End: end, Position: len(out) + 1, Type: analysis.AlphaNumeric})
		}
		at = end + 1
	}
	return out
}
