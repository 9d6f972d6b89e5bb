package gateway

import (
	"context"
	"slices"
	"time"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// changesMax bounds one read of a user's changes.
const changesMax = 500

// tellChanges tells the user's sessions what was gained and lost, and makes each
// follow what the user is in, and nothing else.
func (g *Gateway) tellChanges(ctx context.Context, u *user) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	live := slices.DeleteFunc(u.all(), func(s *session) bool { return !s.isLive() })
	if len(live) == 0 {
		return nil
	}
	if err := g.tellNew(ctx, u, live); err != nil {
		return err
	}
	g.flush()
	return g.followList(ctx, u, live)
}

// tellNew tells sessions of the changes that they have not been told of.
func (g *Gateway) tellNew(ctx context.Context, u *user, live []*session) error {
	from := live[0].urevNow()
	for _, s := range live {
		from = min(from, s.urevNow())
	}
	for {
		changes, err := g.deps.Directory.UserChanges(ctx, u.key.Place, u.key.id, from, changesMax)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			return nil
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
	}
}

// followList makes sessions follow the channels that the user is in, and no others.
func (g *Gateway) followList(ctx context.Context, u *user, live []*session) error {
	members, err := g.deps.Directory.ChannelsOf(ctx, u.key.Place, u.key.id)
	if err != nil {
		return err
	}
	in := make(map[topology.ChannelID]bool, len(members))
	for _, m := range members {
		in[m.Channel] = true
		missing := slices.DeleteFunc(slices.Clone(live), func(s *session) bool { return s.followed(m.Channel) != nil })
		switch {
		case len(missing) == 0:
		case m.JoinedRev == 0: // not in the channel's log yet
			g.unsettle(u)
		default:
			g.spawn(func(ctx context.Context) { g.gain(ctx, u, missing, m) })
		}
	}
	for _, s := range live {
		for _, f := range s.followedBut(in) {
			g.spawn(func(ctx context.Context) { g.lose(ctx, u, s, f) })
		}
	}
	return nil
}

// slot waits for a place among what is opened side by side.
func (g *Gateway) slot(ctx context.Context) (release func(), ok bool) {
	select {
	case g.opening <- struct{}{}:
		return func() { <-g.opening }, true
	case <-ctx.Done():
		return nil, false
	}
}

// gain makes sessions follow a channel that their user has gained, from the
// gaining on.
func (g *Gateway) gain(ctx context.Context, u *user, ss []*session, m directory.Membership) {
	release, ok := g.slot(ctx)
	if !ok {
		return
	}
	defer release()
	ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	fs, err := g.follow(ask, []topology.ChannelRef{{Place: u.key.Place, Channel: m.Channel}})
	if err != nil {
		g.log.Warn("a gained channel can't be followed yet", "channel", string(m.Channel), "err", err)
		g.unsettle(u)
		return
	}
	f := fs[0]
	defer f.release()
	for _, s := range ss {
		if !s.claim(f) {
			continue
		}
		if s.isOver(m.Channel, m.JoinedRev) { // asked after the claim: nobody else ends it now
			s.give(f)
			continue
		}
		joined, err := s.subscribe(place{f: f, member: m, checked: m.JoinedRev, cursor: m.JoinedRev - 1})
		s.settle(f, joined, err)
	}
}

// loseGrace is how long a session may stay in a channel that its user has left by
// the directory, but not yet by the channel's log: what comes meanwhile is from
// before the leaving. It is as long as the directory's answers may be old elsewhere.
const loseGrace = 2 * time.Second

// lose takes a session out of a channel that its user is no longer in. Mostly the
// channel's own change does so. This is for one that comes much later, or was
// met before the session was in.
func (g *Gateway) lose(ctx context.Context, u *user, s *session, f *follower) {
	if !s.startLosing(f.ref.Channel) {
		return // another is at it
	}
	defer s.endLosing(f.ref.Channel)
	if !wait(ctx, loseGrace) || s.followed(f.ref.Channel) != f {
		return
	}
	if err := g.part(ctx, s, f); err != nil && s.ctx.Err() == nil {
		g.log.Warn("a lost channel is looked at again", "channel", string(f.ref.Channel), "err", err)
		g.unsettle(u)
	}
	s.peer.flush()
}

func (g *Gateway) part(ctx context.Context, s *session, f *follower) error {
	heads, err := g.heads(ctx, []*follower{f})
	if err != nil {
		return err
	}
	f.repair(heads[0].Rev)
	if _, err := f.reach(s.ctx, heads[0].Rev); err != nil {
		return err
	}
	_, member, err := s.membership(f.ref.Channel)
	if err != nil || member {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.followed(f.ref.Channel) == f && !f.part(s) {
		return problem.New(problem.Unavailable, "the session is still being caught up")
	}
	return nil
}

func (s *session) startLosing(ch topology.ChannelID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.losing[ch] {
		return false
	}
	if s.losing == nil {
		s.losing = map[topology.ChannelID]bool{}
	}
	s.losing[ch] = true
	return true
}

func (s *session) endLosing(ch topology.ChannelID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.losing, ch)
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

// followed is the follower of a channel that the session is at, or on its way to.
func (s *session) followed(ch topology.ChannelID) *follower {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.follows.find(ch)
}

// followedBut is the same for all channels but some.
func (s *session) followedBut(in map[topology.ChannelID]bool) []*follower {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*follower
	for _, f := range s.follows {
		if !in[f.ref.Channel] {
			out = append(out, f)
		}
	}
	return out
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
func (s *session) catchUpList(cursors map[topology.ChannelID]topology.Rev) (map[topology.ChannelID]bool, error) {
	cursor, ok := cursors[chat.UserCursor]
	if !ok {
		return nil, nil
	}
	now := s.urevNow()
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

// usersAsked bounds one question for urevs.
const usersAsked = 1000

// compareURevs finds users whose notice was lost (G3).
func (g *Gateway) compareURevs(ctx context.Context) {
	if g.comparing.Swap(true) {
		return // one is enough: the next tick looks again
	}
	defer g.comparing.Store(false)
	byPlace := map[topology.Place][]*user{}
	g.mu.Lock()
	for _, us := range g.users {
		for _, u := range us {
			byPlace[u.key.Place] = append(byPlace[u.key.Place], u)
		}
	}
	g.mu.Unlock()
	for p, us := range byPlace {
		for part := range slices.Chunk(us, usersAsked) {
			if err := g.compare(ctx, p, part); err != nil {
				g.log.Warn("urevs can't be compared; the next look will do it", "workspace", string(p.Workspace), "err", err)
			}
		}
	}
}

func (g *Gateway) compare(ctx context.Context, p topology.Place, us []*user) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	ids := make([]topology.UserID, len(us))
	for i, u := range us {
		ids[i] = u.key.id
	}
	urevs, err := g.deps.Directory.URevs(ctx, p, ids)
	if err != nil {
		return err
	}
	for _, u := range us {
		if slices.ContainsFunc(u.all(), func(s *session) bool { return s.isLive() && s.urevNow() < urevs[u.key.id] }) {
			g.syncUser(u)
		}
	}
	return nil
}
