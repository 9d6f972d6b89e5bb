package channelnet

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/history"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
	"parley/internal/topology"
)

var refOfTest = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 3}, Channel: "C1"}

func TestCodec_RequestsComeBack(t *testing.T) {
	post := channel.Post{Channel: refOfTest, Author: "U1", Root: "R", Text: "t\xff", Key: "k"}
	if got, err := postOf(askPost(post).GetPost()); err != nil || cmp.Diff(post, got) != "" {
		t.Errorf("%v, %v", got, err)
	}
	member := channel.Member{Channel: refOfTest, Kind: change.Left, Author: "U1", Subjects: []topology.UserID{"U2", "U3"}, Key: "k"}
	if got, err := memberOf(askMember(member).GetMember()); err != nil || cmp.Diff(member, got) != "" {
		t.Errorf("%v, %v", got, err)
	}
	im := channel.Import{Channel: refOfTest, From: 7, Messages: []channel.Imported{{Author: "U1", TS: -1, Text: "t", Root: 2}, {}}}
	if got, err := importOf(askImport(im).GetImport()); err != nil || cmp.Diff(im, got) != "" {
		t.Errorf("%v, %v", got, err)
	}
	q := history.PageQuery{Before: 1, Forward: true, After: 2, Limit: 3}
	if got := queryOf(askPage(refOfTest, q).GetPage()); got != q {
		t.Errorf("%v", got)
	}
	h := channel.Holdings{"cs-1": {1: 2, 127: 1 << 40}, "cs-2": {}}
	if got, err := holdingsOf(holdingsMessage(h)); err != nil || cmp.Diff(h, got) != "" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCodec_ErrorsCrossWhole(t *testing.T) {
	for _, err := range []error{
		&problem.Error{Kind: problem.Exhausted, Msg: "slower", Field: "f", RetryAfter: 1500 * time.Millisecond, Cause: errors.New("why")},
		problem.New(problem.NotOwner, "not mine"), problem.Field("text", "is empty"),
	} {
		got := errorOf(problemOf(err))
		if got.Error() != err.Error() || cmp.Diff(problem.DocumentOf(err), problem.DocumentOf(got)) != "" ||
			problem.RetryAfterSeconds(err) != problem.RetryAfterSeconds(got) {
			t.Errorf("%v came as %v", err, got)
		}
	}
	if got := errorOf(problemOf(context.DeadlineExceeded)); !problem.Is(got, problem.Unavailable) {
		t.Errorf("an ended context came as %v", got)
	}
	if got := errorOf(problemOf(errors.New("secret"))); problem.Show(got) != "internal error" || !problem.Is(got, problem.Internal) {
		t.Errorf("an error without a kind came as %v", got)
	}
}

func TestCodec_WhatCannotBeIsRefused(t *testing.T) {
	for name, err := range map[string]error{
		"no channel":      second(refOf(nil)),
		"long workspace":  second(refOf(&cellv1.Channel{Workspace: make([]byte, 256), Channel: []byte("C")})),
		"a shard too far": second(heldOf([]uint32{topology.Shards}, []uint64{1})),
		"tokens missing":  second(heldOf([]uint32{1}, nil)),
		"a kind too far":  second(memberOf(&cellv1.Member{Channel: channelOf(refOfTest), Kind: 300})),
		"no name":         second(holdingsOf(&cellv1.Holdings{Servers: []*cellv1.Held{{}}})),
		"few heads":       second(headsOf(&cellv1.Answer{}, 1)),
		"no message":      second(messageOf(&cellv1.Answer{})),
		"a bad change":    second(eventsOf(&cellv1.Answer{Events: []*cellv1.Event{{Change: []byte{1}}}})),
	} {
		if err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzRequest gives what a peer may send to what reads it.
func FuzzRequest(f *testing.F) {
	for _, c := range []*cellv1.Call{
		askPost(channel.Post{Channel: refOfTest, Text: "x"}), askMember(channel.Member{Channel: refOfTest, Subjects: []topology.UserID{"U"}}),
		askImport(channel.Import{Channel: refOfTest, Messages: []channel.Imported{{Text: "x"}}}), askPage(refOfTest, history.PageQuery{Limit: 1}),
		{Ask: &cellv1.Call_Free{Free: &cellv1.Free{Shards: []uint32{1}, Tokens: []uint64{2}}}, WaitUs: 1 << 60},
	} {
		b, err := proto.Marshal(&cellv1.ServeRequest{Hello: &cellv1.Hello{Version: 1}, Calls: []*cellv1.Call{c}, GivenUp: []uint64{1}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	// A cluster without servers: every call must end in a refusal, not a panic.
	v := newServing(&Server{cluster: channel.NewCluster(channel.ClusterConfig{})}, "gateway", false)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m cellv1.ServeRequest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		for _, c := range m.GetCalls() {
			if w := waitOf(c); w <= 0 || w > askMax {
				t.Fatalf("a call may take %s", w)
			}
			_, _ = postOf(c.GetPost())
			_, _ = memberOf(c.GetMember())
			_, _ = importOf(c.GetImport())
			_, _ = refsOf(c.GetHeads().GetChannels())
			_ = queryOf(c.GetPage())
			if held, err := heldOf(c.GetFree().GetShards(), c.GetFree().GetTokens()); err == nil && len(held) > topology.Shards {
				t.Fatal("more shards than there are")
			}
			a := v.do(t.Context(), c)
			if a.sent != nil {
				a.sent()
			}
			if _, ping := c.GetAsk().(*cellv1.Call_Ping); !ping && a.GetProblem() == nil {
				t.Fatalf("a call to nobody was answered: %v", a)
			}
		}
	})
}

// FuzzAnswer gives what a peer may answer to what reads it.
func FuzzAnswer(f *testing.F) {
	c := change.Change{Rev: 1, Kind: change.Message, Text: "x"}
	for _, a := range []*cellv1.Answer{
		changeAnswer(c), eventsAnswer([]channel.Event{{Change: c, Payload: []byte("{}")}}), messagesAnswer(history.Message{Change: c, ReplyCount: 1}),
		headsAnswer([]channel.OwnedHead{{Owned: true}}), refused(errBusy()),
	} {
		b, err := proto.Marshal(&cellv1.ServeResponse{
			Answers: []*cellv1.Answer{a}, Welcome: &cellv1.Welcome{Version: 1}, Holdings: holdingsMessage(channel.Holdings{"cs-1": {1: 2}}),
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m cellv1.ServeResponse
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		if h, err := holdingsOf(m.GetHoldings()); err == nil && len(h) > serversMax {
			t.Fatal("more channel servers than a process may have")
		}
		l := newLane()
		l.deliver(m.GetAnswers())
		for _, a := range m.GetAnswers() {
			if p := a.GetProblem(); p != nil && errorOf(p) == nil {
				t.Fatal("a problem that is none")
			}
			_, _ = changed(a, nil)
			_, _ = eventsOf(a)
			_, _ = messagesOf(a)
			_, _ = messageOf(a)
			_, _ = headsOf(a, 1)
		}
	})
}
