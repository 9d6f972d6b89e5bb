package agree_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/cell/agree"
	"parley/cell/change"
	"parley/cell/directory"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/readstate"
	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/internal/topology"
)

var (
	place = topology.Place{Workspace: "W1", Generation: 1}
	ref   = topology.ChannelRef{Place: place, Channel: "C1"}
)

const number = 7

// changes are a channel's: ann writes, bob replies and mentions her, ann mentions all.
func changes() []change.Change {
	id := func(seq topology.Seq, reply topology.Rev) topology.MessageID {
		return change.NewID(1, number, seq, reply)
	}
	return []change.Change{
		{Rev: 1, Kind: change.Created, TS: 1, Author: "ann", Subjects: []topology.UserID{"ann", "bob"}},
		{Rev: 2, Kind: change.Message, Seq: 1, TS: 2, ID: id(1, 0), Author: "ann", Text: "hello", HeadSeq: 1},
		{Rev: 3, Kind: change.Reply, Seq: 1, TS: 3, ID: id(0, 3), Author: "bob", Root: id(1, 0), Text: "hi @ann", Mentions: []topology.UserID{"ann"}, HeadSeq: 1},
		{Rev: 4, Kind: change.Message, Seq: 2, TS: 4, ID: id(2, 0), Author: "ann", Text: "@channel", Mentions: []topology.UserID{change.MentionAll, "ann"}, HeadSeq: 2},
	}
}

// stores are real ones in which everything agrees.
func stores(t *testing.T) agree.Stores {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := pebbledb.Open(pebbledb.Config{Dir: "db", FS: vfs.NewMem()})
	must(err)
	t.Cleanup(func() { _ = db.Close() })
	rows, err := directory.Open(ctx, filepath.Join(t.TempDir(), "directory.db"), time.Now, nil)
	must(err)
	t.Cleanup(func() { _ = rows.Close() })
	must(rows.PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen}))
	_, err = rows.PutUsers(ctx, place, []directory.User{{ID: "ann", Name: "ann"}, {ID: "bob", Name: "bob"}})
	must(err)
	_, _, err = rows.CreateChannel(ctx, place, directory.Channel{ID: "C1", Name: "general", CreatedBy: "ann"}, []topology.UserID{"ann", "bob"})
	must(err)

	holds, err := msglog.NewLog(db.Log(), "cs").Take(ctx, []topology.Shard{ref.Shard()})
	must(err)
	must(holds[0].Commit(ctx, []msglog.Batch{{Channel: ref, Changes: changes()}}))
	must(db.History().Apply(ctx, []history.Batch{{Channel: ref, Changes: changes()}}))
	for _, c := range changes() {
		e := eventlog.Event{Channel: ref, Rev: c.Rev, Kind: c.Kind}
		must(db.Events().Append(ctx, ref.Shard(), []eventlog.Event{e}))
	}
	must(db.Events().Append(ctx, ref.Shard(), []eventlog.Event{{Channel: ref, Rev: 3, Kind: change.Reply}})) // a feeder's repeat
	must(db.History().SetEmitted(ctx, ref, 4))
	must(db.ReadState().AddMentions(ctx, []readstate.Mention{
		{User: readstate.User{Place: place, ID: "ann"}, Channel: "C1", Seq: 1, Rev: 3, Author: "bob"},
		{User: readstate.User{Place: place, ID: change.MentionAll}, Channel: "C1", Seq: 2, Rev: 4, Author: "ann"},
	}))
	index, err := blevedb.Open(blevedb.Config{Dir: t.TempDir()})
	must(err)
	t.Cleanup(func() { _ = index.Close() })
	for _, c := range changes()[1:] {
		must(index.Put(ctx, []search.Doc{search.DocOf(ref, &c, false)}))
	}
	_, err = db.ReadState().Put(ctx, readstate.User{Place: place, ID: "bob"}, "C1", readstate.Mark{Seq: 1, Message: change.NewID(1, number, 1, 0)})
	must(err)
	return agree.Stores{Directory: rows, Log: db.Log(), History: db.History(), Events: db.Events(), Marks: db.ReadState(), Index: index}
}

