package channel

import (
	"context"

	"parley/cell/change"
	"parley/internal/problem"
)

// memberKey marks the keys of membership changes, so that no client_msg_id can
// be one: those have no control characters.
const memberKey = "\x1f"

// Member commits a change of membership, if the shard is this server's. The
// directory has it already, and is the caller's business.
func (s *Server) Member(ctx context.Context, m Member) (change.Change, error) {
	c, err := s.member(ctx, m)
	s.count(err)
	return c, err
}

func (s *Server) member(ctx context.Context, m Member) (change.Change, error) {
	switch m.Kind {
	case change.Created, change.Joined, change.Left:
	default:
		return change.Change{}, problem.New(problem.Internal, "change kind %d is none of membership", m.Kind)
	}
	if err := checkKey(m.Key); err != nil {
		return change.Change{}, err
	}
	sh, err := s.owned(m.Channel)
	if err != nil {
		return change.Change{}, err
	}
	if err := s.checks.open(ctx, m.Channel.Place); err != nil {
		return change.Change{}, err
	}
	info, err := s.checks.info(ctx, m.Channel, false)
	if err == nil && info.Importing && m.Kind != change.Created {
		info, err = s.checks.info(ctx, m.Channel, true)
	}
	if err != nil {
		return change.Change{}, err
	}
	if info.Importing && m.Kind != change.Created {
		return change.Change{}, problem.New(problem.Conflict, "the channel is being imported; change its members when the import is finished")
	}
	if m.Kind == change.Left {
		s.checks.forgetMembers(m.Channel, m.Subjects)
	}
	r, err := sh.enter(ctx, m.Channel)
	if err != nil {
		return change.Change{}, err
	}
	defer sh.leave(r)
	w := &enrolling{Member: m}
	if m.Key != "" {
		w.key = keyID{m.Author, memberKey + m.Key}
		if w.known, err = r.lookBack(ctx, w.key, s.now()); err != nil {
			return change.Change{}, err
		}
		if w.known.change != nil {
			return *w.known.change, nil
		}
	}
	rep, err := sh.submit(ctx, newRequest(r, 1, 32*len(m.Subjects), w.number))
	return rep.change, err
}

// enrolling is a change of membership on its way.
type enrolling struct {
	Member
	key   keyID
	known known
}

func (w *enrolling) number(ctx context.Context, d *draft) (reply, bool, error) {
	if w.key.key != "" {
		c, pending, err := d.keyed(ctx, w.key, w.known.asked)
		if err != nil {
			return reply{}, false, err
		}
		if c != nil {
			return reply{change: *c}, pending, nil
		}
	}
	if w.Kind == change.Created && d.head.Rev > 0 {
		return w.createdBefore(ctx, d)
	}
	d.room.sh.rolls.numbered(w.Channel, w.Kind, w.Subjects)
	c := change.Change{Kind: w.Kind, Author: w.Author, ClientMsgID: w.key.key, Subjects: w.Subjects}
	return reply{change: d.add(c, 0, 0, 0, 0)}, true, nil
}

// createdBefore answers a creation whose key is forgotten: a channel is created
// once, by its first rev.
func (w *enrolling) createdBefore(ctx context.Context, d *draft) (reply, bool, error) {
	conflict := problem.New(problem.Conflict, "the channel's log has begun already")
	if d.was == 0 {
		return reply{}, false, conflict
	}
	first, err := d.room.sh.logAt(ctx, d.room.ref, 1)
	if err != nil {
		return reply{}, false, err
	}
	if first.Kind != change.Created {
		return reply{}, false, conflict
	}
	return reply{change: first}, false, nil
}
