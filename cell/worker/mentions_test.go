package worker_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/pebbledb"
	"parley/cell/readstate"
	"parley/cell/worker"
	"parley/internal/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var room = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"} //nolint:gochecknoglobals // a constant

// changes is a channel's log: every third change mentions ann, every fifth all.
type changes struct {
	mu    sync.Mutex
	all   []channel.Event
	fails int // calls that fail first
}

func newChanges(n int) *changes {
	c := &changes{}
	for i := 1; i <= n; i++ {
		e := change.Change{Rev: topology.Rev(i), Seq: topology.Seq(i), Kind: change.Message, Author: "bob"}
		if i%3 == 0 {
			e.Mentions = append(e.Mentions, "ann")
		}
		if i%5 == 0 {
			e.Mentions = append(e.Mentions, change.MentionAll)
		}
		c.all = append(c.all, channel.Event{Change: e})
	}
	return c
}

func (c *changes) Changes(_ context.Context, _ topology.ChannelRef, after topology.Rev, limit int) ([]channel.Event, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails > 0 {
		c.fails--
		return nil, errors.New("not now")
	}
	return c.all[after:min(int(after)+limit, len(c.all))], nil
}

// TestMentions_EachOnce kills the worker again and again, appends events twice, and
// lets reads fail.
func TestMentions_EachOnce(t *testing.T) {
	const n = 300
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	log := newChanges(n)
	log.fails = 3
	ann := readstate.User{Place: room.Place, ID: "ann"}
	count := func() uint64 {
		m, err := db.ReadState().Mentions(t.Context(), ann, map[topology.ChannelID]topology.Seq{room.Channel: 0})
		if err != nil {
			t.Fatal(err)
		}
		return m[room.Channel]
	}
	var want uint64
	for upTo := 30; upTo <= n; upTo += 30 {
		var events []eventlog.Event
		for rev := max(1, upTo-60); rev <= upTo; rev++ { // half of them again
			events = append(events, eventlog.Event{Channel: room, Rev: topology.Rev(rev), Kind: change.Message})
		}
		if err := db.Events().Append(t.Context(), room.Shard(), events); err != nil {
			t.Fatal(err)
		}
		w, err := worker.NewMentions(db.Events(), log, db.ReadState(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { _ = w.Run(ctx, func() {}); close(ended) }()
		want += 14 // of 30 revs: 10 of ann, 6 of all, 2 of both
		for count() < want {
			select {
			case <-t.Context().Done():
				t.Fatalf("%d of %d mentions", count(), want)
			default:
			}
		}
		cancel()
		<-ended
		if got := count(); got != want {
			t.Fatalf("%d mentions up to rev %d, want %d", got, upTo, want)
		}
	}
}
