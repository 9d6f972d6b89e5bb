package unread_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/history"
	"parley/cell/pebbledb"
	"parley/cell/readstate"
	"parley/cell/router"
	"parley/cell/unread"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var place = topology.Place{Workspace: "W1", Generation: 1}

// rooms are channels and their members: the two doubles that the counter asks.
// Message n of a channel has the channel's number and seq n in its id.
type rooms struct {
	numbers map[topology.ChannelID]uint64
	heads   map[topology.ChannelID]topology.Seq
	members map[topology.ChannelID]map[topology.UserID]directory.Membership
	err     error
}

func newRooms() *rooms {
	return &rooms{
		numbers: map[topology.ChannelID]uint64{"C1": 1, "C2": 2, "C3": 3}, heads: map[topology.ChannelID]topology.Seq{},
		members: map[topology.ChannelID]map[topology.UserID]directory.Membership{},
	}
}

func (r *rooms) join(ch topology.ChannelID, u topology.UserID, at topology.Seq) {
	if r.members[ch] == nil {
		r.members[ch] = map[topology.UserID]directory.Membership{}
	}
	r.members[ch][u] = directory.Membership{Channel: ch, JoinedSeq: at}
}

func (r *rooms) id(ch topology.ChannelID, seq topology.Seq) topology.MessageID {
	return change.NewID(1_700_000_000_000, r.numbers[ch], seq, 0)
}

func (r *rooms) ChannelsOf(_ context.Context, _ topology.Place, u topology.UserID) (out []directory.Membership, err error) {
	for _, ch := range slices.Sorted(maps.Keys(r.members)) {
		if m, ok := r.members[ch][u]; ok {
			out = append(out, m)
		}
	}
	return out, r.err
}

func (r *rooms) Member(_ context.Context, _ topology.Place, ch topology.ChannelID, u topology.UserID) (directory.Membership, bool, error) {
	m, ok := r.members[ch][u]
	return m, ok, r.err
}

func (r *rooms) Heads(_ context.Context, chs []topology.ChannelRef) ([]channel.Head, error) {
	out := make([]channel.Head, len(chs))
	for i, ch := range chs {
		out[i] = channel.Head{Seq: r.heads[ch.Channel]}
	}
	return out, r.err
}

func (r *rooms) Get(_ context.Context, ch topology.ChannelRef, id topology.MessageID) (history.Message, error) {
	p, err := change.ParseID(id)
	if err != nil || p.Number != r.numbers[ch.Channel] || p.Seq == 0 || p.Seq > r.heads[ch.Channel] {
		return history.Message{}, problem.New(problem.NotFound, "none")
	}
	var m history.Message
	m.ID, m.Seq = id, p.Seq
	return m, r.err
}

// told counts the notices about read state.
type told struct {
	mu  sync.Mutex
	got []router.Notice
}

func (n *told) Lost() {}

func (n *told) Deliver(ms []router.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range ms {
		if v, err := router.DecodeNotice(m.Payload); err == nil {
			n.got = append(n.got, v)
		}
	}
}

func (n *told) all() []router.Notice {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.got)
}

func openMarks(t *testing.T) readstate.Store {
	t.Helper()
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db.ReadState()
}

