// Package readstatetest runs the contract of readstate.Store, clause by clause,
// against a driver.
//
//nolint:thelper,gosec // clauses are tests, whose lines should be told; the numbers are small
package readstatetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/cell/change"
	"parley/cell/readstate"
	"parley/internal/topology"
)

// Instance is one store under test, empty at first.
type Instance interface {
	// Store is the driver; after Crash it is another one.
	Store() readstate.Store
	// Crash ends the driver's process without warning, as kill -9 or the
	// loss of power would, and opens again what is left.
	Crash() error
	// Close releases everything.
	Close() error
}

// Harness makes instances.
type Harness func() (Instance, error)

// Run runs the contract. Each subtest is named after its clause.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, s := range []struct {
		name string
		run  func(*testing.T, Instance)
	}{
		{"C1_PutOnlyRises", putOnlyRises},
		{"C1_PutIsDurable", putIsDurable},
		{"C1_ConcurrentPuts", concurrentPuts},
		{"C1_ConcurrentPutsThenCrash", concurrentPutsThenCrash},
		{"C2_MarksByChannel", marksByChannel},
		{"C2_UsersApart", usersApart},
		{"C3_AddMentionsIsRepeatable", addMentionsIsRepeatable},
		{"C3_AddMentionsAfterCrash", addMentionsAfterCrash},
		{"C4_MentionsAboveSeq", mentionsAboveSeq},
		{"C4_EverybodyAndUserIsOne", everybodyAndUserIsOne},
		{"C4_NotOnesOwn", notOnesOwn},
		{"C4_AtMostMentionsMax", atMostMentionsMax},
	} {
		t.Run(s.name, func(t *testing.T) {
			in, err := h()
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			t.Cleanup(func() {
				if err := in.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			s.run(t, in)
		})
	}
	t.Run("Model", func(t *testing.T) { runModel(t, h) })
}

// tb is the part of testing.TB that rapid.T has, too.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

type (
	marks  = map[topology.ChannelID]readstate.Mark
	counts = map[topology.ChannelID]uint64
	seqs   = map[topology.ChannelID]topology.Seq
)

func user(ws topology.WorkspaceID, g topology.Generation, id topology.UserID) readstate.User {
	return readstate.User{Place: topology.Place{Workspace: ws, Generation: g}, ID: id}
}

func ann() readstate.User {
	return user("W01ARZ3NDEKTSV4RRFFQ69G5FAV", 1, "U01ARZ3NDEKTSV4RRFFQ69G5FAV")
}

// in is the user of that id in u's place.
func sibling(u readstate.User, id topology.UserID) readstate.User {
	return readstate.User{Place: u.Place, ID: id}
}

func mark(version uint64, seq topology.Seq) readstate.Mark {
	return readstate.Mark{Version: version, Seq: seq, Message: topology.MessageID(fmt.Sprintf("%d-%d", version, seq))}
}

func put(t tb, s readstate.Store, u readstate.User, ch topology.ChannelID, m, want readstate.Mark) {
	t.Helper()
	got, err := s.Put(context.Background(), u, ch, m)
	if err != nil {
		t.Fatalf("Put(%v): %v", m, err)
	}
	if got != want {
		t.Fatalf("Put(%v) = %v, want %v", m, got, want)
	}
}

func wantMarks(t tb, s readstate.Store, u readstate.User, want marks) {
	t.Helper()
	got, err := s.Marks(context.Background(), u)
	if err != nil {
		t.Fatalf("Marks(%v): %v", u, err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("marks of %v (-want +got):\n%s", u, d)
	}
}

func mention(t tb, s readstate.Store, ms ...readstate.Mention) {
	t.Helper()
	if err := s.AddMentions(context.Background(), ms); err != nil {
		t.Fatalf("AddMentions: %v", err)
	}
}

// wantMentions takes a channel that is missing from the answer as 0.
func wantMentions(t tb, s readstate.Store, u readstate.User, above seqs, want counts) {
	t.Helper()
	got, err := s.Mentions(context.Background(), u, above)
	if err != nil {
		t.Fatalf("Mentions(%v): %v", u, err)
	}
	for ch, n := range got {
		if _, asked := above[ch]; !asked {
			t.Errorf("Mentions names channel %s that nobody asked for (%d)", ch, n)
		}
	}
	for ch, seq := range above {
		if got[ch] != want[ch] {
			t.Fatalf("mentions of %s in %s above %d = %d, want %d", u.ID, ch, seq, got[ch], want[ch])
		}
	}
}

func crash(t tb, in Instance) {
	t.Helper()
	if err := in.Crash(); err != nil {
		t.Fatalf("crash: %v", err)
	}
}

func putOnlyRises(t *testing.T, in Instance) {
	s := in.Store()
	put(t, s, ann(), "C1", mark(1, 5), mark(1, 5))
	put(t, s, ann(), "C1", mark(1, 4), mark(1, 5))
	put(t, s, ann(), "C1", mark(0, 99), mark(1, 5))
	put(t, s, ann(), "C1", mark(1, 5), mark(1, 5))
	put(t, s, ann(), "C1", mark(1, 6), mark(1, 6))
	put(t, s, ann(), "C1", mark(2, 2), mark(2, 2)) // marked unread
	put(t, s, ann(), "C1", mark(1, 7), mark(2, 2))
	other := mark(2, 2)
	other.Message = "another"
	put(t, s, ann(), "C1", other, mark(2, 2)) // not higher: the first stays
	put(t, s, ann(), "C2", mark(1<<63, 1<<62), mark(1<<63, 1<<62))
	wantMarks(t, s, ann(), marks{"C1": mark(2, 2), "C2": mark(1<<63, 1<<62)})
}

func putIsDurable(t *testing.T, in Instance) {
	for seq := topology.Seq(1); seq <= 5; seq++ {
		put(t, in.Store(), ann(), "C1", mark(1, seq), mark(1, seq))
		crash(t, in)
		wantMarks(t, in.Store(), ann(), marks{"C1": mark(1, seq)})
	}
}

// concurrentPuts wants each answer at least as high as what was put, and the
// highest at the end.
func concurrentPuts(t *testing.T, in Instance) {
	const writers, each = 8, 60
	s := in.Store()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			last := readstate.Mark{}
			for i := range each {
				m := mark(1, topology.Seq(rnd.IntN(1000)+1))
				if i == each-1 {
					m = mark(1, topology.Seq(2000+w))
				}
				got, err := s.Put(context.Background(), ann(), "C1", m)
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				if got.Less(m) || got.Less(last) {
					t.Errorf("Put(%v) = %v after %v", m, got, last)
				}
				last = got
			}
		})
	}
	wg.Wait()
	wantMarks(t, s, ann(), marks{"C1": mark(1, 2000+writers-1)})
}

