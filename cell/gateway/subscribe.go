package gateway

import (
	"context"
	"slices"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// subscribe brings a session that has had everything of the channel up to c to the
// follower's place, and joins it to its link's group there (G1). announce ends
// the catch-up with a resumed event. The session has claimed the follower; if
// the user is no member, or leaves on the way, the claim is given up, which is no
// error.
func (f *follower) subscribe(s *session, c topology.Rev, announce bool) error {
	joined, err := f.bring(s, c, announce)
	if !joined {
		s.give(f)
	}
	s.peer.flush()
	return err
}

func (f *follower) bring(s *session, c topology.Rev, announce bool) (joined bool, err error) {
	if err := f.reach(s, c); err != nil {
		return false, err
	}
	// Now c is not above the follower's rev. Asking the directory after that
	// makes G2 hold whatever cursor the client sent: a leaving that comes after
	// this answer has a rev above the follower's, and so above c, and is met below
	// or by the group. (A cursor beyond the head was told to reset: see walk.)
	ctx, cancel := context.WithTimeout(s.ctx, f.g.cfg.RequestMax)
	defer cancel()
	_, member, err := f.g.deps.Directory.Member(ctx, f.ref.Place, f.ref.Channel, s.open.User)
	if err != nil || !member {
		return false, err
	}
	return f.walk(s, c, announce)
}

// reach waits until the follower is at c, as far as the channel is.
func (f *follower) reach(s *session, c topology.Rev) error {
	asked := false
	for {
		f.mu.Lock()
		rev, grown, head := f.rev, f.grown, f.head
		f.mu.Unlock()
		if c <= rev || (asked && c > head) {
			return nil
		}
		if !asked {
			heads, err := f.g.heads(s.ctx, []*follower{f})
			if err != nil {
				return err
			}
			asked = true
			f.repair(heads[0].Rev)
			continue
		}
		select {
		case <-grown:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// walk gives the session what lies between c and the follower's rev, and joins it.
func (f *follower) walk(s *session, c topology.Rev, announce bool) (joined bool, err error) {
	for {
		f.mu.Lock()
		if c > f.rev {
			f.reset(s, "the cursor is ahead of the channel")
			joined = f.join(s, announce)
			f.mu.Unlock()
			return joined, nil
		}
		if near, ok := f.since(c); ok {
			for _, e := range near {
				s.send(frame.SessionFrame{Channel: f.ref.Channel, From: e.rev, To: e.rev, Payload: e.payload})
				if slices.Contains(e.left, s.open.User) {
					f.mu.Unlock()
					f.g.syncUser(s.user) // the user may be in it again since
					return false, nil
				}
			}
			joined = f.join(s, announce)
			f.mu.Unlock()
			return joined, nil
		}
		f.mu.Unlock()
		es, err := f.changes(s.ctx, c)
		if problem.Is(err, problem.Conflict) {
			f.mu.Lock()
			f.reset(s, "the cursor is too old")
			joined = f.join(s, announce)
			f.mu.Unlock()
			return joined, nil
		}
		if err != nil {
			return false, err
		}
		for _, e := range es {
			s.send(frame.SessionFrame{Channel: f.ref.Channel, From: e.Rev, To: e.Rev, Payload: e.Payload})
			c = e.Rev
			if slices.Contains(leftBy(e.Change), s.open.User) {
				f.g.syncUser(s.user) // as above
				return false, nil
			}
		}
		if len(es) == 0 {
			return false, problem.New(problem.Unavailable, "the log does not reach rev %d yet", c+1)
		}
		s.peer.flush()
	}
}

// since is the events after c up to the follower's rev, if they are all still
// kept. The caller holds f.mu.
func (f *follower) since(c topology.Rev) ([]recentEvent, bool) {
	if c == f.rev {
		return nil, true
	}
	if len(f.recent) == 0 || f.recent[0].rev > c+1 {
		return nil, false
	}
	i := slices.IndexFunc(f.recent, func(e recentEvent) bool { return e.rev == c+1 })
	if i < 0 {
		return nil, false
	}
	return f.recent[i:], true
}

// reset tells the session to load the channel afresh; live goes on after the
// follower's rev. The caller holds f.mu.
func (f *follower) reset(s *session, why string) {
	f.g.metrics.resets.Inc()
	s.send(frame.SessionFrame{Channel: f.ref.Channel, To: f.rev, Payload: chat.Encode(chat.ResetEvent{
		Type: chat.TypeReset, ChannelID: f.ref.Channel, Rev: f.rev, Reason: why,
	})})
}

// join puts a session that is at the follower's rev into its link's group. The
// caller holds f.mu. It reports false if the session has ended.
func (f *follower) join(s *session, announce bool) bool {
	if s.isClosed() { // its close has dropped it, or will: it takes f.mu for that
		return false
	}
	if announce {
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
