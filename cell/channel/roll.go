package channel

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// rollMax bounds the members of one channel's roll. Of a larger channel each member
	// is asked for, as before there were rolls.
	rollMax = 2000
	// rollsMax bounds all rolls of a shard: members, and one for each channel. Some 100
	// bytes each, so 50 MB in a server that holds all shards, and they are full.
	rollsMax = 4096
	// rollQueue channels of a server may wait for their rolls; more are asked for again.
	rollQueue = 1024
	// rollLoadMax bounds one load.
	rollLoadMax = 5 * time.Second
	// rollFor is how long a roll is kept before it is loaded again. It is exact without
	// that, unless somebody puts a backup of the directory in.
	rollFor = 10 * time.Minute
	// rollAgain is when a load that failed, or found no room, may be tried again.
	rollAgain = time.Second
	// missedMax bounds the changes of membership while one load is under way.
	missedMax = 256
	// goneMax bounds the removals that are remembered for posts under way.
	goneMax = 1024
)

// rolls are who is in the channels of a shard, for as long as this server holds it:
// who may post is then known without the directory, also while that is away.
//
// A roll is the directory's list of members, and after that the channel's own log. It is
// never behind either:
//
//  1. What the log had before the list was asked for, the directory had before that:
//     it is in the list.
//  2. What comes into the log since then is numbered by this server, or finds the
//     shard lost; numbering notes it, in the log's order. While a list is under way it
//     is noted beside it, and done to it afterwards.
//  3. What an older owner wrote and this one found on opening the channel was numbered
//     by neither: if there is a change of membership in it, the roll is forgotten.
//  4. A post is checked against what is numbered before it, so nobody posts above the
//     rev of their own removal. (That goes for every post, whatever let it in.)
//
// A roll may be ahead of the log: the list has what the directory has. So who is not in
// it is asked for, unless the log has just had them leave: then an answer from memory,
// of a directory that is away, may be older.
type rolls struct {
	leaves atomic.Uint64 // removals numbered so far

	mu      sync.Mutex
	known   map[topology.ChannelRef]*roll
	size    int
	full    time.Time           // until then there is no room for another
	gone    map[memberID]uint64 // by which of the leaves
	unknown uint64              // removals up to this one are not in gone
}

// roll is one channel's. members is nil until there is a list, and in a channel with
// too many.
type roll struct {
	members map[topology.UserID]struct{}
	loading bool
	missed  []moved
	due     time.Time // of the next load
	used    bool      // since room was last looked for
}

// moved is who came or went.
type moved struct {
	in bool
	us []topology.UserID
}

// look reports whether a user is known to be a member, or known to have left.
func (rs *rolls) look(ref topology.ChannelRef, u topology.UserID) (in, left bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r := rs.known[ref]; r != nil {
		_, in = r.members[u]
		r.used = true
	}
	return in, rs.gone[memberID{ref, u}] > 0
}

// numbered notes a change of membership that has got its rev. The worker calls it, in
// the log's order. Should the commit fail, the directory still has the change.
func (rs *rolls) numbered(ref topology.ChannelRef, kind change.Kind, us []topology.UserID) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	m := moved{in: kind != change.Left, us: us}
	if m.in {
		for _, u := range us {
			delete(rs.gone, memberID{ref, u})
		}
	} else {
		rs.left(ref, us)
	}
	r := rs.known[ref]
	if r == nil {
		return
	}
	if r.loading {
		r.missed = append(r.missed, m)
	}
	if r.members != nil {
		rs.size += r.apply(m)
	}
	if len(r.missed) > missedMax || len(r.members) > rollMax {
		rs.drop(ref)
	}
}

func (rs *rolls) left(ref topology.ChannelRef, us []topology.UserID) {
	n := rs.leaves.Add(1)
	if len(rs.gone)+len(us) > goneMax {
		rs.gone, rs.unknown = nil, n
		return
	}
	if rs.gone == nil {
		rs.gone = map[memberID]uint64{}
	}
	for _, u := range us {
		rs.gone[memberID{ref, u}] = n
	}
}