// concurrentPutsThenCrash wants what any Put answered to be there afterwards, also
// when the mark in the answer was another call's.
func concurrentPutsThenCrash(t *testing.T, in Instance) {
	for round := range 5 {
		const writers = 8
		var wg sync.WaitGroup
		answers := make([]readstate.Mark, writers)
		for w := range writers {
			wg.Go(func() {
				m := mark(uint64(round+1), topology.Seq(w+1))
				got, err := in.Store().Put(context.Background(), ann(), "C1", m)
				if err != nil {
					t.Errorf("Put: %v", err)
				}
				answers[w] = got
			})
		}
		wg.Wait()
		crash(t, in)
		got, err := in.Store().Marks(context.Background(), ann())
		if err != nil {
			t.Fatalf("Marks: %v", err)
		}
		for _, a := range answers {
			if got["C1"].Less(a) {
				t.Fatalf("mark %v after a crash, answered was %v", got["C1"], a)
			}
		}
	}
}

func marksByChannel(t *testing.T, in Instance) {
	s := in.Store()
	wantMarks(t, s, ann(), nil)
	want := marks{}
	for i := range 300 {
		ch, m := topology.ChannelID(fmt.Sprintf("C%d", i)), mark(1, topology.Seq(i+1))
		put(t, s, ann(), ch, m, m)
		want[ch] = m
	}
	wantMarks(t, s, ann(), want)
}

