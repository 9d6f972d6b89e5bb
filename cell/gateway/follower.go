package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// follower follows one channel for all sessions of this gateway: one place in the
// log, and per link a group of the sessions that are at that place.
type follower struct {
	g     *Gateway
	ref   topology.ChannelRef
	lane  int
	ready chan struct{} // closed when rev is known

	holds     atomic.Int64 // who needs it; guarded by g.mu where it goes from 0 to 1
	idleSince atomic.Int64 // Unix ns, when holds became 0

	mu        sync.Mutex
	rev       topology.Rev // every group has had all up to here
	head      topology.Rev // the highest that is known to be confirmed
	started   bool         // rev is known
	repairing bool
	grown     chan struct{} // closed and renewed when rev rises
	groups    map[*peer]*group
	recent    []recentEvent // the last events up to rev, without gaps
	bytes     int           // of their payloads
}

// group is the sessions of one link that follow the channel.
type group struct {
	id       frame.GroupID
	sessions map[*session]struct{}
}

// recentEvent is kept so that a session is brought up to now without a read.
type recentEvent struct {
	rev     topology.Rev
	payload []byte
	left    []topology.UserID
}

// Bounds of what a follower keeps: enough for what happens during one read of the
// log.
const (
	recentMax      = 64
	recentBytesMax = 128 << 10
)

// follow gives the followers of channels, each held for the caller, in order, and
// waits until all know where they are.
func (g *Gateway) follow(ctx context.Context, refs []topology.ChannelRef) ([]*follower, error) {
	out := make([]*follower, len(refs))
	var fresh []*follower
	g.mu.Lock()
	for i, ref := range refs {
		f := g.followers[ref.Channel]
		if f == nil {
			f = &follower{
				g: g, ref: ref, lane: frame.LaneOf(string(ref.Channel)), ready: make(chan struct{}),
				grown: make(chan struct{}), groups: map[*peer]*group{},
			}
			g.followers[ref.Channel] = f
			fresh = append(fresh, f)
		}
		f.hold()
		out[i] = f
	}
	g.mu.Unlock()
	if len(fresh) > 0 {
		// Before the heads are read, so that nothing falls between.
		for _, f := range fresh {
			g.bus.Follow(router.ChannelTopic(f.ref.Channel))
			g.bus.Follow(router.TypingTopic(f.ref.Channel))
		}
		g.spawn(func(ctx context.Context) { g.startFollowers(ctx, fresh) })
	}
	for i, f := range out {
		select {
		case <-f.ready:
		case <-ctx.Done():
			for _, f := range out {
				f.release()
			}
			return nil, problem.Wrap(ctx.Err(), problem.Unavailable, "channel %d of %d can't be read now", i+1, len(out))
		}
	}
	return out, nil
}

// headsMax bounds one question for heads.
const headsMax = 500

// startFollowers finds out where channels are, again and again until they answer.
func (g *Gateway) startFollowers(ctx context.Context, fs []*follower) {
	for len(fs) > 0 {
		part := fs[:min(len(fs), headsMax)]
		heads, err := g.heads(ctx, part)
		if err != nil {
			if !g.pause(ctx, "the heads of channels can't be read; trying again", err) {
				return
			}
			continue
		}
		for i, f := range part {
			f.mu.Lock()
			f.rev, f.started = heads[i].Rev, true
			behind := f.head > f.rev
			f.mu.Unlock()
			close(f.ready)
			if behind {
				f.repair(0)
			}
		}
		fs = fs[len(part):]
	}
}

func (g *Gateway) heads(ctx context.Context, fs []*follower) ([]channel.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	refs := make([]topology.ChannelRef, len(fs))
	for i, f := range fs {
		refs[i] = f.ref
	}
	return g.deps.Servers.Heads(ctx, refs)
}

// retryPause is between two tries of what must succeed in the end.
const retryPause = 250 * time.Millisecond

