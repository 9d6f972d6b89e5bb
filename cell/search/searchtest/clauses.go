package searchtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"parley/cell/search"
	"parley/internal/topology"
)

func versions(w *world) {
	one, two, three := message(0, "m1", "first"), message(0, "m1", "second"), message(0, "m1", "third")
	two.Version, three.Version = 2, 3
	w.put(two)
	w.put(one) // late
	w.wants(asking("first"))
	w.wants(asking("second"), "m1")
	w.put(one, three, two) // in one call
	w.wants(asking("third"), "m1")
	w.wants(asking("second"))
	w.put(three, three)
	w.wants(asking("third"), "m1")
}

func sameVersion(w *world) {
	w.put(message(0, "m1", "analysed badly"))
	w.put(message(0, "m1", "analysed well"))
	w.wants(asking("badly"))
	w.wants(asking("well"), "m1")
}

func deletions(w *world) {
	gone := message(0, "m1", "")
	gone.Version, gone.Gone = 2, true
	w.put(message(0, "m1", "words"), message(1, "m2", "words"))
	w.put(gone)
	w.wants(asking("words"), "m2")
	w.put(message(0, "m1", "words"))
	w.wants(asking("words"), "m2")
	from := asking()
	from.Authors = []topology.UserID{"Uann"}
	w.wants(from, "m2")
	back := message(0, "m1", "words")
	back.Version = 3
	w.put(back)
	w.wants(asking("words"), "m2", "m1")
}

func visible(w *world) {
	for i := range 3 {
		id := fmt.Sprintf("m%d", i)
		if err := w.Index.Put(w.t.Context(), []search.Doc{message(i, id, "soon "+id)}); err != nil {
			w.t.Fatal(err)
		}
		w.eventually(search.VisibleMax, id+" is found", func() bool { return slices.Equal(ids(w.find(asking("soon", id))), []string{id}) })
	}
}

func durable(w *world) {
	if w.Crash == nil {
		w.t.Skip("the engine is a process of its own, with tests of its own")
	}
	for i := range 5 {
		w.put(message(i*30, fmt.Sprintf("m%d", i), "kept"))
		w.Index = w.Crash(w.t)
		if n := len(w.find(asking("kept"))); n != i+1 {
			w.t.Fatalf("after crash %d there are %d", i+1, n)
		}
	}
}

func phrases(w *world) {
	texts := []string{
		"The deploy of checkout-api failed", "deploy failed again", "failed: deploy", "naïve Straße ÉCOLE", "在東京の日本語", "日本の言語", "parseHTTPBody(err-42)",
		"call foo_bar.baz() now", "ping 10.0.0.1 then 10.0.0.2", "party :tada: <@U01AB>", "tada 🎉 @ann", "7 7 b", "see https://ci.example.com/job/4711?x=1", "", "…",
	}
	var docs []search.Doc
	for i, s := range texts {
		docs = append(docs, message(i, fmt.Sprintf("m%02d", i), s))
	}
	w.put(docs...)
	var m model
	m.put(docs...)
	for _, s := range []string{
		"deploy", "deploy failed", "Failed Deploy", "naive", "strasse", "école", "日本", "日本語", "語", "東京", "日言", "body", "parsehttpbody", "err-42", "42",
		"foo_bar.baz", "foo_bar", "bar", "10.0.0.1", "0.0", "10.0.0", ":tada:", "tada", "@U01AB", "@ann", "ann", "🎉", "7 7", "7 7 b", "b 7", "https://ci.example.com/job/4711",
		"job/4711", "nothing", "of checkout",
	} {
		w.agrees(&m, asking(s))
		not := asking("7")
		not.All, not.None, not.Channels = nil, []search.Phrase{phrase(s)}, []topology.ChannelID{"C1"}
		w.agrees(&m, not)
	}
	w.agrees(&m, asking("deploy", "failed", "again"))
}