func TestCounter_Counts(t *testing.T) {
	const pending = math.MaxInt64
	for name, c := range map[string]struct {
		head, joined, read topology.Seq
		mentions           []topology.Seq
		unread, mentioned  uint64
	}{
		"nothing yet":                 {},
		"all new":                     {head: 5, unread: 5},
		"joined later":                {head: 5, joined: 3, unread: 2},
		"joined at the head":          {head: 5, joined: 5},
		"joining is not in the log":   {head: 5, joined: pending, mentions: []topology.Seq{4}},
		"read some":                   {head: 5, read: 4, unread: 1},
		"read all":                    {head: 5, read: 5, mentions: []topology.Seq{1, 5}},
		"read, then joined again":     {head: 9, read: 2, joined: 6, mentions: []topology.Seq{1, 3, 7}, unread: 3, mentioned: 1},
		"read beyond the joining":     {head: 9, read: 7, joined: 6, mentions: []topology.Seq{7, 8, 9}, unread: 2, mentioned: 2},
		"mentions below what is read": {head: 3, read: 1, mentions: []topology.Seq{1}, unread: 2},
	} {
		t.Run(name, func(t *testing.T) {
			r, marks := newRooms(), openMarks(t)
			u := readstate.User{Place: place, ID: "U1"}
			r.heads["C1"] = c.head
			r.join("C1", "U1", c.joined)
			for i, seq := range c.mentions {
				m := readstate.Mention{User: u, Channel: "C1", Seq: seq, Rev: topology.Rev(seq + 10), Author: "U2"}
				if i%2 == 1 {
					m.User.ID = change.MentionAll
				}
				if err := marks.AddMentions(t.Context(), []readstate.Mention{m}); err != nil {
					t.Fatal(err)
				}
			}
			want := chat.ReadState{ChannelID: "C1", UnreadCount: c.unread, MentionCount: c.mentioned}
			if c.read > 0 {
				id := r.id("C1", c.read)
				want.LastReadMessageID = &id
				if _, err := marks.Put(t.Context(), u, "C1", readstate.Mark{Seq: c.read, Message: id}); err != nil {
					t.Fatal(err)
				}
			}
			counter := unread.New(r, r, marks, router.NewLocal(router.LocalConfig{}))
			got, err := counter.State(t.Context(), place, "U1", "C1")
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Errorf("%v (-want +got):\n%s", err, d)
			}
			all, err := counter.All(t.Context(), place, "U1")
			if d := cmp.Diff([]chat.ReadState{want}, all); err != nil || d != "" {
				t.Errorf("%v (-want +got):\n%s", err, d)
			}
		})
	}
}

func TestCounter_MarkReadRefuses(t *testing.T) {
	r := newRooms()
	r.heads["C1"], r.heads["C2"] = 3, 3
	r.join("C1", "U1", 0)
	r.join("C2", "U2", 0)
	bus := router.NewLocal(router.LocalConfig{})
	n := &told{}
	a := bus.Attach(n)
	defer a.Close()
	a.Follow(router.UserTopic("U1"))
	counter := unread.New(r, r, openMarks(t), bus)
	reply := change.NewID(1, 1, 0, 2)
	for name, c := range map[string]struct {
		ch   topology.ChannelID
		id   topology.MessageID
		kind problem.Kind
	}{
		"not a member":        {"C2", r.id("C2", 1), problem.Denied},
		"no such channel":     {"C9", r.id("C1", 1), problem.Denied},
		"no message":          {"C1", "", problem.Invalid},
		"garbage":             {"C1", "hello", problem.Invalid},
		"a reply":             {"C1", reply, problem.Invalid},
		"of another channel":  {"C1", r.id("C2", 1), problem.Invalid},
		"above the head":      {"C1", r.id("C1", 4), problem.Invalid},
		"an id with a slip":   {"C1", r.id("C1", 1)[:25], problem.Invalid},
		"an id in lower case": {"C1", "01h" + r.id("C1", 1)[3:], problem.Invalid},
	} {
		_, err := counter.MarkRead(t.Context(), place, "U1", c.ch, c.id)
		if !problem.Is(err, c.kind) {
			t.Errorf("%s: %v, want kind %s", name, err, c.kind)
		}
	}
	if _, err := counter.State(t.Context(), place, "U1", "C2"); !problem.Is(err, problem.Denied) {
		t.Errorf("State of a channel that the user is not in: %v", err)
	}
	states, err := counter.All(t.Context(), place, "U1")
	if d := cmp.Diff([]chat.ReadState{{ChannelID: "C1", UnreadCount: 3}}, states); err != nil || d != "" {
		t.Errorf("a refused mark counts: %v\n%s", err, d)
	}
	if none, err := counter.All(t.Context(), place, "U9"); err != nil || none == nil || len(none) != 0 {
		t.Errorf("a user without channels: %v, %v; JSON wants [], not null", none, err)
	}
	// All sessions hear of a mark that moved; nothing was said before.
	got, err := counter.MarkRead(t.Context(), place, "U1", "C1", r.id("C1", 2))
	if err != nil || got.UnreadCount != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	late := time.After(20 * time.Second)
	for len(n.all()) == 0 {
		select {
		case <-late:
			t.Fatal("nobody was told")
		case <-time.After(time.Millisecond):
		}
	}
	if d := cmp.Diff([]router.Notice{{Kind: router.NoticeReadState, Channel: "C1"}}, n.all()); d != "" {
		t.Error(d)
	}
	r.err = problem.New(problem.Unavailable, "no owner")
	if _, err := counter.All(t.Context(), place, "U1"); !problem.Is(err, problem.Unavailable) {
		t.Errorf("an outage: %v", err)
	}
	if _, err := counter.MarkRead(t.Context(), place, "U1", "C1", r.id("C1", 3)); !problem.Is(err, problem.Unavailable) {
		t.Errorf("an outage: %v", err)
	}
}

