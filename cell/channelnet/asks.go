package channelnet

import (
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
	"parley/internal/topology"
)

// idBytesMax bounds a workspace's or a channel's id: package change keeps no
// longer ones.
const idBytesMax = 255

func channelOf(ref topology.ChannelRef) *cellv1.Channel {
	return &cellv1.Channel{Workspace: []byte(ref.Workspace), Generation: uint64(ref.Generation), Channel: []byte(ref.Channel)}
}

func refOf(c *cellv1.Channel) (topology.ChannelRef, error) {
	if n, m := len(c.GetWorkspace()), len(c.GetChannel()); n == 0 || m == 0 || n > idBytesMax || m > idBytesMax {
		return topology.ChannelRef{}, problem.Field("channel", "must name a workspace and a channel, each with 1 to %d bytes", idBytesMax)
	}
	return topology.ChannelRef{
		Place:   topology.Place{Workspace: topology.WorkspaceID(c.GetWorkspace()), Generation: topology.Generation(c.GetGeneration())},
		Channel: topology.ChannelID(c.GetChannel()),
	}, nil
}

func refsOf(cs []*cellv1.Channel) ([]topology.ChannelRef, error) {
	refs := make([]topology.ChannelRef, len(cs))
	for i, c := range cs {
		var err error
		if refs[i], err = refOf(c); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

func channelsOf(refs []topology.ChannelRef) []*cellv1.Channel {
	out := make([]*cellv1.Channel, len(refs))
	for i, r := range refs {
		out[i] = channelOf(r)
	}
	return out
}

func askPost(p channel.Post) *cellv1.Call {
	return &cellv1.Call{Ask: &cellv1.Call_Post{Post: &cellv1.Post{
		Channel: channelOf(p.Channel), Author: []byte(p.Author), Root: []byte(p.Root), Text: []byte(p.Text), Key: []byte(p.Key),
	}}}
}

func postOf(p *cellv1.Post) (channel.Post, error) {
	ref, err := refOf(p.GetChannel())
	return channel.Post{
		Channel: ref, Author: topology.UserID(p.GetAuthor()), Root: topology.MessageID(p.GetRoot()), Text: string(p.GetText()), Key: string(p.GetKey()),
	}, err
}

func askMember(m channel.Member) *cellv1.Call {
	out := &cellv1.Member{Channel: channelOf(m.Channel), Kind: uint32(m.Kind), Author: []byte(m.Author), Key: []byte(m.Key)}
	for _, u := range m.Subjects {
		out.Subjects = append(out.Subjects, []byte(u))
	}
	return &cellv1.Call{Ask: &cellv1.Call_Member{Member: out}}
}

func memberOf(m *cellv1.Member) (channel.Member, error) {
	ref, err := refOf(m.GetChannel())
	if err == nil && m.GetKind() > 255 {
		err = problem.New(problem.Internal, "change kind %d is none of membership", m.GetKind())
	}
	out := channel.Member{
		Channel: ref, Kind: change.Kind(m.GetKind()), Author: topology.UserID(m.GetAuthor()), Key: string(m.GetKey()), //nolint:gosec // looked at just before
	}
	for _, u := range m.GetSubjects() {
		out.Subjects = append(out.Subjects, topology.UserID(u))
	}
	return out, err
}

func askImport(im channel.Import) *cellv1.Call {
	out := &cellv1.Import{Channel: channelOf(im.Channel), From: im.From, Messages: make([]*cellv1.Imported, len(im.Messages))}
	for i, m := range im.Messages {
		out.Messages[i] = &cellv1.Imported{Author: []byte(m.Author), Ts: m.TS, Text: []byte(m.Text), Root: uint64(m.Root)}
	}
	return &cellv1.Call{Ask: &cellv1.Call_Import{Import: out}}
}

func importOf(im *cellv1.Import) (channel.Import, error) {
	ref, err := refOf(im.GetChannel())
	out := channel.Import{Channel: ref, From: im.GetFrom(), Messages: make([]channel.Imported, len(im.GetMessages()))}
	for i, m := range im.GetMessages() {
		out.Messages[i] = channel.Imported{Author: topology.UserID(m.GetAuthor()), TS: m.GetTs(), Text: string(m.GetText()), Root: topology.Seq(m.GetRoot())}
	}
	return out, err
}

func askPage(ref topology.ChannelRef, q history.PageQuery) *cellv1.Call {
	return &cellv1.Call{Ask: &cellv1.Call_Page{Page: &cellv1.Page{
		Channel: channelOf(ref), Before: uint64(q.Before), Forward: q.Forward, After: uint64(q.After), Limit: limitOf(q.Limit),
	}}}
}

func queryOf(p *cellv1.Page) history.PageQuery {
	return history.PageQuery{Before: topology.Seq(p.GetBefore()), Forward: p.GetForward(), After: topology.Seq(p.GetAfter()), Limit: int(p.GetLimit())}
}

// limitOf is a limit as it crosses: who asks for less than nothing gets nothing.
func limitOf(n int) uint32 {
	return uint32(max(0, min(n, 1<<30)))
}

// tokens is a set of shards as it crosses, and back.
func tokens(held map[topology.Shard]topology.Token) (shards []uint32, ts []uint64) {
	for s, t := range held {
		shards, ts = append(shards, uint32(s)), append(ts, uint64(t))
	}
	return shards, ts
}

func heldOf(shards []uint32, ts []uint64) (map[topology.Shard]topology.Token, error) {
	if len(shards) != len(ts) || len(shards) > topology.Shards {
		return nil, problem.New(problem.Invalid, "%d shards have %d tokens", len(shards), len(ts))
	}
	out := make(map[topology.Shard]topology.Token, len(shards))
	for i, s := range shards {
		if s >= topology.Shards {
			return nil, problem.New(problem.Invalid, "there is no shard %d", s)
		}
		out[topology.Shard(s)] = topology.Token(ts[i])
	}
	return out, nil
}

// waitOf is how long a call may take at the callee.
func waitOf(c *cellv1.Call) time.Duration {
	if us := c.GetWaitUs(); us > 0 {
		return min(duration(us), askMax)
	}
	return askMax
}