func usersApart(t *testing.T, in Instance) {
	users := []readstate.User{
		user("W", 1, "U"), user("W", 2, "U"), user("W", 256, "U"), user("W1", 1, "U"),
		user("W", 1, "U1"), user("WU", 1, "U"), user("W", 1, "UU"), ann(),
	}
	want := map[readstate.User]marks{}
	for i, u := range users {
		want[u] = marks{}
		for _, ch := range []topology.ChannelID{"C", "C1", "UC"} {
			m := mark(1, topology.Seq(i+1))
			put(t, in.Store(), u, ch, m, m)
			want[u][ch] = m
			mention(t, in.Store(), readstate.Mention{User: u, Channel: ch, Seq: topology.Seq(i + 1), Rev: 1})
		}
	}
	for i, u := range users {
		wantMarks(t, in.Store(), u, want[u])
		wantMentions(t, in.Store(), u, seqs{"C": 0, "C1": topology.Seq(i), "UC": topology.Seq(i + 1)}, counts{"C": 1, "C1": 1})
	}
}

func addMentionsIsRepeatable(t *testing.T, in Instance) {
	s := in.Store()
	var ms []readstate.Mention
	for rev := topology.Rev(1); rev <= 9; rev++ { // three under each seq
		ms = append(ms, readstate.Mention{User: ann(), Channel: "C1", Seq: topology.Seq((rev + 2) / 3), Rev: rev, Author: "Ubob"})
	}
	mention(t, s)
	mention(t, s, ms[:4]...)
	mention(t, s, ms...)
	mention(t, s, ms[2:5]...)
	mention(t, s, append(ms[:1:1], ms[0])...)
	wantMentions(t, s, ann(), seqs{"C1": 0}, counts{"C1": 9})
}

// addMentionsAfterCrash: a crash may lose mentions, but not half of one.
func addMentionsAfterCrash(t *testing.T, in Instance) {
	for rev := topology.Rev(1); rev <= 6; rev++ {
		m := readstate.Mention{User: ann(), Channel: "C1", Seq: topology.Seq(rev), Rev: rev, Author: "Ubob"}
		mention(t, in.Store(), m)
		crash(t, in)
		mention(t, in.Store(), m)
		// Whatever was lost of the earlier ones is handed in again, too.
		for r := topology.Rev(1); r < rev; r++ {
			mention(t, in.Store(), readstate.Mention{User: ann(), Channel: "C1", Seq: topology.Seq(r), Rev: r, Author: "Ubob"})
		}
		wantMentions(t, in.Store(), ann(), seqs{"C1": 0}, counts{"C1": uint64(rev)})
	}
}

func mentionsAboveSeq(t *testing.T, in Instance) {
	s := in.Store()
	everybody := sibling(ann(), change.MentionAll)
	mention(t, s,
		readstate.Mention{User: ann(), Channel: "C1", Seq: 3, Rev: 4},
		readstate.Mention{User: ann(), Channel: "C1", Seq: 3, Rev: 9}, // a reply under the same message
		readstate.Mention{User: ann(), Channel: "C1", Seq: 7, Rev: 8},
		readstate.Mention{User: everybody, Channel: "C1", Seq: 5, Rev: 6},
		readstate.Mention{User: ann(), Channel: "C2", Seq: 1 << 39, Rev: 1 << 39},
		readstate.Mention{User: sibling(ann(), "Ubob"), Channel: "C1", Seq: 8, Rev: 10},
		readstate.Mention{User: everybody, Channel: "C3", Seq: 1, Rev: 1},
	)
	for above, want := range map[topology.Seq]uint64{0: 4, 2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 7: 0, 8: 0, 1 << 62: 0} {
		wantMentions(t, s, ann(), seqs{"C1": above}, counts{"C1": want})
	}
	wantMentions(t, s, ann(), seqs{"C1": 3, "C2": 0, "C3": 0, "C4": 0}, counts{"C1": 2, "C2": 1, "C3": 1})
	wantMentions(t, s, sibling(ann(), "Ucarl"), seqs{"C1": 0, "C2": 0}, counts{"C1": 1})
	wantMentions(t, s, ann(), nil, nil)
}

