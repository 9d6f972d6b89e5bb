package worker_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/eventlog"
	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/cell/worker"
	"parley/internal/problem"
	"parley/internal/topology"
)

// public is a directory in which every channel is public.
type public struct{}

func (public) Channel(context.Context, topology.Place, topology.ChannelID) (directory.Channel, error) {
	return directory.Channel{}, nil
}

// indexed is a world with an index on a disk that outlives its workers.
func indexed(t *testing.T) *blevedb.DB {
	t.Helper()
	db, err := blevedb.Open(blevedb.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// fusedIndex dies like the other stores of a killed process.
type fusedIndex struct {
	search.Index
	f *fuse
}

func (i fusedIndex) Put(ctx context.Context, docs []search.Doc) error {
	return i.f.do(func() error { return i.Index.Put(ctx, docs) })
}

// runSearch runs the indexer until it has handled everything, or its fuse blows.
func (w *world) runSearch(f *fuse, c worker.Changes, ix search.Index) (blown bool) {
	w.t.Helper()
	indexer, err := worker.NewSearch(fusedEvents{w.db.Events(), f}, fusedChanges{c, f}, public{}, fusedIndex{ix, f}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	stop := start(w.t, indexer)
	eventually(w.t, "everything is indexed", func() bool {
		select {
		case <-f.blown:
			return true
		default:
			lag, err := indexer.Lag(w.t.Context())
			return err == nil && lag == 0
		}
	})
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// has wants all messages of the world in the index, once each, but for some.
func (w *world) has(ix search.Index, but ...topology.Rev) {
	w.t.Helper()
	for ch, log := range w.logs {
		var want []topology.MessageID
		for _, c := range slices.Backward(log) {
			if !slices.Contains(but, c.Rev) {
				want = append(want, c.ID)
			}
		}
		hits, err := ix.Find(w.t.Context(), search.Query{Place: ch.Place, Channels: []topology.ChannelID{ch.Channel}, Limit: 10_000})
		if err != nil {
			w.t.Fatal(err)
		}
		var got []topology.MessageID
		for _, h := range hits {
			got = append(got, h.ID)
		}
		if !slices.Equal(got, want) {
			w.t.Errorf("%s: %d messages are indexed, want %d", ch.Channel, len(got), len(want))
		}
	}
}

// TestSearch_KilledAnywhere kills the indexer at each of its calls in turn, and lets
// another go on.
func TestSearch_KilledAnywhere(t *testing.T) {
	for _, after := range []bool{false, true} {
		points := 0
		for blown := true; blown; points++ {
			w, ix := newWorld(t, 2, 90), indexed(t)
			blown = w.runSearch(&fuse{calls: points + 1, after: after, blown: make(chan struct{})}, worker.FromLog(w.db.Log()), ix)
			w.crash()
			w.runSearch(&fuse{blown: make(chan struct{})}, worker.FromLog(w.db.Log()), ix)
			w.has(ix)
		}
		if points < 7 { // read, changes, put and commit of two channels, put together maybe
			t.Errorf("there were %d points to kill at", points)
		}
	}
}

// poisoned is a log in which some changes can't be read.
type poisoned struct {
	from worker.Changes
	revs []topology.Rev

	mu    sync.Mutex
	tries int
}

func (p *poisoned) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error) {
	es, err := p.from.Changes(ctx, ch, after, limit)
	for _, e := range es {
		if slices.Contains(p.revs, e.Rev) {
			p.mu.Lock()
			p.tries++
			p.mu.Unlock()
			return nil, problem.New(problem.Internal, "a change in the log is damaged")
		}
	}
	return es, err
}

func TestSearch_PoisonIsLeftOut(t *testing.T) {
	w, ix := newWorld(t, 1, 100), indexed(t)
	p := &poisoned{from: worker.FromLog(w.db.Log()), revs: []topology.Rev{1, 100}}
	w.runSearch(&fuse{blown: make(chan struct{})}, p, ix)
	w.has(ix, p.revs...)
	if p.tries < 2*4 {
		t.Errorf("given up after %d tries", p.tries)
	}
}

// refusing is an index that takes all but one message, and is away at first.
type refusing struct {
	search.Index
	id topology.MessageID

	mu   sync.Mutex
	away int
}

func (r *refusing) Put(ctx context.Context, docs []search.Doc) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away > 0 {
		r.away--
		return problem.New(problem.Unavailable, "away")
	}
	kept := slices.DeleteFunc(slices.Clone(docs), func(d search.Doc) bool { return d.ID == r.id })
	if err := r.Index.Put(ctx, kept); err != nil || len(kept) == len(docs) {
		return err
	}
	return &search.Refused{IDs: []topology.MessageID{r.id}, Why: "never"}
}

func TestSearch_RefusedIsLeftOutAndAnOutageIsNot(t *testing.T) {
	w, ix := newWorld(t, 1, 100), indexed(t)
	var id topology.MessageID
	for _, log := range w.logs {
		id = log[49].ID
	}
	w.runSearch(&fuse{blown: make(chan struct{})}, worker.FromLog(w.db.Log()), &refusing{Index: ix, id: id, away: 3})
	w.has(ix, 50)
}

func TestSearch_WhatIsGoneIsLeftOut(t *testing.T) {
	w, ix := newWorld(t, 1, 20), indexed(t)
	w.runSearch(&fuse{blown: make(chan struct{})}, gone{}, ix)
	hits, err := ix.Find(t.Context(), search.Query{Place: topology.Place{Workspace: "W1", Generation: 1}, Limit: 10})
	if err != nil || len(hits) != 0 {
		t.Errorf("%v, %v", hits, err)
	}
}

// Only messages are indexed: the rest of a log passes by.
func TestSearch_OtherKindsPassBy(t *testing.T) {
	w, ix := newWorld(t, 1, 10), indexed(t)
	ch := topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C0"}
	if err := w.db.Events().Append(t.Context(), ch.Shard(), []eventlog.Event{{Channel: ch, Rev: 11, Kind: change.Joined, Plain: true}}); err != nil {
		t.Fatal(err)
	}
	w.runSearch(&fuse{blown: make(chan struct{})}, worker.FromLog(w.db.Log()), ix)
	w.has(ix)
}
