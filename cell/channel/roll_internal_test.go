package channel

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"parley/cell/change"
	"parley/internal/topology"
)

var rollRef = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}

// entry is a change of membership on its way from the directory to the log.
type moveOf struct {
	kind change.Kind
	user topology.UserID
}

// A directory, whose changes reach the log later and in order, and a roll that is loaded
// at any time: whoever the roll has is in by the log, or was let in by the directory;
// whoever the log has taken out last is not in it; and all who are in both are in it.
func TestRolls_FollowTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			rs      rolls
			now     = time.Unix(1e9, 0)
			dir     = map[topology.UserID]bool{}
			inLog   = map[topology.UserID]bool{}
			outbox  []moveOf
			loading *roll
			list    []topology.UserID
			read    bool
			loaded  bool
		)
		user := rapid.SampledFrom([]topology.UserID{"U1", "U2", "U3"})
		pending := func(u topology.UserID) bool {
			return slices.ContainsFunc(outbox, func(m moveOf) bool { return m.user == u })
		}
		t.Repeat(map[string]func(*rapid.T){
			"directory": func(t *rapid.T) {
				u := user.Draw(t, "user")
				m := moveOf{change.Joined, u}
				if dir[u] {
					m.kind = change.Left
				}
				dir[u] = !dir[u]
				outbox = append(outbox, m)
			},
			"log": func(t *rapid.T) {
				if len(outbox) == 0 {
					t.Skip("nothing is pending")
				}
				m := outbox[0]
				outbox = outbox[1:]
				inLog[m.user] = m.kind == change.Joined
				rs.numbered(rollRef, m.kind, []topology.UserID{m.user})
			},
			"ask": func(t *rapid.T) {
				now = now.Add(rollFor)
				r, due := rs.begin(rollRef, now, false)
				if !due {
					t.Skip("it is being loaded")
				}
				loading, read = r, false
			},
			"read": func(t *rapid.T) {
				if loading == nil || read {
					t.Skip("no list is asked for")
				}
				read, list = true, nil
				for u, in := range dir {
					if in {
						list = append(list, u)
					}
				}
			},
			"answer": func(t *rapid.T) {
				if !read || loading == nil {
					t.Skip("no list is there")
				}
				var err error
				if rapid.Bool().Draw(t, "fails") {
					err = errors.New("away")
				}
				rs.end(rollRef, loading, list, true, err, now)
				loaded = loaded || err == nil
				loading = nil
			},
			"": func(t *rapid.T) {
				for _, u := range []topology.UserID{"U1", "U2", "U3"} {
					in, left := rs.look(rollRef, u)
					if in && !inLog[u] && !pending(u) {
						t.Fatalf("%s is on the roll, and neither in the log's nor in the directory's", u)
					}
					if left && inLog[u] {
						t.Fatalf("%s is said to have left, and is in by the log", u)
					}
					if loaded && !in && inLog[u] && dir[u] && !pending(u) {
						t.Fatalf("%s is not on the roll", u)
					}
				}
				if want := rs.sizeOf(); rs.size != want {
					t.Fatalf("the rolls say that they hold %d, and hold %d", rs.size, want)
				}
			},
		})
	})
}

// sizeOf counts what size says.
func (rs *rolls) sizeOf() (n int) {
	for _, r := range rs.known {
		n += 1 + len(r.members)
	}
	return n
}

func users(n int) []topology.UserID {
	us := make([]topology.UserID, n)
	for i := range us {
		us[i] = topology.UserID(rune('a'+i%26)) + topology.UserID(rune('A'+i/26))
	}
	return us
}

func TestRolls_AreBounded(t *testing.T) {
	var rs rolls
	now := time.Unix(1e9, 0)
	load := func(ch topology.ChannelID, n int, later bool) bool {
		ref := topology.ChannelRef{Place: rollRef.Place, Channel: ch}
		r, due := rs.begin(ref, now, later)
		if due {
			rs.end(ref, r, users(n), true, nil, now)
		}
		return due
	}
	for i := range 100 {
		now = now.Add(rollAgain)
		load(topology.ChannelID(rune('a'+i)), 500, false)
		if rs.size > rollsMax || rs.size != rs.sizeOf() {
			t.Fatalf("%d members in %d rolls, by their own count %d", rs.sizeOf(), len(rs.known), rs.size)
		}
	}
	if len(rs.known) < rollsMax/500-1 {
		t.Errorf("only %d rolls are kept", len(rs.known))
	}
	if load("other", 1, true) {
		t.Error("a roll that nobody needs yet is loaded at the cost of others")
	}
	now = now.Add(rollAgain)
	if load("z", 1, false); load("z", 1, false) {
		t.Error("a roll is loaded twice")
	}
}

// Three channels of which two fit, all in use: they don't take turns.
func TestRolls_ThoseInUseStay(t *testing.T) {
	var rs rolls
	now := time.Unix(1e9, 0)
	loads := 0
	for range 50 {
		for _, ch := range []topology.ChannelID{"C1", "C2", "C3"} {
			ref := topology.ChannelRef{Place: rollRef.Place, Channel: ch}
			rs.look(ref, "U1")
			if r, due := rs.begin(ref, now, false); due {
				loads++
				rs.end(ref, r, users(rollMax*9/10), true, nil, now)
			}
		}
		now = now.Add(rollAgain)
	}
	if loads > 6 {
		t.Errorf("%d loads for three channels in use", loads)
	}
	if rs.size > rollsMax || rs.size != rs.sizeOf() || len(rs.known) < 2 {
		t.Errorf("%d members in %d rolls, by their own count %d", rs.sizeOf(), len(rs.known), rs.size)
	}
}

// A post that waited while its author was taken out, also among very many.
func TestRolls_LeftSince(t *testing.T) {
	var rs rolls
	before := rs.leaves.Load()
	rs.numbered(rollRef, change.Left, []topology.UserID{"U1"})
	between := rs.leaves.Load()
	for _, c := range []struct {
		user   topology.UserID
		leaves uint64
		left   bool
	}{{"U1", before, true}, {"U1", between, false}, {"U2", before, false}} {
		if left, unsure := rs.leftSince(rollRef, c.user, c.leaves); left != c.left || unsure {
			t.Errorf("%s since %d: left %v, unsure %v", c.user, c.leaves, left, unsure)
		}
	}
	rs.numbered(rollRef, change.Joined, []topology.UserID{"U1"})
	if left, _ := rs.leftSince(rollRef, "U1", before); left {
		t.Error("who is in again counts as gone")
	}
	rs.numbered(rollRef, change.Left, users(goneMax+1))
	if _, unsure := rs.leftSince(rollRef, "U2", between); !unsure {
		t.Error("a removal that is not remembered is taken for none")
	}
	if left, unsure := rs.leftSince(rollRef, "U2", rs.leaves.Load()); left || unsure {
		t.Error("a post that came afterwards is refused")
	}
}
