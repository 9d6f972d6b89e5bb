package gateway

import (
	"context"
	"slices"
	"sync"

	"parley/cell/directory"
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
	sessions map[*session]struct{}
	working  bool                        // work runs
	sync     bool                        // work is to look at the list of channels
	reads    map[topology.ChannelID]bool // work is to send these read states
}

// joinUser notes a session of its user, and hears the user's notices.
func (g *Gateway) joinUser(s *session) {
	key := userKey{s.place, s.open.User}
	g.mu.Lock()
	u := g.users[key]
	if u == nil {
		u = &user{key: key, lane: s.lane, sessions: map[*session]struct{}{}, reads: map[topology.ChannelID]bool{}}
		g.users[key] = u
		g.bus.Follow(router.UserTopic(key.id))
	}
	s.mu.Lock()
	s.user = u
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		u.mu.Lock()
		u.sessions[s] = struct{}{}
		u.mu.Unlock()
	}
	g.mu.Unlock()
	g.touchPresence(key)
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
	delete(u.sessions, s)
	gone := len(u.sessions) == 0
	u.mu.Unlock()
	if gone && g.users[u.key] == u {
		delete(g.users, u.key)
		g.bus.Unfollow(router.UserTopic(u.key.id))
	}
	g.mu.Unlock()
	g.touchPresence(u.key)
}

func (g *Gateway) user(key userKey) *user {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.users[key]
}

// usersCalled are the users with an id, over places: ids are unique, but a
// workspace that moved in again has another generation.
func (g *Gateway) usersCalled(id topology.UserID) []*user {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*user
	for key, u := range g.users {
		if key.id == id {
			out = append(out, u)
		}
	}
	return out
}

func (u *user) all() []*session {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]*session, 0, len(u.sessions))
	for s := range u.sessions {
		out = append(out, s)
	}
	return out
}

// syncUser looks at the user's list of channels soon.
func (g *Gateway) syncUser(u *user) {
	g.wakeUser(u, func() { u.sync = true })
}

// notice takes a notice about a user.
func (g *Gateway) notice(u *user, n router.Notice) {
	switch n.Kind {
	case router.NoticeURev:
		g.syncUser(u)
	case router.NoticeReadState:
		g.wakeUser(u, func() { u.reads[n.Channel] = true })
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
		look, reads := u.sync, u.reads
		if (!look && len(reads) == 0) || len(u.sessions) == 0 || ctx.Err() != nil {
			u.working = false
			u.mu.Unlock()
			return
		}
		u.sync, u.reads = false, map[topology.ChannelID]bool{}
		u.mu.Unlock()
		var err error
		if look {
			err = g.tellChanges(ctx, u)
		}
		for ch := range reads {
			if readErr := g.tellReadState(ctx, u, ch); readErr != nil {
				g.log.Warn("a read state could not be sent", "user", string(u.key.id), "err", readErr)
			}
		}
		g.flush()
		if err != nil {
			if !g.pause(ctx, "a user's channels can't be compared; trying again", err) {
				return
			}
			u.mu.Lock()
			u.sync = true
			u.mu.Unlock()
		}
	}
}

// changesMax bounds one read of a user's changes.
const changesMax = 500

// tellChanges tells the user's sessions what was gained and lost, and makes each
// follow what the user is in.
func (g *Gateway) tellChanges(ctx context.Context, u *user) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	live := slices.DeleteFunc(u.all(), func(s *session) bool { return !s.isLive() })
	if len(live) == 0 {
		return nil
	}
	from := live[0].urevNow()
	for _, s := range live {
		from = min(from, s.urevNow())
	}
	for {
		changes, err := g.deps.Directory.UserChanges(ctx, u.key.Place, u.key.id, from, changesMax)
		if err != nil {
			return err
		}
		for _, c := range changes {
			payload, err := g.changeEvent(ctx, u.key.Place, c)
			if err != nil {
				return err
			}
			for _, s := range live {
				s.tell(c.URev, payload)
			}
			from = c.URev
		}
		if len(changes) < changesMax {
			break
		}
	}
	members, err := g.deps.Directory.ChannelsOf(ctx, u.key.Place, u.key.id)
	if err != nil {
		return err
	}
	for _, s := range live {
		for _, m := range members {
			if m.JoinedRev > 0 && !s.followsNow(m.Channel) {
				g.spawn(func(ctx context.Context) { s.gain(ctx, m) })
			}
		}
	}
	return nil
}

func (s *session) isLive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live && !s.closed
}

func (s *session) urevNow() topology.URev {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.urev
}

func (s *session) followsNow(ch topology.ChannelID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.follows[ch] != nil
}

// tell sends a change of the user's list of channels, once.
func (s *session) tell(urev topology.URev, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if urev <= s.urev {
		return
	}
	s.urev = urev
	s.send(frame.SessionFrame{Channel: chat.UserCursor, From: topology.Rev(urev), To: topology.Rev(urev), Payload: payload})
}

// gain follows a channel that the user has gained, from the gaining on.
func (s *session) gain(ctx context.Context, m directory.Membership) {
	fs, err := s.g.follow(ctx, []topology.ChannelRef{{Place: s.place, Channel: m.Channel}})
	if err == nil {
		if s.claim(fs[0]) {
			err = fs[0].subscribe(s, m.JoinedRev-1, false)
		}
		fs[0].release()
	}
	if err != nil && s.ctx.Err() == nil {
		s.g.log.Warn("a gained channel can't be followed yet", "channel", string(m.Channel), "err", err)
		if s.g.pause(ctx, "trying again", err) {
			s.g.syncUser(s.user)
		}
	}
}

