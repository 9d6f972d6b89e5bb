package searchtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"parley/cell/search"
	"parley/cell/search/text"
	"parley/internal/topology"
)

// model is an index that is right by being slow.
type model struct {
	docs map[topology.MessageID]search.Doc
}

func (m *model) put(docs ...search.Doc) {
	if m.docs == nil {
		m.docs = map[topology.MessageID]search.Doc{}
	}
	for _, d := range docs {
		if had, ok := m.docs[d.ID]; !ok || d.Version >= had.Version {
			m.docs[d.ID] = d
		}
	}
}

// find is all that matches, newest first.
func (m *model) find(q search.Query) (hits []search.Hit) {
	for _, d := range m.docs {
		if m.has(q, d) {
			hits = append(hits, search.Hit{Point: search.Point{TS: d.TS, ID: d.ID}, Channel: d.Channel.Channel, Seq: d.Seq, Root: d.Root})
		}
	}
	slices.SortFunc(hits, func(a, b search.Hit) int {
		if search.Newest.Less(a.Point, b.Point) {
			return -1
		}
		return 1
	})
	return hits
}

func (m *model) has(q search.Query, d search.Doc) bool {
	switch {
	case d.Gone, d.Channel.Place != q.Place, d.TS < q.From, q.To != 0 && d.TS >= q.To:
		return false
	case len(q.Authors) > 0 && !slices.Contains(q.Authors, d.Author):
		return false
	case len(q.Channels) > 0 && !slices.Contains(q.Channels, d.Channel.Channel):
		return false
	case d.Private && !q.Everything && !slices.Contains(q.Mine, d.Channel.Channel):
		return false
	}
	_, ok := q.Match(text.Analyse(d.Text))
	return ok
}

// agrees holds a driver's answer against the model's: the same hits, newest first,
// and the same set, best first.
func (w *world) agrees(m *model, q search.Query) {
	w.t.Helper()
	q.Limit = 10_000
	want := m.find(q)
	if d := cmp.Diff(ids(want), ids(w.find(q))); d != "" {
		w.t.Errorf("%+v: %s", q, d)
		return
	}
	q.Order = search.Relevant
	got := w.find(q)
	for i := 1; i < len(got); i++ {
		if !search.Relevant.Less(got[i-1].Point, got[i].Point) {
			w.t.Errorf("%+v: %+v is before %+v", q, got[i-1], got[i])
		}
	}
	if d := cmp.Diff(sorted(want), sorted(got)); d != "" {
		w.t.Errorf("%+v by relevance: %s", q, d)
	}
}

func sorted(hits []search.Hit) []string {
	out := ids(hits)
	slices.Sort(out)
	return out
}

// randomly writes, edits and deletes messages in random order, and asks random
// questions.
func randomly(w *world) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	var m model
	for round := range 6 {
		var docs []search.Doc
		for range 150 {
			docs = append(docs, randomDoc(r))
		}
		for b := range slices.Chunk(docs, 1+r.IntN(80)) {
			if err := w.Index.Put(w.t.Context(), b); err != nil {
				w.t.Fatal(err)
			}
		}
		m.put(docs...)
		w.refresh()
		for range 40 {
			w.agrees(&m, randomQuery(r))
		}
		if w.t.Failed() {
			w.t.Fatalf("in round %d with seed %d", round, seed)
		}
	}
}

// vocabulary has what is hard to cut, and words that share parts.
var vocabulary = []string{ //nolint:gochecknoglobals // a constant table
	"deploy", "Deploy", "failed", "failing", "the", "the", "naïve", "NAIVE", "Straße", "strasse", "École", "日本", "日本語", "本日", "東京都", "한국어", "กขค",
	"foo_bar.baz()", "fooBar", "FooBarBaz", "foo", "bar", "err-42", "42", "10.0.0.1", "10.0.0", "/usr/lib", "https://a.b/c?d=e", ":tada:", "🎉", "@ann", "<@U1>", "#ops", "don't", "don",
}

func randomText(r *rand.Rand, n int) string {
	var words []string
	for range n {
		words = append(words, vocabulary[r.IntN(len(vocabulary))])
	}
	return strings.Join(words, []string{" ", ", ", " - "}[r.IntN(3)])
}

func randomDoc(r *rand.Rand) search.Doc {
	n := r.Int64N(120)
	d := search.Doc{
		Channel: in("W1", topology.ChannelID(fmt.Sprintf("C%d", n%4))), ID: topology.MessageID(fmt.Sprintf("m%03d", n)), Version: topology.Rev(1 + r.Uint64N(1_000_000)),
		TS: base + n/2*2*minute, Seq: topology.Seq(n), Author: topology.UserID(fmt.Sprintf("U%d", r.IntN(3))), Text: randomText(r, r.IntN(8)), Private: n%4 > 1, //nolint:gosec // n is small
	}
	if r.IntN(4) == 0 {
		d.Root = "m000"
	}
	if r.IntN(10) == 0 {
		d.Gone, d.Text = true, ""
	}
	return d
}

func randomQuery(r *rand.Rand) search.Query {
	q := search.Query{Place: place("W1"), Everything: r.IntN(4) == 0}
	some := func(odds int) bool { return r.IntN(odds) == 0 }
	for range r.IntN(3) {
		q.All = append(q.All, phrase(randomText(r, 1+r.IntN(2))))
	}
	for range r.IntN(2) {
		q.None = append(q.None, phrase(randomText(r, 1+r.IntN(2))))
	}
	if some(3) {
		q.Authors = []topology.UserID{topology.UserID(fmt.Sprintf("U%d", r.IntN(4)))}
	}
	if some(3) {
		q.Channels = []topology.ChannelID{topology.ChannelID(fmt.Sprintf("C%d", r.IntN(5))), "C1"}
	}
	if some(2) {
		q.Mine = []topology.ChannelID{topology.ChannelID(fmt.Sprintf("C%d", r.IntN(5)))}
	}
	if some(3) {
		q.From = base + int64(r.IntN(120))*minute
	}
	if some(3) {
		q.To = base + int64(r.IntN(120))*minute
	}
	return q
}