func conditions(w *world) {
	a, b, c, d := message(0, "ma", "x"), message(30, "mb", "x"), message(90, "mc", "x y"), message(90, "md", "x")
	b.Author, c.Channel = "Ubob", in("W1", "C2")
	d.Root, d.Seq = "ma", 7
	w.put(a, b, c, d)
	w.wants(asking("x"), "md", "mc", "mb", "ma")
	q := asking("x")
	q.Authors = []topology.UserID{"Ubob", "Unobody"}
	w.wants(q, "mb")
	q = asking("x")
	q.Channels = []topology.ChannelID{"C2"}
	w.wants(q, "mc")
	q.Channels = []topology.ChannelID{"C2", "C1", "C3"}
	w.wants(q, "md", "mc", "mb", "ma")
	q = asking("x")
	q.From, q.To = b.TS, c.TS
	w.wants(q, "mb")
	q.To = c.TS + 1
	w.wants(q, "md", "mc", "mb")
	q = asking("x")
	q.None = []search.Phrase{phrase("y")}
	w.wants(q, "md", "mb", "ma")
	q = asking("x")
	q.Limit = 2
	w.wants(q, "md", "mc")
	q.Limit = 0
	w.wants(q)
	if h := w.find(asking("x"))[0]; h != (search.Hit{Point: search.Point{Score: h.Score, TS: d.TS, ID: "md"}, Channel: "C1", Seq: 7, Root: "ma"}) {
		w.t.Errorf("the reply's hit is %+v", h)
	}
}

func access(w *world) {
	open, own, foreign := message(0, "m1", "x"), message(1, "m2", "x"), message(2, "m3", "x")
	own.Channel, own.Private = in("W1", "Pown"), true
	foreign.Channel, foreign.Private = in("W1", "Pforeign"), true
	w.put(open, own, foreign)
	for _, order := range []search.Order{search.Newest, search.Relevant} {
		q := asking("x")
		q.Order = order
		w.wants(q, "m1")
		q.Mine = []topology.ChannelID{"Pown", "C1"}
		w.wants(q, "m2", "m1")
		q.Channels = []topology.ChannelID{"Pforeign"}
		w.wants(q)
		q.Channels, q.Everything = nil, true
		w.wants(q, "m3", "m2", "m1")
	}
}

func manyChannels(w *world) {
	const n = 10_000
	var mine []topology.ChannelID
	for i := range n {
		mine = append(mine, topology.ChannelID(fmt.Sprintf("C%026d", i)))
	}
	var docs []search.Doc
	for i := range 30 {
		d := message(i, fmt.Sprintf("m%02d", i), "x")
		d.Channel, d.Private = in("W1", mine[(i*997)%n]), true
		docs = append(docs, d)
	}
	w.put(docs...)
	q := asking("x")
	q.Mine = mine
	if got := len(w.find(q)); got != len(docs) {
		w.t.Errorf("%d of %d", got, len(docs))
	}
	q.Mine, q.Channels, q.Everything = nil, mine, true
	if got := len(w.find(q)); got != len(docs) {
		w.t.Errorf("among channels: %d of %d", got, len(docs))
	}
}

func relevance(w *world) {
	var docs []search.Doc
	for i := range 20 {
		docs = append(docs, message(i, fmt.Sprintf("m%02d", i), fmt.Sprintf("filler about other things number %d and the deploy", i)))
	}
	docs = append(docs, message(30, "rare", "the outage"), message(31, "long", "an outage is what some people call it when a thing that should be there is not there for a while"))
	w.put(docs...)
	q := asking("outage")
	q.Order = search.Relevant
	w.wants(q, "rare", "long")
	same := message(40, "tie1", "equal words")
	w.put(same, message(41, "tie2", "equal words"))
	q = asking("equal")
	q.Order = search.Relevant
	w.wants(q, "tie2", "tie1")
}

func pages(w *world) {
	const n = 57
	var docs []search.Doc
	for i := range n {
		docs = append(docs, message(i/3*7, fmt.Sprintf("m%03d", i), "x"+" y"[:i%2*2]))
	}
	w.put(docs...)
	q := asking("x")
	q.Limit = 7
	var got []string
	for page := 0; ; page++ {
		hits := w.find(q)
		got = append(got, ids(hits)...)
		if len(hits) < q.Limit {
			break
		}
		last := hits[len(hits)-1].Point
		q.After = &last
		w.put(message(10_000+page, fmt.Sprintf("late%d", page), "x x"))
	}
	var want []string
	for i := n - 1; i >= 0; i-- {
		want = append(want, fmt.Sprintf("m%03d", i))
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%v", got)
	}
	best := asking("x")
	best.Order = search.Relevant
	all := ids(w.find(best))
	for _, best.Limit = range []int{1, 10, 50} {
		w.wants(best, all[:best.Limit]...)
	}
}

