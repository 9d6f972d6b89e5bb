package gateway

import (
	"context"
	"fmt"
	"slices"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// place is where a session begins to follow a channel.
type place struct {
	f *follower
	// member is the user's membership as the directory had it when the channel
	// was at rev checked or above. A leaving after that answer has a rev above
	// checked: a session that begins at or below checked meets it, on the way or
	// in its group. That is G2, whatever cursor a client sends.
	member  directory.Membership
	checked topology.Rev
	cursor  topology.Rev // the session has had everything up to here
	resumed bool         // end the catch-up with a "resumed" event
}

// subscribe brings a session from its place to the follower's and joins it there
// (G1). The session has claimed the follower. Not to be joined, since the user
// has left or the session has ended, is no error.
func (s *session) subscribe(at place) (joined bool, err error) {
	f, c := at.f, at.cursor
	if j := at.member.JoinedRev; j > 0 && c < j-1 {
		private, err := s.isPrivate(f.ref)
		if err != nil {
			return false, err
		}
		if private { // what was before the joining is not the session's to get
			c = j - 1
			f.reset(s, c, "the user joined the channel at a later rev")
			at.checked = max(at.checked, c)
		}
	}
	ahead, err := f.reach(s.ctx, c)
	switch {
	case err != nil:
		return false, err
	case ahead:
		return f.restart(s, "the cursor is ahead of the channel", at.resumed)
	case c <= at.checked:
		return f.walk(s, at.member, c, at.resumed)
	}
	m, ok, err := s.membership(f.ref.Channel)
	if err != nil || !ok {
		return false, err
	}
	return f.walk(s, m, c, at.resumed)
}

// restart resets a session to where the follower is and goes on from there.
func (f *follower) restart(s *session, why string, resumed bool) (joined bool, err error) {
	c := f.at()
	m, ok, err := s.membership(f.ref.Channel)
	if err != nil || !ok {
		return false, err
	}
	f.reset(s, c, why)
	return f.walk(s, m, c, resumed)
}

// settle ends an attempt to follow a channel that the session has claimed.
func (s *session) settle(f *follower, joined bool, err error) {
	if !joined {
		s.give(f)
	}
	if err != nil && s.ctx.Err() == nil {
		s.refuse(err)
	}
	s.peer.flush()
}

func (s *session) isPrivate(ref topology.ChannelRef) (bool, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	row, err := s.g.deps.Directory.Channel(ctx, ref.Place, ref.Channel)
	return row.Private, err
}

// membership asks the directory itself: an old answer would break G2.
func (s *session) membership(ch topology.ChannelID) (directory.Membership, bool, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.g.cfg.RequestMax)
	defer cancel()
	ms, err := s.g.deps.Directory.ChannelsOf(ctx, s.place, s.open.User)
	if err != nil {
		return directory.Membership{}, false, err
	}
	i := slices.IndexFunc(ms, func(m directory.Membership) bool { return m.Channel == ch })
	if i < 0 {
		return directory.Membership{}, false, nil
	}
	return ms[i], true, nil
}

