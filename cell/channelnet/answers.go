package channelnet

import (
	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
	"parley/internal/topology"
)

func changeAnswer(c change.Change) *cellv1.Answer { return &cellv1.Answer{Change: c.Append(nil)} }

func headsAnswer(hs []channel.OwnedHead) *cellv1.Answer {
	a := &cellv1.Answer{Heads: make([]*cellv1.Head, len(hs))}
	for i, h := range hs {
		a.Heads[i] = &cellv1.Head{Owned: h.Owned, Rev: uint64(h.Rev), Seq: uint64(h.Seq), Ts: h.TS}
	}
	return a
}

// headsOf are the heads of an answer to a call for n.
func headsOf(a *cellv1.Answer, n int) ([]channel.OwnedHead, error) {
	if len(a.GetHeads()) != n {
		return nil, problem.New(problem.Internal, "a channel server answered with %d heads in place of %d", len(a.GetHeads()), n)
	}
	out := make([]channel.OwnedHead, n)
	for i, h := range a.GetHeads() {
		out[i] = channel.OwnedHead{Owned: h.GetOwned(), Head: channel.Head{Rev: topology.Rev(h.GetRev()), Seq: topology.Seq(h.GetSeq()), TS: h.GetTs()}}
	}
	return out, nil
}

func eventsAnswer(es []channel.Event) *cellv1.Answer {
	a := &cellv1.Answer{Events: make([]*cellv1.Event, len(es))}
	for i := range es {
		a.Events[i] = &cellv1.Event{Change: es[i].Append(nil), Payload: es[i].Payload}
	}
	return a
}

func eventsOf(a *cellv1.Answer) ([]channel.Event, error) {
	var out []channel.Event
	for _, e := range a.GetEvents() {
		c, err := change.Decode(e.GetChange())
		if err != nil {
			return nil, err
		}
		out = append(out, channel.Event{Change: c, Payload: e.GetPayload()})
	}
	return out, nil
}

func messagesAnswer(ms ...history.Message) *cellv1.Answer {
	a := &cellv1.Answer{Messages: make([]*cellv1.Message, len(ms))}
	for i := range ms {
		a.Messages[i] = &cellv1.Message{Change: ms[i].Append(nil), ReplyCount: ms[i].ReplyCount, LastReplyTs: ms[i].LastReplyTS}
	}
	return a
}

func messagesOf(a *cellv1.Answer) ([]history.Message, error) {
	var out []history.Message
	for _, m := range a.GetMessages() {
		c, err := change.Decode(m.GetChange())
		if err != nil {
			return nil, err
		}
		out = append(out, history.Message{Change: c, ReplyCount: m.GetReplyCount(), LastReplyTS: m.GetLastReplyTs()})
	}
	return out, nil
}

func messageOf(a *cellv1.Answer) (history.Message, error) {
	ms, err := messagesOf(a)
	if err == nil && len(ms) != 1 {
		err = problem.New(problem.Internal, "a channel server answered with %d messages in place of one", len(ms))
	}
	if err != nil {
		return history.Message{}, err
	}
	return ms[0], nil
}

func holdingsMessage(h channel.Holdings) *cellv1.Holdings {
	out := &cellv1.Holdings{}
	for id, held := range h {
		shards, ts := tokens(held)
		out.Servers = append(out.Servers, &cellv1.Held{Server: []byte(id), Shards: shards, Tokens: ts})
	}
	return out
}

// serversMax bounds the channel servers of one process.
const serversMax = 1024

func holdingsOf(m *cellv1.Holdings) (channel.Holdings, error) {
	if len(m.GetServers()) > serversMax {
		return nil, problem.New(problem.Invalid, "a process with %d channel servers", len(m.GetServers()))
	}
	out := channel.Holdings{}
	for _, s := range m.GetServers() {
		held, err := heldOf(s.GetShards(), s.GetTokens())
		if err != nil {
			return nil, err
		}
		if len(s.GetServer()) == 0 || len(s.GetServer()) > idBytesMax {
			return nil, problem.New(problem.Invalid, "a channel server without a name, or with a very long one")
		}
		out[topology.ServerID(s.GetServer())] = held
	}
	return out, nil
}