func everybodyAndUserIsOne(t *testing.T, in Instance) {
	s := in.Store()
	everybody := sibling(ann(), change.MentionAll)
	mention(t, s,
		readstate.Mention{User: ann(), Channel: "C1", Seq: 3, Rev: 4},
		readstate.Mention{User: everybody, Channel: "C1", Seq: 3, Rev: 4},
		readstate.Mention{User: everybody, Channel: "C1", Seq: 3, Rev: 5},
		readstate.Mention{User: ann(), Channel: "C1", Seq: 4, Rev: 6},
	)
	wantMentions(t, s, ann(), seqs{"C1": 0}, counts{"C1": 3})
	wantMentions(t, s, sibling(ann(), "Ubob"), seqs{"C1": 0}, counts{"C1": 2})
}

func notOnesOwn(t *testing.T, in Instance) {
	s := in.Store()
	everybody := sibling(ann(), change.MentionAll)
	mention(t, s,
		readstate.Mention{User: everybody, Channel: "C1", Seq: 1, Rev: 1, Author: ann().ID},
		readstate.Mention{User: everybody, Channel: "C1", Seq: 2, Rev: 2, Author: "Ubob"},
		readstate.Mention{User: ann(), Channel: "C1", Seq: 3, Rev: 3, Author: ann().ID},
	)
	wantMentions(t, s, ann(), seqs{"C1": 0}, counts{"C1": 1})
	wantMentions(t, s, sibling(ann(), "Ubob"), seqs{"C1": 0}, counts{"C1": 1})
	wantMentions(t, s, sibling(ann(), "Ucarl"), seqs{"C1": 0}, counts{"C1": 2})
}

func atMostMentionsMax(t *testing.T, in Instance) {
	s := in.Store()
	var ms []readstate.Mention
	for rev := topology.Rev(1); rev <= readstate.MentionsMax+50; rev++ {
		u := ann()
		if rev%3 == 0 {
			u.ID = change.MentionAll
		}
		ms = append(ms, readstate.Mention{User: u, Channel: "C1", Seq: topology.Seq(rev), Rev: rev})
	}
	mention(t, s, ms...)
	wantMentions(t, s, ann(), seqs{"C1": 0}, counts{"C1": readstate.MentionsMax})
	wantMentions(t, s, ann(), seqs{"C1": 50}, counts{"C1": readstate.MentionsMax})
	wantMentions(t, s, ann(), seqs{"C1": 51}, counts{"C1": readstate.MentionsMax - 1})

	// One's own alone reach the bound, and everybody's come on top.
	ms = nil
	for rev := topology.Rev(1); rev <= 2*readstate.MentionsMax; rev++ {
		u := ann()
		if rev > readstate.MentionsMax {
			u.ID = change.MentionAll
		}
		ms = append(ms, readstate.Mention{User: u, Channel: "C2", Seq: topology.Seq(rev), Rev: rev})
	}
	mention(t, s, ms...)
	wantMentions(t, s, ann(), seqs{"C2": 0}, counts{"C2": readstate.MentionsMax})
	wantMentions(t, s, ann(), seqs{"C2": readstate.MentionsMax - 1}, counts{"C2": readstate.MentionsMax})
}