// leftSince reports whether a user was taken out after so many leaves; unsure if it may
// have been.
func (rs *rolls) leftSince(ref topology.ChannelRef, u topology.UserID, leaves uint64) (left, unsure bool) {
	if rs.leaves.Load() == leaves {
		return false, false
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.gone[memberID{ref, u}] > leaves, rs.unknown > leaves
}

// apply carries out a change, and gives by how much the roll grew.
func (r *roll) apply(m moved) int {
	before := len(r.members)
	for _, u := range m.us {
		if m.in {
			r.members[u] = struct{}{}
		} else {
			delete(r.members, u)
		}
	}
	return len(r.members) - before
}

// begin reports whether a channel's roll should be loaded now, and if so notes what
// happens meanwhile: end must be called. One that is only of use later is not loaded
// at the cost of others.
func (rs *rolls) begin(ref topology.ChannelRef, now time.Time, later bool) (*roll, bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.known[ref]
	switch {
	case r == nil && later && rs.size > rollsMax/2:
		return nil, false
	case r == nil && !rs.room(1, now):
		return nil, false
	case r == nil:
		r = &roll{used: true}
		if rs.known == nil {
			rs.known = map[topology.ChannelRef]*roll{}
		}
		rs.known[ref] = r
		rs.size++
	case r.loading || now.Before(r.due):
		return nil, false
	}
	r.loading, r.missed = true, nil
	return r, true
}

// end takes the list that was asked for, or what is left without one.
func (rs *rolls) end(ref topology.ChannelRef, r *roll, us []topology.UserID, all bool, err error, now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.known[ref] != r {
		return // forgotten meanwhile
	}
	missed := r.missed
	r.missed, r.due = nil, now.Add(rollFor)
	defer func() { r.loading = false }() // until then it is not dropped to make room
	if err != nil {
		r.due = now.Add(rollAgain) // what there was is as exact as before
		return
	}
	rs.size -= len(r.members)
	r.members = nil
	if !all || !rs.room(len(us), now) {
		return // each is asked for
	}
	r.members = make(map[topology.UserID]struct{}, len(us))
	rs.size += r.apply(moved{in: true, us: us})
	for _, m := range missed {
		rs.size += r.apply(m)
	}
}

// forget drops a channel's roll, also one that is being loaded.
func (rs *rolls) forget(ref topology.ChannelRef) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.drop(ref)
}

// room makes room for so many more, if there are rolls that were not used since it was
// last looked for. Those in use stay: two large channels would else have each other's
// roll dropped, and theirs loaded, with every post. The lock is held.
func (rs *rolls) room(more int, now time.Time) bool {
	if rs.size+more > rollsMax && now.Before(rs.full) {
		return false
	}
	for ref, r := range rs.known {
		if rs.size+more <= rollsMax {
			return true
		}
		if !r.used && !r.loading {
			rs.drop(ref)
		}
		r.used = false
	}
	if rs.size+more > rollsMax {
		rs.full = now.Add(rollAgain)
		return false
	}
	return true
}

// drop is forget for who holds the lock.
func (rs *rolls) drop(ref topology.ChannelRef) {
	if r := rs.known[ref]; r != nil {
		rs.size -= 1 + len(r.members)
		delete(rs.known, ref)
	}
}

// rollWanted is a roll to be loaded.
type rollWanted struct {
	sh   *shard
	ref  topology.ChannelRef
	roll *roll
}

// rollSoon has a channel's roll loaded, unless it is there. later says that nobody
// posts yet: somebody's socket follows the channel.
func (sh *shard) rollSoon(ref topology.ChannelRef, later bool) {
	r, due := sh.rolls.begin(ref, time.Now(), later)
	if !due {
		return
	}
	select {
	case sh.s.rollsWanted <- rollWanted{sh, ref, r}:
	default:
		sh.rolls.forget(ref)
	}
}

// loadRolls loads rolls, one at a time, until ctx ends. With a roll comes all that a
// post there needs to be let in while the directory is away.
func (s *Server) loadRolls(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-s.rollsWanted:
			us, all, err := s.rollOf(ctx, w.ref)
			w.sh.rolls.end(w.ref, w.roll, us, all, err, time.Now())
		}
	}
}

func (s *Server) rollOf(ctx context.Context, ref topology.ChannelRef) (us []topology.UserID, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, rollLoadMax)
	defer cancel()
	if err := s.checks.open(ctx, ref.Place); err != nil {
		return nil, false, err
	}
	if _, err := s.checks.info(ctx, ref, false); err != nil {
		return nil, false, err
	}
	return s.deps.Directory.Members(ctx, ref, rollMax)
}

// member refuses who is no member.
func (sh *shard) member(ctx context.Context, ref topology.ChannelRef, info Info, u topology.UserID) error {
	in, left := sh.rolls.look(ref, u)
	switch {
	case left:
		return info.refuse()
	case in:
		return nil
	}
	sh.rollSoon(ref, false)
	return sh.s.checks.member(ctx, ref, info, u)
}

// stillIn refuses who was taken out after the post was let in.
func (sh *shard) stillIn(ref topology.ChannelRef, info Info, u topology.UserID, leaves uint64) error {
	switch left, unsure := sh.rolls.leftSince(ref, u, leaves); {
	case left:
		return info.refuse()
	case unsure:
		return problem.New(problem.Unavailable, "many members are leaving at the moment; try again")
	}
	return nil
}

// movesMembers reports whether a change of membership is among changes.
func movesMembers(cs []change.Change) bool {
	return slices.ContainsFunc(cs, func(c change.Change) bool {
		return c.Kind == change.Created || c.Kind == change.Joined || c.Kind == change.Left
	})
}
