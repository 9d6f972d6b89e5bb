package gateway

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

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

	holds     atomic.Int64 // who needs it; from 0 to 1 only under the roll's lock
	idleSince atomic.Int64 // Unix ns, when holds became 0

	mu        sync.Mutex
	rev       topology.Rev // every group has had all up to here
	head      topology.Rev // the highest that is known to be confirmed
	started   bool         // rev is known
	repairing bool
	grown     chan struct{} // closed when rev rises; nil while nobody waits
	groups    map[*peer]*group
	recent    []event // the last events up to rev, without gaps
	bytes     int     // of their payloads
}

// group is the sessions of one link that follow the channel.
type group struct {
	id       frame.GroupID
	sessions map[*session]struct{}
}

// event is a change as sessions get it.
type event struct {
	rev          topology.Rev
	payload      []byte
	joined, left []topology.UserID
}

// eventOf keeps of a change what sessions need.
func eventOf(e channel.Event) event {
	out := event{rev: e.Rev, payload: e.Payload}
	switch e.Kind {
	case change.Left:
		out.left = e.Subjects
	case change.Joined, change.Created:
		out.joined = e.Subjects
	default:
	}
	return out
}

// Bounds of what a follower keeps: enough for what happens during one read of the
// log.
const (
	recentMax      = 64
	recentBytesMax = 128 << 10
)

func (f *follower) hold() { f.holds.Add(1) }

func (f *follower) release() {
	if f.holds.Add(-1) == 0 {
		f.idleSince.Store(f.g.deps.Now().UnixNano())
	}
}

// at is the rev the follower is at.
func (f *follower) at() topology.Rev {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev
}

func (f *follower) isStarted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started
}

// headIs takes the channel's head from its owner: the first one starts the
// follower there, later ones show what is missing.
func (f *follower) headIs(rev topology.Rev) {
	f.mu.Lock()
	if !f.started {
		f.rev, f.started = rev, true
		close(f.ready)
	}
	f.mu.Unlock()
	f.repair(rev)
}

// event takes a live event (G1).
func (f *follower) event(e router.Event) {
	f.mu.Lock()
	f.head = max(f.head, e.To)
	if f.started && !f.repairing && e.From == f.rev+1 {
		f.emit(event{rev: e.To, payload: e.Payload, joined: e.Joined, left: e.Left})
	}
	f.mu.Unlock()
	f.repair(0)
}

// emit gives the next event to all groups. The caller holds f.mu.
func (f *follower) emit(e event) {
	from := f.rev + 1
	f.moveTo(e.rev)
	f.recent = append(f.recent, e)
	f.bytes += len(e.payload)
	for len(f.recent) > recentMax || f.bytes > recentBytesMax {
		f.bytes -= len(f.recent[0].payload)
		f.recent[0] = event{}
		f.recent = f.recent[1:]
	}
	for p, gr := range f.groups {
		p.send(f.lane, frame.GroupFrame{Group: gr.id, From: from, To: e.rev, Payload: e.payload})
		f.g.metrics.frames.Inc()
	}
	for _, u := range e.left {
		f.leave(u)
	}
	for _, u := range e.joined {
		if who := f.g.user(userKey{f.ref.Place, u}); who != nil {
			f.g.syncUser(who)
		}
	}
}

// moveTo sets the rev. The caller holds f.mu.
func (f *follower) moveTo(rev topology.Rev) {
	f.rev = rev
	f.head = max(f.head, rev)
	if f.grown != nil {
		close(f.grown)
		f.grown = nil
	}
}

// leave takes a user's sessions out at the present rev (G2). The caller holds f.mu.
func (f *follower) leave(u topology.UserID) {
	who := f.g.user(userKey{f.ref.Place, u})
	if who == nil {
		return
	}
	for _, s := range who.all() {
		f.part(s)
	}
	f.g.syncUser(who) // the user may be in it again since
}

// part takes a session out of its group for good. The caller holds f.mu.
func (f *follower) part(s *session) bool {
	gr := f.groups[s.peer]
	if gr == nil {
		return false
	}
	if _, ok := gr.sessions[s]; !ok {
		return false
	}
	s.peer.send(f.lane, frame.Leave{Group: gr.id, Rev: f.rev, Sessions: []topology.SessionID{s.open.Session}})
	f.remove(s, gr)
	s.endedAt(f.ref.Channel, f.rev)
	s.give(f)
	return true
}

// remove takes a session out of its group. The caller holds f.mu.
func (f *follower) remove(s *session, gr *group) {
	delete(gr.sessions, s)
	if len(gr.sessions) == 0 {
		s.peer.send(f.lane, frame.GroupClose{Group: gr.id})
		delete(f.groups, s.peer)
	}
}

// drop takes an ended session out and ends its claim.
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

// sessions are those that are live in the channel.
func (f *follower) sessions() []*session {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, gr := range f.groups {
		n += len(gr.sessions)
	}
	out := make([]*session, 0, n)
	for _, gr := range f.groups {
		for s := range gr.sessions {
			out = append(out, s)
		}
	}
	return out
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
		if rev >= f.head || f.holds.Load() == 0 { // who holds it next repairs again
			f.repairing = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		es, err := f.g.read(ctx, f.ref, rev)
		switch {
		case problem.Is(err, problem.Conflict):
			err = f.skip(ctx)
		case err == nil && len(es) == 0:
			err = problem.New(problem.Unavailable, "the log does not reach rev %d yet", rev+1)
		}
		if err != nil {
			if !f.g.pause(ctx, "repair of a gap", err) {
				return // the gateway stops
			}
			continue
		}
		f.mu.Lock()
		for _, e := range es {
			if e.rev == f.rev+1 {
				f.emit(e)
			}
		}
		f.mu.Unlock()
		f.g.flush()
	}
}

// skip goes on at the head when the log no longer reaches back: every session is
// told to load afresh, if its user is in the channel still.
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
	for _, gr := range f.groups {
		for s := range gr.sessions {
			s.peer.send(f.lane, frame.Leave{Group: gr.id, Rev: f.rev, Sessions: []topology.SessionID{s.open.Session}})
			f.remove(s, gr)
			f.g.spawn(func(context.Context) {
				joined, err := f.restart(s, "the gateway was too far behind", false)
				s.settle(f, joined, err)
			})
		}
	}
	f.recent, f.bytes = nil, 0
	f.moveTo(heads[0].Rev)
	return nil
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

// since is the events after c up to the follower's rev, if they are all still
// kept. The caller holds f.mu.
func (f *follower) since(c topology.Rev) ([]event, bool) {
	if c == f.rev {
		return nil, true
	}
	i := slices.IndexFunc(f.recent, func(e event) bool { return e.rev == c+1 })
	if i < 0 {
		return nil, false
	}
	return f.recent[i:], true
}
