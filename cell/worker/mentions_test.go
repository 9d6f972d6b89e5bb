package worker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/readstate"
	"parley/cell/worker"
	"parley/internal/problem"
	"parley/internal/topology"
)

// conversation is a channel's log: every third change mentions ann, every fifth
// everybody, every fourth is a reply to the first message, and bob or ann writes.
func conversation(number uint64, n int) []change.Change {
	var out []change.Change
	var root topology.MessageID
	seq, replies := topology.Seq(0), topology.Seq(0)
	for rev := topology.Rev(1); rev <= topology.Rev(n); rev++ {
		c := change.Change{Rev: rev, Kind: change.Message, TS: int64(rev), Author: "bob"}
		if rev%7 == 0 {
			c.Author = "ann"
		}
		if rev%4 == 0 {
			replies++
			c.Kind, c.Seq, c.Root, c.ID = change.Reply, replies, root, change.NewID(1, number, 0, rev)
		} else {
			seq++
			c.Seq, c.ID = seq, change.NewID(1, number, seq, 0)
		}
		if rev == 1 {
			root = c.ID
		}
		if rev%3 == 0 {
			c.Mentions = append(c.Mentions, "ann")
		}
		if rev%5 == 0 {
			c.Mentions = append(c.Mentions, change.MentionAll)
		}
		c.HeadSeq = seq
		out = append(out, c)
	}
	return out
}

// mentioning counts what mentions user above a seq, as a person would.
func mentioning(cs []change.Change, user topology.UserID, above topology.Seq) (n uint64) {
	for _, c := range cs {
		seq := c.Seq
		if c.Kind == change.Reply {
			seq = 1
		}
		for _, who := range c.Mentions {
			if (who == user || who == change.MentionAll) && c.Author != user && seq > above {
				n++
				break
			}
		}
	}
	return n
}

// world is a cell's stores on a disk that can crash, with some channels' logs.
type world struct {
	t    *testing.T
	mem  *vfs.MemFS
	db   *pebbledb.DB
	logs map[topology.ChannelRef][]change.Change
}

func newWorld(t *testing.T, channels, n int) *world {
	t.Helper()
	w := &world{t: t, mem: vfs.NewCrashableMem(), logs: map[topology.ChannelRef][]change.Change{}}
	w.open()
	t.Cleanup(func() { _ = w.db.Close() })
	for i := range channels {
		ch := topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: topology.ChannelID(fmt.Sprintf("C%d", i))}
		w.logs[ch] = conversation(uint64(i+1), n+i)
		f, err := w.db.Log().Raise(t.Context(), "cs-1", []msglog.Claim{{Shard: ch.Shard(), From: fence(t, w.db, ch.Shard())}})
		if err != nil {
			t.Fatal(err)
		}
		wr := msglog.Write{Channel: ch}
		for k, c := range w.logs[ch] {
			wr.Rows = append(wr.Rows, msglog.Row{Rev: c.Rev, Time: msglog.Time(f[0].Token, uint64(k+1)), Blob: c.Append(nil)})
		}
		if err := w.db.Log().Append(t.Context(), ch.Shard(), f[0].Token, []msglog.Write{wr}); err != nil {
			t.Fatal(err)
		}
	}
	w.feed()
	return w
}

// fence is the token of a shard.
func fence(t *testing.T, db *pebbledb.DB, s topology.Shard) topology.Token {
	t.Helper()
	fences, err := db.Log().Fences(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fences {
		if f.Shard == s {
			return f.Token
		}
	}
	return 0
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.db, err = pebbledb.Open(pebbledb.Config{Dir: "db", FS: w.mem}); err != nil {
		w.t.Fatal(err)
	}
}

// crash loses what was not synced; then the feeder appends again what it does
// not know to be in the event log, some of it twice.
func (w *world) crash() {
	w.t.Helper()
	left := w.mem.CrashClone(vfs.CrashCloneCfg{})
	_ = w.db.Close() // of a process that is gone
	w.mem = left
	w.open()
	w.feed()
}

func (w *world) feed() {
	w.t.Helper()
	for ch, log := range w.logs {
		there, _, err := w.db.Events().Read(w.t.Context(), ch.Shard(), 0, 10_000)
		if err != nil {
			w.t.Fatal(err)
		}
		from := topology.Rev(1)
		for _, e := range there {
			if e.Channel == ch {
				from = max(from, e.Rev)
			}
		}
		from = max(from, 6) - 5
		var events []eventlog.Event
		for _, c := range log[from-1:] {
			events = append(events, eventlog.Event{Channel: ch, Rev: c.Rev, Kind: c.Kind})
		}
		if err := w.db.Events().Append(w.t.Context(), ch.Shard(), events); err != nil {
			w.t.Fatal(err)
		}
	}
}

// check wants every mention once; exact is false while some may be missing.
func (w *world) check(exact bool) {
	w.t.Helper()
	for ch, log := range w.logs {
		for _, id := range []topology.UserID{"ann", "bob", "carl"} {
			for _, above := range []topology.Seq{0, 1, 5} {
				u := readstate.User{Place: ch.Place, ID: id}
				got, err := w.db.ReadState().Mentions(w.t.Context(), u, map[topology.ChannelID]topology.Seq{ch.Channel: above})
				if err != nil {
					w.t.Fatal(err)
				}
				want := mentioning(log, id, above)
				if n := got[ch.Channel]; n > want || exact && n != want {
					w.t.Fatalf("mentions of %s in %s above %d = %d, want %d", id, ch.Channel, above, n, want)
				}
			}
		}
	}
}

// fuse kills a worker at one of its calls of the stores: before it takes effect,
// or after. All later calls fail, as those of a dead process.
type fuse struct {
	mu    sync.Mutex
	calls int // until the last one
	after bool
	blown chan struct{}
	dead  bool
}

var errDead = errors.New("the process is dead")

func (f *fuse) do(call func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errDead
	}
	if f.calls--; f.calls != 0 {
		return call()
	}
	if f.after {
		_ = call() // its answer is never heard
	}
	f.dead = true
	close(f.blown)
	return errDead
}

