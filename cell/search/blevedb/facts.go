package blevedb

import (
	"errors"
	"strconv"
	"strings"
	"time"

	index "github.com/blevesearch/bleve_index_api"

	"parley/cell/search"
	"parley/internal/topology"
)

var (
	errNoScorch = errors.New("scorch made something else")
	errFacts    = errors.New("a document has no facts, or damaged ones")
)

// facts is what an index keeps of a document beside its terms: one value, as each
// field of its own would cost a look-up for each hit.
type facts struct {
	ts      int64
	stamp   int64 // ms: when it was put
	version topology.Rev
	private bool
	gone    bool
	seq     topology.Seq
	id      topology.MessageID
	channel topology.ChannelID
	root    topology.MessageID
}

func factsOf(d *search.Doc, now time.Time) facts {
	return facts{
		ts: d.TS, stamp: now.UnixMilli(), version: d.Version, private: d.Private, gone: d.Gone,
		seq: d.Seq, id: d.ID, channel: d.Channel.Channel, root: d.Root,
	}
}

// separator is in no id.
const separator = "\x1f"

func (f *facts) append(b []byte) []byte {
	for _, n := range []int64{f.ts, f.stamp} {
		b = append(strconv.AppendInt(b, n, 36), separator...)
	}
	for _, n := range []uint64{uint64(f.version), uint64(f.seq)} {
		b = append(strconv.AppendUint(b, n, 36), separator...)
	}
	b = append(b, flag(f.private), flag(f.gone))
	for _, s := range []string{string(f.id), string(f.channel), string(f.root)} {
		b = append(append(b, separator...), s...)
	}
	return b
}

func flag(set bool) byte {
	if set {
		return 'y'
	}
	return 'n'
}

func parseFacts(s string) (f facts, ok bool) {
	p := strings.Split(s, separator)
	if len(p) != 8 || len(p[4]) != 2 {
		return f, false
	}
	var errs [4]error
	f.ts, errs[0] = strconv.ParseInt(p[0], 36, 64)
	f.stamp, errs[1] = strconv.ParseInt(p[1], 36, 64)
	version, err := strconv.ParseUint(p[2], 36, 64)
	errs[2] = err
	seq, err := strconv.ParseUint(p[3], 36, 64)
	errs[3] = err
	f.version, f.seq = topology.Rev(version), topology.Seq(seq)
	f.private, f.gone = p[4][0] == 'y', p[4][1] == 'y'
	f.id, f.channel, f.root = topology.MessageID(p[5]), topology.ChannelID(p[6]), topology.MessageID(p[7])
	return f, errors.Join(errs[:]...) == nil
}

func (f *facts) point(score float64) search.Point {
	return search.Point{Score: score, TS: f.ts, ID: f.id}
}

// lookup reads facts of documents.
type lookup struct {
	r      index.IndexReader
	values index.DocValueReader
}

func newLookup(r index.IndexReader) (*lookup, error) {
	v, err := r.DocValueReader([]string{fieldFacts})
	return &lookup{r, v}, err
}

// of are the facts of a document by its number in the index.
func (l *lookup) of(id index.IndexInternalID) (f facts, err error) {
	found := false
	err = l.values.VisitDocValues(id, func(_ string, term []byte) { f, found = parseFacts(string(term)) })
	if err == nil && !found {
		err = errFacts
	}
	return f, err
}

// byID are the facts of a document; false if there is none.
func (l *lookup) byID(id string) (facts, bool, error) {
	at, err := l.r.InternalID(id)
	if err != nil || at == nil {
		return facts{}, false, err
	}
	f, err := l.of(at)
	return f, err == nil, err
}