// pause waits before another try; false if ctx ended.
func (g *Gateway) pause(ctx context.Context, what string, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	g.log.Warn(what, "err", err)
	t := time.NewTimer(retryPause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *follower) hold() { f.holds.Add(1) }

func (f *follower) release() {
	if f.holds.Add(-1) == 0 {
		f.idleSince.Store(f.g.deps.Now().UnixNano())
	}
}

// dropIdleFollowers ends followers that nobody has needed for a while.
func (g *Gateway) dropIdleFollowers(now time.Time) {
	var idle []*follower
	g.mu.Lock()
	for id, f := range g.followers {
		if f.holds.Load() == 0 && now.Sub(time.Unix(0, f.idleSince.Load())) > g.cfg.LingerMax {
			delete(g.followers, id)
			idle = append(idle, f)
		}
	}
	for _, f := range idle { // under the lock: a new follower of the channel comes after
		g.bus.Unfollow(router.ChannelTopic(f.ref.Channel))
		g.bus.Unfollow(router.TypingTopic(f.ref.Channel))
	}
	g.mu.Unlock()
}

func (g *Gateway) follower(ch topology.ChannelID) *follower {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.followers[ch]
}

// at is the rev the follower is at.
func (f *follower) at() topology.Rev {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev
}

// event takes a live event (G1).
func (f *follower) event(e router.Event) {
	f.mu.Lock()
	f.head = max(f.head, e.To)
	next := f.started && !f.repairing && e.From == f.rev+1
	if next {
		f.emit(e.To, e.Payload, e.Left)
	}
	behind := f.started && f.head > f.rev
	f.mu.Unlock()
	if behind {
		f.repair(0)
	}
}

// emit gives the next event to all groups. The caller holds f.mu.
func (f *follower) emit(rev topology.Rev, payload []byte, left []topology.UserID) {
	from := f.rev + 1
	f.rev = rev
	f.remember(recentEvent{rev, payload, left})
	for p, gr := range f.groups {
		p.send(f.lane, frame.GroupFrame{Group: gr.id, From: from, To: rev, Payload: payload})
		f.g.metrics.frames.Inc()
	}
	for _, u := range left {
		f.leave(u, rev)
	}
	close(f.grown)
	f.grown = make(chan struct{})
}

func (f *follower) remember(e recentEvent) {
	f.recent = append(f.recent, e)
	f.bytes += len(e.payload)
	for len(f.recent) > recentMax || f.bytes > recentBytesMax {
		f.bytes -= len(f.recent[0].payload)
		f.recent[0] = recentEvent{}
		f.recent = f.recent[1:]
	}
}

// leave takes a user's sessions out at rev (G2). The caller holds f.mu.
func (f *follower) leave(u topology.UserID, rev topology.Rev) {
	who := f.g.user(userKey{f.ref.Place, u})
	if who == nil {
		return
	}
	for _, s := range who.all() {
		gr := f.groups[s.peer]
		if gr == nil {
			continue
		}
		if _, ok := gr.sessions[s]; !ok {
			continue
		}
		s.peer.send(f.lane, frame.Leave{Group: gr.id, Rev: rev, Sessions: []topology.SessionID{s.open.Session}})
		f.remove(s, gr)
		s.give(f)
	}
	f.g.syncUser(who) // the user may be in it again since
}

// remove takes a session out of its group. The caller holds f.mu.
func (f *follower) remove(s *session, gr *group) {
	delete(gr.sessions, s)
	if len(gr.sessions) == 0 {
		s.peer.send(f.lane, frame.GroupClose{Group: gr.id})
		delete(f.groups, s.peer)
	}
}

// drop takes an ended session out.
func (f *follower) drop(s *session) {
	f.mu.Lock()
	if gr := f.groups[s.peer]; gr != nil {
		if _, ok := gr.sessions[s]; ok {
			f.remove(s, gr)
		}
	}
	f.mu.Unlock()
	f.release()
}

// repair reads what is missing from the log, up to the known head and at least
// up to target; one repair runs at a time.
func (f *follower) repair(target topology.Rev) {
	f.mu.Lock()
	f.head = max(f.head, target)
	run := f.started && !f.repairing && f.head > f.rev
	f.repairing = f.repairing || run
	f.mu.Unlock()
	if run {
		f.g.metrics.repairs.Inc()
		f.g.spawn(f.runRepair)
	}
}

// pageSize is how many changes are read at once.
const pageSize = 200

func (f *follower) runRepair(ctx context.Context) {
	for {
		f.mu.Lock()
		rev := f.rev
		if rev >= f.head {
			f.repairing = false
			f.mu.Unlock()
			f.g.flush()
			return
		}
		f.mu.Unlock()
		es, err := f.changes(ctx, rev)
		switch {
		case problem.Is(err, problem.Conflict):
			err = f.skip(ctx)
		case err == nil && len(es) == 0:
			err = problem.New(problem.Unavailable, "the log does not reach rev %d yet", rev+1)
		}
		if err != nil {
			if !f.g.pause(ctx, "a gap can't be repaired; trying again", err) {
				f.mu.Lock()
				f.repairing = false
				f.mu.Unlock()
				return
			}
			continue
		}
		f.mu.Lock()
		for _, e := range es {
			if e.Rev == f.rev+1 {
				f.emit(e.Rev, e.Payload, leftBy(e.Change))
			}
		}
		f.mu.Unlock()
	}
}

func leftBy(c change.Change) []topology.UserID {
	if c.Kind == change.Left {
		return c.Subjects
	}
	return nil
}

func (f *follower) changes(ctx context.Context, after topology.Rev) ([]channel.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, f.g.cfg.RequestMax)
	defer cancel()
	return f.g.deps.Servers.Changes(ctx, f.ref, after, pageSize)
}

// skip goes on at the head when the log no longer reaches back: every session is
// told to load afresh. Who has left meanwhile is found by the directory.
func (f *follower) skip(ctx context.Context) error {
	heads, err := f.g.heads(ctx, []*follower{f})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if heads[0].Rev <= f.rev {
		f.head = f.rev
		return nil
	}
	for p, gr := range f.groups {
		for s := range gr.sessions {
			p.send(f.lane, frame.Leave{Group: gr.id, Rev: f.rev, Sessions: []topology.SessionID{s.open.Session}})
			f.remove(s, gr)
			f.g.spawn(func(context.Context) { s.again(f) })
		}
	}
	f.rev = heads[0].Rev
	f.head = max(f.head, f.rev)
	f.recent, f.bytes = nil, 0
	close(f.grown)
	f.grown = make(chan struct{})
	return nil
}

// again subscribes a session from nothing: it gets a reset.
func (s *session) again(f *follower) {
	if err := f.subscribe(s, 0, false); err != nil && s.ctx.Err() == nil {
		s.refuse(err)
	}
	s.peer.flush()
}

// typing tells the groups that somebody types.
func (f *follower) typing(u topology.UserID) {
	payload := chat.Encode(chat.TypingEvent{Type: chat.TypeTyping, ChannelID: f.ref.Channel, UserID: u})
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, gr := range f.groups {
		p.send(f.lane, frame.GroupFrame{Group: gr.id, Payload: payload})
	}
}