// changeEvent is the client's event for a change of a user's list of channels.
func (g *Gateway) changeEvent(ctx context.Context, p topology.Place, c directory.UserChange) ([]byte, error) {
	ts := chat.Timestamp(c.At)
	e := chat.ChannelEvent{Type: chat.TypeChannel, Event: chat.ChannelLost, ChannelID: c.Channel, URev: c.URev, By: c.By, TS: &ts}
	if c.Kind != directory.Gained {
		return chat.Encode(e), nil
	}
	e.Event = chat.ChannelGained
	row, err := g.deps.Directory.Channel(ctx, p, c.Channel)
	if problem.Is(err, problem.NotFound) {
		return chat.Encode(e), nil
	}
	if err != nil {
		return nil, err
	}
	n, err := g.deps.Directory.MemberCount(ctx, p, c.Channel)
	if err != nil {
		return nil, err
	}
	e.Channel = &chat.Channel{
		ID: row.ID, Name: row.Name, Topic: row.Topic, Private: row.Private, CreatedBy: row.CreatedBy,
		CreatedTS: chat.Timestamp(row.CreatedTS), IsMember: true, MemberCount: n,
	}
	return chat.Encode(e), nil
}

// catchUpList brings the session's list of channels from its cursor to now. It
// returns the channels that were gained since.
func (s *session) catchUpList() (map[topology.ChannelID]bool, error) {
	s.mu.Lock()
	cursor, ok := s.cursors[chat.UserCursor]
	now := s.urev
	s.mu.Unlock()
	if !ok || !s.expected() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	gained := map[topology.ChannelID]bool{}
	at := topology.URev(cursor)
	if at > now {
		s.send(frame.SessionFrame{Channel: chat.UserCursor, To: topology.Rev(now), Payload: chat.Encode(chat.ResetEvent{
			Type: chat.TypeReset, ChannelID: chat.UserCursor, Rev: topology.Rev(now), Reason: "the cursor is ahead of the user's list of channels",
		})})
		at = now
	}
	s.mu.Lock()
	s.urev = at
	s.mu.Unlock()
	for at < now {
		changes, err := s.g.deps.Directory.UserChanges(ctx, s.place, s.open.User, at, changesMax)
		if err != nil {
			return nil, err
		}
		if len(changes) == 0 {
			break
		}
		for _, c := range changes {
			payload, err := s.g.changeEvent(ctx, s.place, c)
			if err != nil {
				return nil, err
			}
			s.tell(c.URev, payload)
			gained[c.Channel] = c.Kind == directory.Gained
			at = c.URev
		}
	}
	if s.open.ResumeExpected {
		s.send(frame.SessionFrame{Channel: chat.UserCursor, To: topology.Rev(at), Payload: chat.Encode(chat.ResumedEvent{
			Type: chat.TypeResumed, ChannelID: chat.UserCursor, Rev: topology.Rev(at),
		})})
	}
	return gained, nil
}

// sendStates sends a resumed session the user's read state, whole.
func (s *session) sendStates() error {
	if !s.expected() {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	states, err := s.g.deps.Unread.All(ctx, s.place, s.open.User)
	if err != nil {
		return err
	}
	for _, st := range states {
		s.send(frame.SessionFrame{Payload: chat.Encode(chat.ReadStateEvent{Type: chat.TypeReadState, ReadState: st})})
	}
	return nil
}

// tellReadState sends all of the user's sessions the read state of a channel.
func (g *Gateway) tellReadState(ctx context.Context, u *user, ch topology.ChannelID) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	st, err := g.deps.Unread.State(ctx, u.key.Place, u.key.id, ch)
	if problem.Is(err, problem.Denied) || problem.Is(err, problem.NotFound) {
		return nil // no longer a member
	}
	if err != nil {
		return err
	}
	payload := chat.Encode(chat.ReadStateEvent{Type: chat.TypeReadState, ReadState: st})
	for _, s := range u.all() {
		s.send(frame.SessionFrame{Payload: payload})
	}
	return nil
}

// usersAsked bounds one question for urevs.
const usersAsked = 1000

// compareURevs finds users whose notice was lost (G3).
func (g *Gateway) compareURevs(ctx context.Context) {
	byPlace := map[topology.Place][]*user{}
	g.mu.Lock()
	for key, u := range g.users {
		byPlace[key.Place] = append(byPlace[key.Place], u)
	}
	g.mu.Unlock()
	for p, us := range byPlace {
		for part := range slices.Chunk(us, usersAsked) {
			ids := make([]topology.UserID, len(part))
			for i, u := range part {
				ids[i] = u.key.id
			}
			ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
			urevs, err := g.deps.Directory.URevs(ask, p, ids)
			cancel()
			if err != nil {
				g.log.Warn("urevs can't be compared; trying again", "workspace", string(p.Workspace), "err", err)
				continue
			}
			for _, u := range part {
				if slices.ContainsFunc(u.all(), func(s *session) bool { return s.isLive() && s.urevNow() < urevs[u.key.id] }) {
					g.syncUser(u)
				}
			}
		}
	}
}
