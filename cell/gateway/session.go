package gateway

import (
	"context"
	"fmt"
	"sync"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// session is one opening of a client's socket at this gateway.
type session struct {
	g      *Gateway
	peer   *peer
	open   frame.Open
	lane   int    // of the user's frames
	number uint64 // of the opening on its link

	ctx    context.Context //nolint:containedctx // the session's own life
	cancel context.CancelFunc

	mu      sync.Mutex
	place   topology.Place // set once, by begin, before hello
	user    *user          // the same
	greeted bool
	closed  bool
	idle    bool
	cursors map[topology.ChannelID]topology.Rev // nil once catch-up began, or if none are expected
	resumed chan struct{}                       // closed when all cursors are there; nil as above
	ready   bool                                // resumed is closed
	live    bool                                // urev counts: changes of the list of channels are told
	urev    topology.URev
	follows follows                             // joined, or on the way
	posts   map[topology.ChannelID][]frame.Post // nil while none waits
	ended   map[topology.ChannelID]topology.Rev // where following a channel ended, if it did
	losing  map[topology.ChannelID]bool         // those that are waited out: see lose
	waiting int                                 // requests without an answer
}

// cursorsMax bounds a session's cursors, over all its resume frames.
const cursorsMax = chat.CursorsMax + 1 // and the user's own

func newSession(p *peer, f frame.Open) *session {
	s := &session{
		g: p.g, peer: p, open: f, lane: frame.LaneOf(string(f.User)), number: p.opens.Add(1),
	}
	if s.expected() {
		s.cursors, s.resumed = map[topology.ChannelID]topology.Rev{}, make(chan struct{})
	}
	s.ctx, s.cancel = context.WithCancel(p.g.ctx)
	return s
}

// expected reports whether cursors are to come.
func (s *session) expected() bool { return s.open.ResumeExpected || s.open.Rehomed }

// resume takes cursors.
func (s *session) resume(cs []frame.Cursor, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready || s.resumed == nil {
		return
	}
	for _, c := range cs {
		if s.cursors != nil && len(s.cursors) < cursorsMax {
			s.cursors[c.Channel] = c.Rev
		}
	}
	if last {
		s.ready = true
		close(s.resumed)
	}
}

// close ends the session here; it may be called more than once.
func (s *session) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	follows := s.follows
	s.follows = nil
	s.mu.Unlock()
	s.cancel()
	for _, f := range follows {
		f.drop(s)
	}
	s.peer.mu.Lock()
	if s.peer.sessions[s.open.Session] == s {
		delete(s.peer.sessions, s.open.Session)
	}
	s.peer.mu.Unlock()
	g := s.g
	g.leaveUser(s)
	g.metrics.sessions.Dec()
	g.mu.Lock()
	g.sessions--
	close(g.left)
	g.left = make(chan struct{})
	g.mu.Unlock()
}

// channels are those that the session follows.
func (s *session) channels() []topology.ChannelID {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]topology.ChannelID, len(s.follows))
	for i, f := range s.follows {
		out[i] = f.ref.Channel
	}
	return out
}

func (s *session) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// send queues an event for this session alone.
func (s *session) send(f frame.SessionFrame) {
	f.Session = s.open.Session
	lane := s.lane
	if f.Channel != "" && f.Channel != chat.UserCursor {
		lane = frame.LaneOf(string(f.Channel))
	}
	s.peer.send(lane, f)
}

// begin opens the session and brings it up to now.
func (s *session) begin(context.Context) {
	select {
	case s.g.opening <- struct{}{}:
	case <-s.ctx.Done():
		return
	}
	at, err := s.opened()
	<-s.g.opening
	defer func() {
		for _, f := range at.fs {
			f.release()
		}
		s.peer.flush()
	}()
	if err == nil && s.expected() {
		select {
		case <-s.resumed:
		case <-s.ctx.Done():
		}
	}
	if err == nil && s.ctx.Err() == nil {
		err = s.catchUp(at)
	}
	if err != nil && s.ctx.Err() == nil {
		s.refuse(err)
	}
}

// refuse tells the edge that the session is not served, or no longer.
func (s *session) refuse(err error) {
	if problem.Is(err, problem.Moved) {
		s.moved()
	} else {
		s.peer.send(frame.Control, frame.Refused{
			Session: s.open.Session, Kind: problem.KindOf(err), Detail: problem.Show(err), RetryMS: retryMS,
		})
	}
	s.peer.flush()
	s.close()
}

// moved tells the edge that the workspace is not served here at its epoch.
func (s *session) moved() {
	ctx, cancel := context.WithTimeout(s.g.ctx, s.g.cfg.RequestMax)
	defer cancel()
	f := frame.Moved{Workspace: s.open.Workspace}
	if w, err := s.g.deps.Directory.Workspace(ctx, s.open.Workspace); err == nil {
		if f.Epoch = w.Epoch; w.Open() {
			f.Cell = s.g.cfg.Cell
		}
	}
	s.peer.tellMoved(s, f)
}

// hello is where a session was when it said hello: fs are held, revs theirs then.
type hello struct {
	fs   []*follower
	revs []topology.Rev
}

