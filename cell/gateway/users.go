package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

type userKey struct {
	topology.Place
	id topology.UserID
}

// user is a user with sessions at this gateway.
type user struct {
	key  userKey
	lane int

	mu       sync.Mutex
	sessions []*session                       // one or a few
	working  bool                             // work runs
	list     bool                             // work is to look at the list of channels
	reads    map[topology.ChannelID]struct{}  // work is to send these read states
	allReads bool                             // or all of them
	typed    map[topology.ChannelID]time.Time // when the user's typing was last told
}

// readsPendingMax bounds the read states that wait one by one.
const readsPendingMax = 100

// joinUser notes a session of its user, and hears the user's notices.
func (g *Gateway) joinUser(s *session) {
	key := userKey{s.place, s.open.User}
	g.mu.Lock()
	u := g.userLocked(key)
	if u == nil {
		u = &user{key: key, lane: s.lane}
		g.users[key.id] = append(g.users[key.id], u)
	}
	u.mu.Lock()
	s.mu.Lock()
	s.user = u
	if !s.closed {
		u.sessions = append(u.sessions, s)
	}
	s.mu.Unlock()
	u.mu.Unlock()
	g.forgetIfGone(u)
	g.mu.Unlock()
	g.hearUser(key.id)
	g.touchPresence(key)
}

// hearUser hears a user's notices, for each session anew, so that none goes on
// before they are heard. The router may be slow to answer: no lock is held
// meanwhile, and a user who has gone since is not heard any more.
func (g *Gateway) hearUser(id topology.UserID) {
	g.bus.Follow(router.UserTopic(id))
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.users[id]) == 0 {
		g.bus.Unfollow(router.UserTopic(id))
	}
}

// leaveUser forgets an ended session.
func (g *Gateway) leaveUser(s *session) {
	s.mu.Lock()
	u := s.user
	s.mu.Unlock()
	if u == nil {
		return
	}
	g.mu.Lock()
	u.mu.Lock()
	u.sessions = slices.DeleteFunc(u.sessions, func(other *session) bool { return other == s })
	u.mu.Unlock()
	g.forgetIfGone(u)
	g.mu.Unlock()
	g.touchPresence(u.key)
}

// forgetIfGone forgets a user without sessions. The caller holds g.mu.
func (g *Gateway) forgetIfGone(u *user) {
	u.mu.Lock()
	gone := len(u.sessions) == 0
	u.mu.Unlock()
	if !gone {
		return
	}
	id := u.key.id
	g.users[id] = slices.DeleteFunc(g.users[id], func(other *user) bool { return other == u })
	delete(g.unsettled, u)
	if len(g.users[id]) == 0 {
		delete(g.users, id)
		g.bus.Unfollow(router.UserTopic(id))
	}
}

func (g *Gateway) userLocked(key userKey) *user {
	for _, u := range g.users[key.id] {
		if u.key == key {
			return u
		}
	}
	return nil
}

// user is a user with sessions here, else nil.
func (g *Gateway) user(key userKey) *user {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.userLocked(key)
}

// usersCalled are the users with an id, over places.
func (g *Gateway) usersCalled(id topology.UserID) []*user {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.users[id])
}

func (u *user) all() []*session {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.sessions)
}

// syncUser looks at the user's list of channels soon.
func (g *Gateway) syncUser(u *user) {
	g.wakeUser(u, func() { u.list = true })
}

// notice takes a notice about a user.
func (g *Gateway) notice(u *user, n router.Notice) {
	switch n.Kind {
	case router.NoticeURev:
		g.syncUser(u)
	case router.NoticeReadState:
		g.wakeUser(u, func() {
			if len(u.reads) >= readsPendingMax {
				u.allReads = true
				return
			}
			if u.reads == nil {
				u.reads = map[topology.ChannelID]struct{}{}
			}
			u.reads[n.Channel] = struct{}{}
		})
	}
}

// wakeUser notes work for a user; one goroutine per user does it.
func (g *Gateway) wakeUser(u *user, note func()) {
	u.mu.Lock()
	note()
	start := !u.working
	u.working = true
	u.mu.Unlock()
	if start {
		g.spawn(func(ctx context.Context) { g.workFor(ctx, u) })
	}
}

func (g *Gateway) workFor(ctx context.Context, u *user) {
	for {
		u.mu.Lock()
		list, reads, all := u.list, u.reads, u.allReads
		if (!list && len(reads) == 0 && !all) || len(u.sessions) == 0 || ctx.Err() != nil {
			u.working = false
			u.mu.Unlock()
			return
		}
		u.list, u.reads, u.allReads = false, nil, false
		u.mu.Unlock()
		var err error
		if list {
			if err = g.tellChanges(ctx, u); err != nil {
				g.unsettle(u)
			}
		}
		if readErr := g.tellReadStates(ctx, u, reads, all); readErr != nil {
			u.mu.Lock()
			u.allReads = true
			u.mu.Unlock()
			err = readErr
		}
		g.flush()
		if err != nil && !g.pause(ctx, "a user's channels or read states", err) {
			return
		}
	}
}

// unsettle notes a user whose list of channels has to be looked at again.
func (g *Gateway) unsettle(u *user) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.userLocked(u.key) == u {
		g.unsettled[u] = struct{}{}
	}
}

// settle looks again at those noted.
func (g *Gateway) settle() {
	g.mu.Lock()
	us := g.unsettled
	g.unsettled = map[*user]struct{}{}
	g.mu.Unlock()
	for u := range us {
		g.syncUser(u)
	}
}

// tellReadStates sends all of the user's sessions the read state of channels.
func (g *Gateway) tellReadStates(ctx context.Context, u *user, reads map[topology.ChannelID]struct{}, all bool) error {
	if !all && len(reads) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	var states []chat.ReadState
	if all {
		var err error
		if states, err = g.deps.Unread.All(ctx, u.key.Place, u.key.id); err != nil {
			return err
		}
	}
	for ch := range reads {
		if all {
			break
		}
		st, err := g.deps.Unread.State(ctx, u.key.Place, u.key.id, ch)
		switch {
		case problem.Is(err, problem.Denied), problem.Is(err, problem.NotFound): // no longer a member
		case err != nil:
			return err
		default:
			states = append(states, st)
		}
	}
	for _, st := range states {
		payload := readStateEvent(st)
		for _, s := range u.all() {
			s.send(frame.SessionFrame{Payload: payload})
		}
	}
	return nil
}

func readStateEvent(st chat.ReadState) []byte {
	return chat.Encode(chat.ReadStateEvent{Type: chat.TypeReadState, ReadState: st})
}

// sendStates sends a resumed session the user's read state, whole.
func (s *session) sendStates() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	states, err := s.g.deps.Unread.All(ctx, s.place, s.open.User)
	if err != nil { // the session is live: this can come later
		s.g.log.Warn("read states not sent yet", "user", string(s.open.User), "err", err)
		s.g.wakeUser(s.user, func() { s.user.allReads = true })
		return nil
	}
	for part := range slices.Chunk(states, readsPendingMax) {
		release, err := s.peer.enter(s.ctx, s.lane)
		if err != nil {
			return err
		}
		for _, st := range part {
			s.send(frame.SessionFrame{Payload: readStateEvent(st)})
		}
		release()
		s.peer.flush()
	}
	return nil
}