func sweeping(w *world) {
	old := []search.Doc{message(0, "m1", "x"), message(1, "m2", "x"), message(90, "m3", "x")}
	other := message(0, "other", "x")
	other.Channel = in("W2", "C1")
	w.put(append(old, other)...)
	between := w.clock()
	w.put(old[1])
	n, err := w.Index.Sweep(w.t.Context(), place("W1"), between, 1)
	if err != nil || n != 1 {
		w.t.Fatalf("swept %d, %v; want 1", n, err)
	}
	w.refresh()
	if n, err = w.Index.Sweep(w.t.Context(), place("W1"), between, 10); err != nil || n != 1 {
		w.t.Fatalf("swept %d, %v; want the other one", n, err)
	}
	w.refresh()
	w.wants(asking("x"), "m2")
	gone := message(1, "m2", "")
	gone.Gone, gone.Version = true, 5
	w.put(gone)
	if n, err = w.Index.Sweep(w.t.Context(), place("W1"), w.clock(), 10); err != nil || n != 1 {
		w.t.Fatalf("swept %d, %v; want the deletion", n, err)
	}
	w.refresh()
	w.wants(asking("x"))
	q := asking("x")
	q.Place = place("W2")
	w.wants(q, "other")
	if n, err = w.Index.Sweep(w.t.Context(), place("Wnone"), w.clock(), 10); err != nil || n != 0 {
		w.t.Errorf("swept %d of a place that never was, %v", n, err)
	}
}

// clock is a moment after all before and before all after.
func (w *world) clock() time.Time {
	from := time.Now()
	w.eventually(time.Second, "the clock goes on", func() bool { return time.Since(from) > 5*time.Millisecond })
	now := time.Now()
	w.eventually(time.Second, "the clock goes on", func() bool { return time.Since(now) > 5*time.Millisecond })
	return now
}

func places(w *world) {
	one, two, moved := message(0, "m1", "x"), message(1, "m2", "x"), message(2, "m3", "x")
	two.Channel.Workspace, moved.Channel.Generation = "W2", 2
	w.put(one, two, moved)
	q := asking("x")
	q.Everything = true
	w.wants(q, "m1")
	q.Place.Workspace = "W2"
	w.wants(q, "m2")
	q.Place = moved.Channel.Place
	w.wants(q, "m3")
	if n, err := w.Index.Sweep(w.t.Context(), moved.Channel.Place, w.clock(), 10); err != nil || n != 1 {
		w.t.Errorf("swept %d, %v", n, err)
	}
	w.refresh()
	w.wants(q)
	q.Place = place("W1")
	w.wants(q, "m1")
}

func ended(w *world) {
	w.put(message(0, "m1", "x"))
	ctx, cancel := context.WithCancel(w.t.Context())
	cancel()
	_, err := w.Index.Find(ctx, asking("x"))
	w.unavailable("Find", err)
	w.unavailable("Put", w.Index.Put(ctx, []search.Doc{message(1, "m2", "x")}))
	_, err = w.Index.Sweep(ctx, place("W1"), time.Now(), 10)
	w.unavailable("Sweep", err)
}

func away(w *world) {
	if w.Cut == nil {
		w.t.Skip("the engine is in this process")
	}
	w.put(message(0, "m1", "x"))
	heal := w.Cut(w.t)
	_, err := w.Index.Find(w.t.Context(), asking("x"))
	w.unavailable("Find", err)
	w.unavailable("Put", w.Index.Put(w.t.Context(), []search.Doc{message(1, "m2", "x")}))
	heal()
	w.eventually(10*time.Second, "it is found again", func() bool {
		hits, err := w.Index.Find(w.t.Context(), asking("x"))
		return err == nil && len(hits) == 1
	})
}