// opened checks who it is and says hello.
func (s *session) opened() (hello, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	dir := s.g.deps.Directory
	w, err := dir.Workspace(ctx, s.open.Workspace)
	if err != nil && !problem.Is(err, problem.NotFound) {
		return hello{}, err
	}
	if err != nil || !w.Open() || w.Epoch != s.open.Epoch {
		return hello{}, problem.New(problem.Moved, "this cell does not serve the workspace at that epoch")
	}
	s.mu.Lock()
	s.place = w.Place()
	s.mu.Unlock()
	if _, err := dir.User(ctx, s.place, s.open.User); err != nil {
		if problem.Is(err, problem.NotFound) {
			err = problem.New(problem.Unauthentic, "the token's user is not in this workspace")
		}
		return hello{}, err
	}
	s.g.joinUser(s) // notices are heard from here on, so that nothing falls between
	urevs, err := dir.URevs(ctx, s.place, []topology.UserID{s.open.User})
	if err != nil {
		return hello{}, err
	}
	members, err := dir.ChannelsOf(ctx, s.place, s.open.User)
	if err != nil {
		return hello{}, err
	}
	refs := make([]topology.ChannelRef, len(members))
	for i, m := range members {
		refs[i] = topology.ChannelRef{Place: s.place, Channel: m.Channel}
	}
	at := hello{revs: make([]topology.Rev, len(refs))}
	if at.fs, err = s.g.follow(ctx, refs); err != nil {
		return hello{}, err
	}
	for i, f := range at.fs {
		at.revs[i] = f.at()
	}
	s.hello(at, urevs[s.open.User])
	return at, nil
}

func (s *session) hello(at hello, urev topology.URev) {
	h := chat.Hello{
		Type: chat.TypeHello, SessionID: fmt.Sprintf("%s-%d", s.peer.edge, s.open.Session), WorkspaceID: s.open.Workspace,
		UserID: s.open.User, URev: urev, Channels: make([]chat.HelloChannel, len(at.fs)), HeartbeatS: int(heartbeat.Seconds()),
	}
	for i, f := range at.fs {
		h.Channels[i] = chat.HelloChannel{ID: f.ref.Channel, Rev: at.revs[i]}
	}
	s.mu.Lock()
	s.urev, s.greeted = urev, true
	s.mu.Unlock()
	s.peer.send(frame.Control, frame.Opened{Session: s.open.Session, Payload: chat.Encode(h)})
	s.peer.flush()
}

// catchUp brings every channel from its cursor to now, and the list of channels.
// A channel without a cursor starts where the hello said, or at its gaining.
func (s *session) catchUp(at hello) error {
	s.mu.Lock()
	cursors := s.cursors
	s.cursors = nil
	s.mu.Unlock()
	if !s.expected() {
		cursors = nil
	}
	gained, err := s.catchUpList(cursors)
	if err != nil {
		return err
	}
	checked := make([]topology.Rev, len(at.fs))
	for i, f := range at.fs {
		checked[i] = f.at()
	}
	members, err := s.memberships() // after the revs: see place
	if err != nil {
		return err
	}
	for i, f := range at.fs {
		m, ok := members[f.ref.Channel]
		if !ok {
			continue // left since: the list of channels says so
		}
		c, resumed := cursors[f.ref.Channel]
		if !resumed {
			if c = at.revs[i]; gained[f.ref.Channel] && m.JoinedRev > 0 {
				c = min(c, m.JoinedRev-1)
			}
		}
		if err := s.begins(place{f: f, member: m, checked: checked[i], cursor: c, resumed: resumed && s.open.ResumeExpected}); err != nil {
			return err
		}
	}
	if err := s.passOver(cursors, members, gained); err != nil {
		return err
	}
	s.mu.Lock()
	s.live = true
	s.mu.Unlock()
	s.g.presence.arrive(s)
	s.g.syncUser(s.user) // what was gained or lost meanwhile
	if s.expected() {
		return s.sendStates()
	}
	return nil
}

// begins follows a channel from a place on, unless it does already.
func (s *session) begins(at place) error {
	if !s.claim(at.f) {
		return nil
	}
	joined, err := s.subscribe(at)
	if !joined {
		s.give(at.f)
	}
	s.peer.flush()
	return err
}

func (s *session) memberships() (map[topology.ChannelID]directory.Membership, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	ms, err := s.g.deps.Directory.ChannelsOf(ctx, s.place, s.open.User)
	out := make(map[topology.ChannelID]directory.Membership, len(ms))
	for _, m := range ms {
		out[m.Channel] = m
	}
	return out, err
}

// claim notes that the session is about to follow a channel; false if it does
// already, or has ended. What is claimed is subscribed or given up by subscribe.
func (s *session) claim(f *follower) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.follows.find(f.ref.Channel) != nil {
		return false
	}
	s.follows.add(f)
	f.hold()
	return true
}

// endedAt notes that the user's leaving ended the following of a channel at a rev.
func (s *session) endedAt(ch topology.ChannelID, rev topology.Rev) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = map[topology.ChannelID]topology.Rev{}
	}
	s.ended[ch] = max(s.ended[ch], rev)
}

// isOver reports whether a joining is from before such an end: who acts on it is
// late, and what came after it was given already.
func (s *session) isOver(ch topology.ChannelID, joined topology.Rev) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return joined <= s.ended[ch]
}

// give ends what claim began.
func (s *session) give(f *follower) {
	s.mu.Lock()
	mine := s.follows.find(f.ref.Channel) == f
	if mine {
		s.follows.drop(f)
	}
	s.mu.Unlock()
	if mine {
		f.release()
	}
}

// activity notes whether the user is there.
func (s *session) activity(active bool) {
	s.mu.Lock()
	s.idle = !active
	key, known := userKey{s.place, s.open.User}, s.user != nil
	s.mu.Unlock()
	if known {
		s.g.touchPresence(key)
	}
}