type fusedEvents struct {
	eventlog.Log
	f *fuse
}

func (e fusedEvents) Read(ctx context.Context, p topology.Shard, after eventlog.Position, limit int) (es []eventlog.Event, last eventlog.Position, err error) {
	err = e.f.do(func() error { es, last, err = e.Log.Read(ctx, p, after, limit); return err })
	return es, last, err
}

func (e fusedEvents) Commit(ctx context.Context, group string, p topology.Shard, at eventlog.Position) error {
	return e.f.do(func() error { return e.Log.Commit(ctx, group, p, at) })
}

type fusedMarks struct {
	readstate.Store
	f *fuse
}

func (m fusedMarks) AddMentions(ctx context.Context, ms []readstate.Mention) error {
	return m.f.do(func() error { return m.Store.AddMentions(ctx, ms) })
}

type fusedChanges struct {
	from worker.Changes
	f    *fuse
}

func (c fusedChanges) Changes(ctx context.Context, ch topology.ChannelRef, after topology.Rev, limit int) (es []channel.Event, err error) {
	err = c.f.do(func() error { es, err = c.from.Changes(ctx, ch, after, limit); return err })
	return es, err
}

// run runs the mentions worker until it has handled everything, and then stops
// it, or until its fuse blows. It says whether that happened.
func (w *world) run(f *fuse) (blown bool) {
	w.t.Helper()
	mentions, err := worker.NewMentions(fusedEvents{w.db.Events(), f}, fusedChanges{worker.FromLog(w.db.Log()), f}, fusedMarks{w.db.ReadState(), f}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	stop := start(w.t, mentions)
	eventually(w.t, "everything is handled", func() bool {
		select {
		case <-f.blown:
			return true
		default:
			lag, err := mentions.Lag(w.t.Context())
			return err == nil && lag == 0
		}
	})
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// TestMentions_KilledAnywhere kills the worker and the database at each of its
// calls in turn, and lets another go on.
func TestMentions_KilledAnywhere(t *testing.T) {
	for _, after := range []bool{false, true} {
		points := 0
		for blown := true; blown; points++ {
			w := newWorld(t, 2, 40)
			blown = w.run(&fuse{calls: points + 1, after: after, blown: make(chan struct{})})
			w.check(!blown)
			w.crash()
			w.run(&fuse{blown: make(chan struct{})})
			w.check(true)
		}
		if points < 8 { // read, changes, mentions and commit of two channels
			t.Errorf("there were %d points to kill at", points)
		}
	}
}

// TestMentions_KilledManyTimes crashes one world at random places.
func TestMentions_KilledManyTimes(t *testing.T) {
	w := newWorld(t, 3, 700)
	for i := range 12 {
		w.run(&fuse{calls: i%5 + 1, after: i%2 == 0, blown: make(chan struct{})})
		w.check(false)
		w.crash()
	}
	w.run(&fuse{blown: make(chan struct{})})
	w.check(true)
}

// gone is a log that holds nothing any more.
type gone struct{}

func (gone) Changes(context.Context, topology.ChannelRef, topology.Rev, int) ([]channel.Event, error) {
	return nil, problem.New(problem.Conflict, "not kept")
}

func TestMentions_WhatIsGoneIsLeftOut(t *testing.T) {
	w := newWorld(t, 1, 20)
	mentions, err := worker.NewMentions(w.db.Events(), gone{}, w.db.ReadState(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer start(t, mentions)()
	eventually(t, "the events are passed by", func() bool {
		lag, err := mentions.Lag(t.Context())
		return err == nil && lag == 0
	})
	w.check(false)
}