func TestCompare_AgreesWithWhatAgrees(t *testing.T) {
	r, err := agree.Compare(t.Context(), stores(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := agree.Counts{Workspaces: 1, Channels: 1, Changes: 4, Messages: 2, Replies: 1, Events: 5, Documents: 3, Users: 2, Marks: 1, Mentions: 2}
	if r.Differ != 0 || r.Counts != want {
		t.Fatalf("%+v", r)
	}
}

// What is planted in one store is found, and blamed on that store alone.
func TestCompare_FindsWhatIsPlanted(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(*agree.Stores)
		in    string
	}{
		"a row of the log is gone":       {func(s *agree.Stores) { s.Log = lossyLog{s.Log, 3} }, agree.InLog},
		"a message has another text":     {func(s *agree.Stores) { s.History = otherText{s.History} }, agree.InHistory},
		"a message is gone":              {func(s *agree.Stores) { s.History = lostMessage{s.History} }, agree.InHistory},
		"a reply is gone":                {func(s *agree.Stores) { s.History = lostReply{s.History} }, agree.InHistory},
		"a thread is counted wrongly":    {func(s *agree.Stores) { s.History = wrongCount{s.History} }, agree.InHistory},
		"an event is gone":               {func(s *agree.Stores) { s.Events = lossyEvents{s.Events, 3} }, agree.InEvents},
		"all events are gone":            {func(s *agree.Stores) { s.Events = agedEvents{s.Events, 0} }, agree.InEvents},
		"the last event is gone":         {func(s *agree.Stores) { s.Events = lossyEvents{s.Events, 4} }, agree.InEvents},
		"a mark names no message":        {func(s *agree.Stores) { s.Marks = otherMark{s.Marks, 1} }, agree.InReadState},
		"a mark is above the head":       {func(s *agree.Stores) { s.Marks = otherMark{s.Marks, 9} }, agree.InReadState},
		"a message is not found":         {func(s *agree.Stores) { s.Index = lossyIndex{s.Index} }, agree.InIndex},
		"a message is found twice":       {func(s *agree.Stores) { s.Index = doubleIndex{s.Index} }, agree.InIndex},
		"a mention is counted once more": {func(s *agree.Stores) { s.Marks = moreMentions{s.Marks} }, agree.InReadState},
	} {
		t.Run(name, func(t *testing.T) {
			s := stores(t)
			c.plant(&s)
			r, err := agree.Compare(t.Context(), s, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Differ == 0 {
				t.Fatal("nothing was found")
			}
			for _, d := range r.Differences {
				if c.in != agree.InLog && d.Store != c.in {
					t.Errorf("%s is blamed: %s", d.Store, d.What)
				}
			}
			if r.Differences[0].Store != c.in {
				t.Errorf("found first: %+v", r.Differences[0])
			}
		})
	}
}

// What retention took is no difference.
func TestCompare_OldLogAndEvents(t *testing.T) {
	s := stores(t)
	s.Log, s.Events = shortLog{s.Log, 3}, agedEvents{s.Events, 8}
	r, err := agree.Compare(t.Context(), s, nil)
	if err != nil || r.Differ != 0 || r.Changes != 2 || r.Events != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// shortLog begins with a rev.
type shortLog struct {
	msglog.Store
	oldest topology.Rev
}

func (l shortLog) Oldest(context.Context, topology.ChannelRef) (topology.Rev, error) {
	return l.oldest, nil
}

func (l shortLog) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	if from < l.oldest {
		return nil, nil
	}
	return l.Store.Tail(ctx, ch, from, limit)
}

// agedEvents has lost the events of our channel; its shard's first that is kept is
// another's.
type agedEvents struct {
	eventlog.Log
	gone eventlog.Position
}

func (l agedEvents) Read(_ context.Context, p topology.Shard, after eventlog.Position, _ int) ([]eventlog.Event, eventlog.Position, error) {
	if p != ref.Shard() || after > l.gone {
		return nil, after, nil
	}
	other := topology.ChannelRef{Place: place, Channel: "C2"}
	for i := 3; other.Shard() != p; i++ {
		other.Channel = topology.ChannelID(fmt.Sprint("C", i))
	}
	return []eventlog.Event{{Channel: other, Rev: 1, Kind: change.Created}}, l.gone + 1, nil
}

type lossyLog struct {
	msglog.Store
	rev topology.Rev
}

func (l lossyLog) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	rows, err := l.Store.Tail(ctx, ch, from, limit)
	return without(rows, func(r msglog.Row) bool { return r.Rev == l.rev }), err
}

func without[T any](list []T, gone func(T) bool) (out []T) {
	for _, v := range list {
		if !gone(v) {
			out = append(out, v)
		}
	}
	return out
}

type otherText struct{ history.Store }

func (h otherText) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	ms, err := h.Store.Page(ctx, ch, q)
	for i := range ms {
		ms[i].Text += "!"
	}
	return ms, err
}

type lostMessage struct{ history.Store }

func (h lostMessage) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	ms, err := h.Store.Page(ctx, ch, q)
	return without(ms, func(m history.Message) bool { return m.Seq == 2 }), err
}

type lostReply struct{ history.Store }

func (h lostReply) Thread(context.Context, topology.ChannelRef, topology.Seq, topology.Seq, int) ([]history.Message, error) {
	return nil, nil
}

type wrongCount struct{ history.Store }

func (h wrongCount) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	ms, err := h.Store.Page(ctx, ch, q)
	for i := range ms {
		ms[i].ReplyCount++
	}
	return ms, err
}

type lossyEvents struct {
	eventlog.Log
	rev topology.Rev
}

func (l lossyEvents) Read(ctx context.Context, p topology.Shard, after eventlog.Position, limit int) ([]eventlog.Event, eventlog.Position, error) {
	es, at, err := l.Log.Read(ctx, p, after, limit)
	return without(es, func(e eventlog.Event) bool { return e.Rev == l.rev }), at, err
}

type lossyIndex struct{ search.Index }

func (x lossyIndex) Find(ctx context.Context, q search.Query) ([]search.Hit, error) {
	hits, err := x.Index.Find(ctx, q)
	return without(hits, func(h search.Hit) bool { return h.Seq == 2 }), err
}

type doubleIndex struct{ search.Index }

func (x doubleIndex) Find(ctx context.Context, q search.Query) ([]search.Hit, error) {
	hits, err := x.Index.Find(ctx, q)
	if len(hits) > 0 {
		hits = append(hits, hits[len(hits)-1])
	}
	return hits, err
}

type otherMark struct {
	readstate.Store
	seq topology.Seq
}

func (s otherMark) Marks(context.Context, readstate.User) (map[topology.ChannelID]readstate.Mark, error) {
	return map[topology.ChannelID]readstate.Mark{"C1": {Seq: s.seq, Message: "another"}}, nil
}

type moreMentions struct{ readstate.Store }

func (s moreMentions) Mentions(ctx context.Context, u readstate.User, above map[topology.ChannelID]topology.Seq) (map[topology.ChannelID]uint64, error) {
	n, err := s.Store.Mentions(ctx, u, above)
	n["C1"]++
	return n, err
}
