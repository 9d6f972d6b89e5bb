// Package searchtest runs the contract of search.Index against a driver: one
// subtest per clause, and random conversations held against a model, so that all
// drivers give the same answers.
package searchtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Harness is one driver under test, empty.
type Harness struct {
	Index search.Index
	// Refresh shows what was put; nil = it shows at once.
	Refresh func(t *testing.T)
	// Crash loses what a kill of the process loses, and opens the index again; nil =
	// the engine is a process of its own.
	Crash func(t *testing.T) search.Index
	// Cut makes the engine unreachable until heal is called; nil = it can't be.
	Cut func(t *testing.T) (heal func())
}

// Run runs the suite. Open opens an empty index.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(w *world)
	}{
		{"1 the highest version counts", versions},
		{"1 the same version again takes the former's place", sameVersion},
		{"1 a deletion is a version", deletions},
		{"1 what was put is found in time", visible},
		{"1 what was put outlives a crash", durable},
		{"3 phrases are found as they are in the text", phrases},
		{"3 conditions", conditions},
		{"3 who may find what", access},
		{"3 thousands of channels", manyChannels},
		{"3 the best first", relevance},
		{"3 random conversations", randomly},
		{"4 pages", pages},
		{"5 sweeping", sweeping},
		{"6 places don't touch", places},
		{"7 an ended context", ended},
		{"7 an engine that is away", away},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{t: t, Harness: open(t)}
			c.test(w)
		})
	}
}

// world is a driver with what a test knows of it.
type world struct {
	t *testing.T
	Harness
}

// base is when the conversations of these tests began: late in a year, so that
// they go on in the next.
var base = time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC).UnixMicro() //nolint:gochecknoglobals // a constant

const minute = int64(60_000_000)

func place(ws topology.WorkspaceID) topology.Place {
	return topology.Place{Workspace: ws, Generation: 1}
}

func in(ws topology.WorkspaceID, ch topology.ChannelID) topology.ChannelRef {
	return topology.ChannelRef{Place: place(ws), Channel: ch}
}

// message is a public message n minutes after base, the first version of it.
func message(n int, id, text string) search.Doc {
	return search.Doc{
		Channel: in("W1", "C1"), ID: topology.MessageID(id), Version: 1, TS: base + int64(n)*minute, Seq: topology.Seq(n + 1), Author: "Uann", Text: text, //nolint:gosec // it is small
	}
}

func (w *world) put(docs ...search.Doc) {
	w.t.Helper()
	if err := w.Index.Put(w.t.Context(), docs); err != nil {
		w.t.Fatal(err)
	}
	w.refresh()
}

func (w *world) refresh() {
	w.t.Helper()
	if w.Refresh != nil {
		w.Refresh(w.t)
	}
}

// asking is a query for words, newest first, in W1.
func asking(words ...string) search.Query {
	q := search.Query{Place: place("W1"), Limit: 100}
	for _, s := range words {
		q.All = append(q.All, phrase(s))
	}
	return q
}

func phrase(s string) search.Phrase {
	p, _ := search.PhraseOf(s)
	return p
}

func (w *world) find(q search.Query) []search.Hit {
	w.t.Helper()
	hits, err := w.Index.Find(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	return hits
}

func ids(hits []search.Hit) (out []string) {
	for _, h := range hits {
		out = append(out, string(h.ID))
	}
	return out
}

// wants fails unless just these hits are found, in order.
func (w *world) wants(q search.Query, want ...string) {
	w.t.Helper()
	if got := ids(w.find(q)); !slices.Equal(got, want) {
		w.t.Errorf("%+v finds %v, want %v", q, got, want)
	}
}

// eventually waits for a condition, as long as the contract gives.
func (w *world) eventually(within time.Duration, what string, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func (w *world) unavailable(what string, err error) {
	w.t.Helper()
	if !problem.Is(err, problem.Unavailable) {
		w.t.Errorf("%s: %v, want kind unavailable", what, err)
	}
}