// reach waits until the follower is at c. ahead says that the channel itself is
// not.
func (f *follower) reach(ctx context.Context, c topology.Rev) (ahead bool, err error) {
	for asked := false; ; {
		f.mu.Lock()
		rev, head := f.rev, f.head
		if f.grown == nil && c > rev {
			f.grown = make(chan struct{})
		}
		grown := f.grown
		f.mu.Unlock()
		switch {
		case c <= rev:
			return false, nil
		case asked && c > head:
			return true, nil
		case !asked:
			heads, err := f.g.heads(ctx, []*follower{f})
			if err != nil {
				return false, err
			}
			asked = true
			f.repair(heads[0].Rev)
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// The last events before a join are sent while the follower stands still. More
// than seamBytesMax are sent before that, as often as seamTurnsMax: a channel that
// is faster than that is joined anyway.
const (
	seamBytesMax = 16 << 10
	seamTurnsMax = 16
)

// walk gives the session what lies between c and the follower's rev, and joins it.
func (f *follower) walk(s *session, m directory.Membership, c topology.Rev, resumed bool) (joined bool, err error) {
	for turn := 0; ; turn++ {
		end, near, err := f.seam(s, m, c, resumed, turn > seamTurnsMax)
		if err != nil || end != further {
			return end == joinedNow, err
		}
		if len(near) == 0 {
			near, err = f.g.page(s.ctx, f.ref, c)
		}
		switch {
		case problem.Is(err, problem.Conflict):
			return f.restart(s, "the cursor is too old", resumed)
		case err != nil:
			return false, err
		case len(near) == 0:
			return false, problem.New(problem.Unavailable, "the log does not reach rev %d yet", c+1)
		}
		near = upTo(near, f.at())
		left, err := s.deliverSlowly(f, near, m)
		if left {
			f.g.syncUser(s.user) // the user may be in it again since
		}
		if left || err != nil {
			return false, err
		}
		c = near[len(near)-1].rev
	}
}

// How an attempt to join ended.
type seamEnd int

const (
	further   seamEnd = iota // there is more to send before
	joinedNow                // the session is in its group
	not                      // the session has ended, or its user has left
)

// seam joins a session that has had everything up to c, with the last few events
// before the join: the follower stands still meanwhile, so nothing falls between
// (G1). If there are more than a few, unless final says to take them all, it
// returns those that are at hand.
func (f *follower) seam(s *session, m directory.Membership, c topology.Rev, resumed, final bool) (seamEnd, []event, error) {
	release, err := s.peer.enter(s.ctx, f.lane)
	if err != nil {
		return not, nil, err
	}
	defer release()
	f.mu.Lock()
	defer f.mu.Unlock()
	near, ok := f.since(c)
	switch {
	case !ok || (sizeOf(near) > seamBytesMax && !final):
		return further, slices.Clone(near), nil
	case s.deliver(f, near, m) < len(near):
		f.g.syncUser(s.user) // as in walk
		return not, nil, nil
	case !f.join(s, resumed):
		return not, nil, nil
	}
	return joinedNow, nil, nil
}

// upTo is the events up to rev: the log may be ahead of the follower, and a
// session must not be. One at least is, if the session is not at rev.
func upTo(es []event, rev topology.Rev) []event {
	n := len(es)
	for n > 1 && es[n-1].rev > rev {
		n--
	}
	return es[:n]
}

func sizeOf(es []event) int {
	n := 0
	for _, e := range es {
		n += len(e.payload)
	}
	return n
}

// deliver sends catch-up and returns how many it sent. Fewer than all says that
// the user left the channel at the last one, and has not joined since as far as
// m knows.
func (s *session) deliver(f *follower, es []event, m directory.Membership) int {
	for i, e := range es {
		s.send(frame.SessionFrame{Channel: f.ref.Channel, From: e.rev, To: e.rev, Payload: e.payload})
		f.g.metrics.caughtUp.Inc()
		if e.rev > m.JoinedRev && slices.Contains(e.left, s.open.User) {
			s.endedAt(f.ref.Channel, e.rev)
			return i
		}
	}
	return len(es)
}

// deliverSlowly is deliver at the pace of the link.
func (s *session) deliverSlowly(f *follower, es []event, m directory.Membership) (left bool, err error) {
	for len(es) > 0 {
		n, bytes := 0, 0
		for n < len(es) && (n == 0 || bytes+len(es[n].payload) <= seamBytesMax) {
			bytes += len(es[n].payload)
			n++
		}
		release, err := s.peer.enter(s.ctx, f.lane)
		if err != nil {
			return false, err
		}
		sent := s.deliver(f, es[:n], m)
		release()
		if sent < n {
			return true, nil
		}
		es = es[n:]
		s.peer.flush()
	}
	return false, nil
}

// reset tells the session to load the channel afresh; it goes on after rev.
func (f *follower) reset(s *session, rev topology.Rev, why string) {
	f.g.metrics.resets.Inc()
	s.send(frame.SessionFrame{Channel: f.ref.Channel, To: rev, Payload: chat.Encode(chat.ResetEvent{
		Type: chat.TypeReset, ChannelID: f.ref.Channel, Rev: rev, Reason: why,
	})})
}

// join puts a session that is at the follower's rev into its link's group. The
// caller holds f.mu. It reports false if the session has ended.
func (f *follower) join(s *session, resumed bool) bool {
	if s.isClosed() { // its close has dropped it, or will: it takes f.mu for that
		return false
	}
	if resumed {
		s.send(frame.SessionFrame{Channel: f.ref.Channel, To: f.rev, Payload: chat.Encode(chat.ResumedEvent{
			Type: chat.TypeResumed, ChannelID: f.ref.Channel, Rev: f.rev,
		})})
	}
	gr := f.groups[s.peer]
	if gr == nil {
		gr = &group{id: frame.GroupID(s.peer.groups.Add(1)), sessions: map[*session]struct{}{}}
		f.groups[s.peer] = gr
		s.peer.send(f.lane, frame.GroupOpen{Group: gr.id, Workspace: f.ref.Workspace, Channel: f.ref.Channel, Rev: f.rev})
	}
	gr.sessions[s] = struct{}{}
	s.peer.send(f.lane, frame.Join{Group: gr.id, Rev: f.rev, Sessions: []topology.SessionID{s.open.Session}})
	return true
}

// passOver answers the cursors of channels that the user is not in, whether they
// exist or not (C8): with an error, unless the list of channels has told of them.
func (s *session) passOver(cursors map[topology.ChannelID]topology.Rev, in map[topology.ChannelID]directory.Membership, told map[topology.ChannelID]bool) error {
	for ch := range cursors {
		if _, ok := in[ch]; ok || ch == chat.UserCursor {
			continue
		}
		f := frame.SessionFrame{Channel: ch}
		if _, ok := told[ch]; !ok && s.open.ResumeExpected {
			f.Payload = chat.Encode(chat.ErrorEvent{
				Type: chat.TypeError, ChannelID: ch, Kind: string(problem.NotFound), Field: "cursors",
				Detail: fmt.Sprintf("cursors: there is no channel %s, or you are not in it; nothing of it follows", ch),
			})
		}
		release, err := s.peer.enter(s.ctx, frame.LaneOf(string(ch)))
		if err != nil {
			return err
		}
		s.send(f)
		release()
	}
	s.peer.flush()
	return nil
}
