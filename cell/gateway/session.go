package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// session is one opening of a client's socket at this gateway.
type session struct {
	g    *Gateway
	peer *peer
	open frame.Open
	lane int // of the user's frames

	ctx    context.Context //nolint:containedctx // the session's own life
	cancel context.CancelFunc

	mu      sync.Mutex
	place   topology.Place // set once, by begin, before hello
	user    *user          // the same
	greeted bool
	closed  bool
	idle    bool
	cursors map[topology.ChannelID]topology.Rev
	resumed chan struct{} // closed when all cursors are there
	ready   bool          // resumed is closed
	live    bool          // urev counts: changes of the list of channels are told
	urev    topology.URev
	follows map[topology.ChannelID]*follower // joined, or on the way
	posts   map[topology.ChannelID][]frame.Post
	waiting int // posts without an answer
	typed   map[topology.ChannelID]time.Time
}

// cursorsMax bounds a session's cursors, over all its resume frames.
const cursorsMax = chat.CursorsMax + 1 // and the user's own

func newSession(p *peer, f frame.Open) *session {
	s := &session{
		g: p.g, peer: p, open: f, lane: frame.LaneOf(string(f.User)),
		cursors: map[topology.ChannelID]topology.Rev{}, resumed: make(chan struct{}),
		follows: map[topology.ChannelID]*follower{}, posts: map[topology.ChannelID][]frame.Post{},
		typed: map[topology.ChannelID]time.Time{},
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
	for _, c := range cs {
		if len(s.cursors) < cursorsMax {
			s.cursors[c.Channel] = c.Rev
		}
	}
	if last && !s.ready {
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
	s.follows = map[topology.ChannelID]*follower{}
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
	fs, members, err := s.opened()
	<-s.g.opening
	if err == nil && s.expected() {
		select {
		case <-s.resumed:
		case <-s.ctx.Done():
		}
	}
	if err == nil && s.ctx.Err() == nil {
		err = s.catchUp(fs, members)
	}
	for _, f := range fs {
		f.release()
	}
	if err != nil && s.ctx.Err() == nil {
		s.refuse(err)
	}
	s.peer.flush()
}

// refuse tells the edge that the session is not served.
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
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	f := frame.Moved{Workspace: s.open.Workspace}
	if w, err := s.g.deps.Directory.Workspace(ctx, s.open.Workspace); err == nil {
		f.Epoch = w.Epoch
	}
	s.peer.send(frame.Control, f)
	s.peer.flush()
}

// opened checks who it is and says hello. The followers it returns are held for
// the caller.
func (s *session) opened() ([]*follower, []directory.Membership, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	dir := s.g.deps.Directory
	w, err := dir.Workspace(ctx, s.open.Workspace)
	if err != nil && !problem.Is(err, problem.NotFound) {
		return nil, nil, err
	}
	if err != nil || !w.Open() || w.Epoch != s.open.Epoch {
		return nil, nil, problem.New(problem.Moved, "this cell does not serve the workspace at that epoch")
	}
	s.mu.Lock()
	s.place = w.Place()
	s.mu.Unlock()
	if _, err := dir.User(ctx, s.place, s.open.User); err != nil {
		if problem.Is(err, problem.NotFound) {
			err = problem.New(problem.Unauthentic, "the token's user is not in this workspace")
		}
		return nil, nil, err
	}
	s.g.joinUser(s) // notices are heard from here on, so that nothing falls between
	urevs, err := dir.URevs(ctx, s.place, []topology.UserID{s.open.User})
	if err != nil {
		return nil, nil, err
	}
	members, err := dir.ChannelsOf(ctx, s.place, s.open.User)
	if err != nil {
		return nil, nil, err
	}
	refs := make([]topology.ChannelRef, len(members))
	for i, m := range members {
		refs[i] = topology.ChannelRef{Place: s.place, Channel: m.Channel}
	}
	fs, err := s.g.follow(ctx, refs)
	if err != nil {
		return nil, nil, err
	}
	s.hello(fs, urevs[s.open.User])
	return fs, members, nil
}

func (s *session) hello(fs []*follower, urev topology.URev) {
	h := chat.Hello{
		Type: chat.TypeHello, SessionID: fmt.Sprintf("%s-%d", s.peer.edge, s.open.Session), WorkspaceID: s.open.Workspace,
		UserID: s.open.User, URev: urev, Channels: make([]chat.HelloChannel, len(fs)), HeartbeatS: int(heartbeat.Seconds()),
	}
	s.mu.Lock()
	s.urev, s.greeted = urev, true
	for i, f := range fs {
		rev := f.at()
		h.Channels[i] = chat.HelloChannel{ID: f.ref.Channel, Rev: rev}
		if !s.expected() { // a session that starts now is where its hello says
			s.cursors[f.ref.Channel] = rev
		}
	}
	s.mu.Unlock()
	s.peer.send(frame.Control, frame.Opened{Session: s.open.Session, Payload: chat.Encode(h)})
	s.peer.flush()
}

// catchUp brings every channel from its cursor to now, and the list of channels.
func (s *session) catchUp(fs []*follower, members []directory.Membership) error {
	gained, err := s.catchUpList()
	if err != nil {
		return err
	}
	for i, f := range fs {
		s.mu.Lock()
		c, ok := s.cursors[f.ref.Channel]
		s.mu.Unlock()
		announce := ok && s.open.ResumeExpected
		if !ok {
			c = f.at()
			if gained[f.ref.Channel] && members[i].JoinedRev > 0 {
				c = members[i].JoinedRev - 1
			}
		}
		if !s.claim(f) {
			continue
		}
		if err := f.subscribe(s, c, announce); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.live = true
	s.mu.Unlock()
	s.g.syncUser(s.user) // what was gained or lost meanwhile
	return s.sendStates()
}

// claim notes that the session is about to follow a channel; false if it does
// already, or has ended. What is claimed is subscribed or given up by subscribe.
func (s *session) claim(f *follower) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.follows[f.ref.Channel] != nil {
		return false
	}
	s.follows[f.ref.Channel] = f
	f.hold()
	return true
}

// give ends what claim began.
func (s *session) give(f *follower) {
	s.mu.Lock()
	mine := s.follows[f.ref.Channel] == f
	if mine {
		delete(s.follows, f.ref.Channel)
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
