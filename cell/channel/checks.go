package channel

import (
	"context"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// checksMax bounds each kind of remembered answer. They are forgotten all at
// once: after two seconds they would be anyway.
const checksMax = 1 << 16

// KnownMax is how long a channel's row and a membership are remembered. It is only
// a backstop: every change of them comes through the shard's owner, which forgets
// them then, and forgets all that it knew when it takes a shard. A directory that
// answers from memory, since its engine is away, has to reckon with it.
const KnownMax = time.Minute

// checks asks the directory and remembers what it allowed for a while. What it
// refused is asked again each time: a new member need not wait.
type checks struct {
	dir Directory
	ttl time.Duration
	now func() time.Time

	mu      sync.Mutex
	places  map[topology.Place]time.Time
	infos   map[topology.ChannelRef]knownInfo
	members map[memberID]time.Time
	changes map[topology.ChannelRef]uint64 // of memberships: an answer from before one is not remembered
	taken   uint64                         // the same for all channels
}

type knownInfo struct {
	Info
	at time.Time
}

type memberID struct {
	ref  topology.ChannelRef
	user topology.UserID
}

func newChecks(d Directory, ttl time.Duration, now func() time.Time) *checks {
	return &checks{
		dir: d, ttl: ttl, now: now, places: map[topology.Place]time.Time{},
		infos: map[topology.ChannelRef]knownInfo{}, members: map[memberID]time.Time{},
		changes: map[topology.ChannelRef]uint64{},
	}
}

// young reports whether an answer given at a time still counts.
func (c *checks) young(at, now time.Time) bool { return now.Sub(at) < c.ttl }

// forgetAll is for the time after a take: others may have changed anything.
func (c *checks) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken++
	clear(c.places)
	clear(c.infos)
	clear(c.members)
	clear(c.changes)
}

// forgetMembers makes a removal count at once here; the directory has it already.
func (c *checks) forgetMembers(ref topology.ChannelRef, us []topology.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.changes) >= checksMax {
		clear(c.changes)
		c.taken++
	}
	c.changes[ref]++
	for _, u := range us {
		delete(c.members, memberID{ref, u})
	}
}

// open refuses with kind Moved unless the workspace is open here.
func (c *checks) open(ctx context.Context, p topology.Place) error {
	now := c.now()
	c.mu.Lock()
	at, ok := c.places[p]
	c.mu.Unlock()
	if ok && c.young(at, now) {
		return nil
	}
	ok, err := c.dir.Open(ctx, p)
	if err != nil {
		return err
	}
	if !ok {
		return problem.New(problem.Moved, "the workspace is not open in this cell")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	remember(c.places, p, now)
	return nil
}

// info is the channel's row; fresh asks the directory in any case.
func (c *checks) info(ctx context.Context, ref topology.ChannelRef, fresh bool) (Info, error) {
	now := c.now()
	c.mu.Lock()
	k, ok := c.infos[ref]
	c.mu.Unlock()
	if ok && !fresh && (c.young(k.at, now) || !k.Importing && now.Sub(k.at) < KnownMax) {
		return k.Info, nil
	}
	info, err := c.dir.ChannelInfo(ctx, ref)
	if err != nil {
		return Info{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	remember(c.infos, ref, knownInfo{info, now})
	return info, nil
}

// refuse is for who is no member: NotFound of a channel that is private or not there
// yet, whose being there must not show, else Denied.
func (i Info) refuse() error {
	if i.Private || i.Importing {
		return problem.New(problem.NotFound, "no such channel")
	}
	return problem.New(problem.Denied, "you are not a member of this channel")
}

// member refuses those who are not members.
func (c *checks) member(ctx context.Context, ref topology.ChannelRef, info Info, u topology.UserID) error {
	id, now := memberID{ref, u}, c.now()
	c.mu.Lock()
	at, ok := c.members[id]
	changes, taken := c.changes[ref], c.taken
	c.mu.Unlock()
	if ok && now.Sub(at) < KnownMax {
		return nil
	}
	ok, err := c.dir.IsMember(ctx, ref, u)
	switch {
	case err != nil:
		return err
	case !ok:
		return info.refuse()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes[ref] == changes && c.taken == taken {
		remember(c.members, id, now)
	}
	return nil
}

func remember[K comparable, V any](m map[K]V, k K, v V) {
	if len(m) >= checksMax {
		clear(m)
	}
	m[k] = v
}
