package channelnet

import (
	"context"
	"maps"

	"parley/cell/channel"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
	"parley/internal/topology"
)

// same reports whether two states of this process are one.
func same(a, b channel.Holdings) bool {
	return maps.EqualFunc(a, b, func(x, y map[topology.Shard]topology.Token) bool { return maps.Equal(x, y) })
}

// perform asks the channel server that a call names.
func (v *serving) perform(ctx context.Context, c *cellv1.Call) (*cellv1.Answer, error) {
	if err := allowed(v.role, c); err != nil {
		return nil, err
	}
	if _, ping := c.GetAsk().(*cellv1.Call_Ping); ping && len(c.GetServer()) == 0 {
		return &cellv1.Answer{}, nil
	}
	s := v.s.cluster.Own(topology.ServerID(c.GetServer()))
	if s == nil {
		return nil, problem.New(problem.NotOwner, "the process has no channel server %q", c.GetServer())
	}
	switch ask := c.GetAsk().(type) {
	case *cellv1.Call_Ping:
		st, err := s.Ping(ctx)
		return &cellv1.Answer{Draining: st.Draining}, err
	case *cellv1.Call_Free:
		held, err := heldOf(ask.Free.GetShards(), ask.Free.GetTokens())
		if err == nil {
			s.Free(ctx, held)
		}
		return &cellv1.Answer{}, err
	case *cellv1.Call_Post:
		return v.post(ctx, s, ask.Post)
	case *cellv1.Call_Member:
		return v.member(ctx, s, ask.Member)
	case *cellv1.Call_Import:
		return v.importBatch(ctx, s, ask.Import)
	default:
		return v.read(ctx, s, c)
	}
}

func (v *serving) post(ctx context.Context, s *channel.Server, m *cellv1.Post) (*cellv1.Answer, error) {
	p, err := postOf(m)
	if err != nil {
		return nil, err
	}
	c, err := s.Post(ctx, p) // which checks the workspace, the channel and the author itself
	if err != nil {
		return nil, err
	}
	return changeAnswer(c), nil
}

func (v *serving) member(ctx context.Context, s *channel.Server, m *cellv1.Member) (*cellv1.Answer, error) {
	in, err := memberOf(m)
	if err != nil {
		return nil, err
	}
	c, err := s.Member(ctx, in)
	if err != nil {
		return nil, err
	}
	return changeAnswer(c), nil
}

func (v *serving) importBatch(ctx context.Context, s *channel.Server, m *cellv1.Import) (*cellv1.Answer, error) {
	in, err := importOf(m)
	if err != nil {
		return nil, err
	}
	n, err := s.Import(ctx, in)
	return &cellv1.Answer{Count: n}, err
}

// read carries out what only reads: the workspace is checked here, since the
// channel server leaves that to the gateway that asks.
func (v *serving) read(ctx context.Context, s *channel.Server, c *cellv1.Call) (*cellv1.Answer, error) {
	switch ask := c.GetAsk().(type) {
	case *cellv1.Call_Heads:
		return v.heads(ctx, s, ask.Heads)
	case *cellv1.Call_Changes:
		ref, err := v.mayRead(ctx, ask.Changes.GetChannel())
		if err != nil {
			return nil, err
		}
		es, err := s.Changes(ctx, ref, topology.Rev(ask.Changes.GetAfter()), int(ask.Changes.GetLimit()))
		return eventsAnswer(es), err
	case *cellv1.Call_Page:
		ref, err := v.mayRead(ctx, ask.Page.GetChannel())
		if err != nil {
			return nil, err
		}
		ms, err := s.Page(ctx, ref, queryOf(ask.Page))
		return messagesAnswer(ms...), err
	case *cellv1.Call_Thread:
		ref, err := v.mayRead(ctx, ask.Thread.GetChannel())
		if err != nil {
			return nil, err
		}
		ms, err := s.Thread(ctx, ref, topology.MessageID(ask.Thread.GetRoot()), topology.Seq(ask.Thread.GetAfter()), int(ask.Thread.GetLimit()))
		return messagesAnswer(ms...), err
	case *cellv1.Call_Get:
		ref, err := v.mayRead(ctx, ask.Get.GetChannel())
		if err != nil {
			return nil, err
		}
		m, err := s.Get(ctx, ref, topology.MessageID(ask.Get.GetMessage()))
		return messagesAnswer(m), err
	default:
		return nil, problem.New(problem.Unsupported, "this process does not know such a call")
	}
}

func (v *serving) mayRead(ctx context.Context, c *cellv1.Channel) (topology.ChannelRef, error) {
	ref, err := refOf(c)
	if err != nil {
		return ref, err
	}
	return ref, v.s.places.check(ctx, ref.Place)
}

func (v *serving) heads(ctx context.Context, s *channel.Server, m *cellv1.Heads) (*cellv1.Answer, error) {
	refs, err := refsOf(m.GetChannels())
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		if err := v.s.places.check(ctx, r.Place); err != nil {
			return nil, err
		}
	}
	hs, err := s.Heads(ctx, refs)
	if err != nil {
		return nil, err
	}
	return headsAnswer(hs), nil
}