// model is what a user's reading comes to, written down plainly: every message
// that is unread, every mention among them.
type model struct {
	joined, read topology.Seq
	mentions     []topology.Seq
}

func (m model) state(head topology.Seq) (unreadCount, mentionCount uint64) {
	for seq := topology.Seq(1); seq <= head; seq++ {
		if seq > m.joined && seq > m.read {
			unreadCount++
		}
	}
	for _, seq := range m.mentions {
		if seq > m.joined && seq > m.read {
			mentionCount++
		}
	}
	return unreadCount, mentionCount
}

// Random messages, mentions, marks (back and forth), leavings and joinings.
func TestCounter_Model(t *testing.T) {
	marks := openMarks(t)
	histories := 0
	rapid.Check(t, func(t *rapid.T) {
		histories++
		p := topology.Place{Workspace: topology.WorkspaceID(fmt.Sprintf("Wm%d", histories)), Generation: 1}
		r := newRooms()
		counter := unread.New(r, r, marks, router.NewLocal(router.LocalConfig{}))
		u := readstate.User{Place: p, ID: "U1"}
		ms := map[topology.ChannelID]*model{"C1": {}, "C2": {}, "C3": {}}
		for ch := range ms {
			r.join(ch, "U1", 0)
		}
		rev := topology.Rev(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			ch := rapid.SampledFrom([]topology.ChannelID{"C1", "C2", "C3"}).Draw(t, "channel")
			m := ms[ch]
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1: // a message
				r.heads[ch]++
			case 2: // one that mentions the user
				r.heads[ch]++
				rev++
				mention := readstate.Mention{User: u, Channel: ch, Seq: r.heads[ch], Rev: rev, Author: "U2"}
				if err := marks.AddMentions(context.Background(), []readstate.Mention{mention, mention}); err != nil {
					t.Fatal(err)
				}
				m.mentions = append(m.mentions, r.heads[ch])
			case 3, 4: // a mark, anywhere
				if r.heads[ch] == 0 {
					continue
				}
				seq := topology.Seq(rapid.Uint64Range(1, uint64(r.heads[ch])).Draw(t, "seq"))
				m.read = max(m.read, seq)
				got, err := counter.MarkRead(context.Background(), p, "U1", ch, r.id(ch, seq))
				if err != nil {
					t.Fatal(err)
				}
				check(t, r, ch, *m, got)
			default: // out and in again
				m.joined = r.heads[ch]
				r.join(ch, "U1", m.joined)
			}
		}
		all, err := counter.All(context.Background(), p, "U1")
		if err != nil || len(all) != 3 {
			t.Fatalf("%v, %v", all, err)
		}
		for _, got := range all {
			check(t, r, got.ChannelID, *ms[got.ChannelID], got)
		}
	})
}

func check(t *rapid.T, r *rooms, ch topology.ChannelID, m model, got chat.ReadState) {
	t.Helper()
	want := chat.ReadState{ChannelID: ch}
	want.UnreadCount, want.MentionCount = m.state(r.heads[ch])
	if m.read > 0 {
		id := r.id(ch, m.read)
		want.LastReadMessageID = &id
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s at head %d, %+v (-want +got):\n%s", ch, r.heads[ch], m, d)
	}
}
