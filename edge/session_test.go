package edge_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/edge"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// open connects a client, waits for its hello and gives its session's Open.
func (w *world) open(t *testing.T, e *edge.Edge, g *fake, user topology.UserID) (*socket, frame.Open) {
	t.Helper()
	before := len(all[frame.Open](g))
	s := w.connect(t, e, user, "")
	s.next(chat.TypeHello, nil)
	opens := await[frame.Open](g, before+1)
	return s, opens[len(opens)-1]
}

func TestSession_HelloThenLive(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, o := w.open(t, e, g, "U1")
	want := frame.Open{Session: o.Session, Workspace: "W1", User: "U1", Epoch: 1}
	if d := cmp.Diff(want, o); d != "" {
		t.Fatal(d)
	}
	g.join(o.Session)
	g.onC1(groupFrame(11), groupFrame(12), frame.GroupFrame{Group: 1, Payload: []byte(`{"type":"typing"}`)}, groupFrame(13))
	s.message(11)
	s.message(12)
	s.next(chat.TypeTyping, nil)
	s.message(13)
}

// E1: what comes for a session before its hello waits behind it.
func TestSession_E1_NothingBeforeHello(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	g.hello = func(frame.Open) []byte { return nil }
	e := w.edge(t)
	s := w.connect(t, e, "U1", "")
	o := await[frame.Open](g, 1)[0]
	g.join(o.Session)
	g.onC1(groupFrame(11))
	s.write(`{"type":"post","id":"p","channel_id":"C1","text":"early"}`)
	g.say(frame.Control, frame.Ping{N: 1}) // a turn between
	g.say(frame.Control, frame.Opened{Session: o.Session, Payload: helloOf(o)})
	s.next(chat.TypeHello, nil)
	s.message(11)
	if p := await[frame.Post](g, 1)[0]; p.Text != "early" {
		t.Fatalf("post %+v", p)
	}
}

// E1: a doubled frame is dropped; a jump makes the edge resume at the last rev
// the client was given, and nothing of the old attachment gets through.
func TestSession_E1_DoublesAndJumps(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, o := w.open(t, e, g, "U1")
	g.join(o.Session)
	g.onC1(groupFrame(11), groupFrame(11), groupFrame(12), groupFrame(11), groupFrame(14), groupFrame(15))
	s.message(11)
	s.message(12)
	again := await[frame.Open](g, 2)[1]
	if !again.Rehomed || again.Session == o.Session {
		t.Fatalf("open %+v after %+v", again, o)
	}
	r := await[frame.Resume](g, 1)[0]
	if r.Session != again.Session || !r.Last || !slices.Contains(r.Cursors, frame.Cursor{Channel: "C1", Rev: 12}) ||
		!slices.Contains(r.Cursors, frame.Cursor{Channel: chat.UserCursor, Rev: 3}) {
		t.Fatalf("resume %+v", r)
	}
	await[frame.Close](g, 1)
	lane := frame.LaneOf("C1")
	g.say(lane, frame.SessionFrame{Session: o.Session, Channel: "C1", From: 16, To: 16, Payload: event(99)}) // to the old one
	for rev := 13; rev <= 15; rev++ {
		g.say(lane, frame.SessionFrame{Session: again.Session, Channel: "C1", From: topology.Rev(rev), To: topology.Rev(rev), Payload: event(rev)})
	}
	g.onC1(frame.Join{Group: 1, Rev: 15, Sessions: []topology.SessionID{again.Session}}, groupFrame(16))
	for rev := 13; rev <= 16; rev++ {
		s.message(rev)
	}
	s.quiet()
}

// E1: nothing after a Leave reaches the one who left.
func TestSession_E1_LeaveIsFinal(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	one, o1 := w.open(t, e, g, "U1")
	two, o2 := w.open(t, e, g, "U2")
	g.join(o1.Session, o2.Session)
	g.onC1(groupFrame(11), frame.Leave{Group: 1, Rev: 11, Sessions: []topology.SessionID{o1.Session}}, groupFrame(12))
	one.message(11)
	two.message(11)
	two.message(12)
	one.quiet()
}

// The death of a link: sessions go on elsewhere from where they were, by group
// where they share a place, and posts without an answer go first, in order, with
// the same keys. The clients see nothing but a pause.
func TestRehome_LinkDeathMidStream(t *testing.T) {
	w := newWorld(t)
	g1 := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	one, o1 := w.open(t, e, g1, "U1")
	two, o2 := w.open(t, e, g1, "U2")
	g1.join(o1.Session, o2.Session)
	g1.onC1(groupFrame(11), groupFrame(12))
	for _, s := range []*socket{one, two} {
		s.message(11)
		s.message(12)
	}
	one.write(`{"type":"post","id":"a","channel_id":"C1","text":"first"}`)
	one.write(`{"type":"post","id":"b","channel_id":"C1","text":"second","client_msg_id":"mine"}`)
	posts := await[frame.Post](g1, 2)
	g2 := w.gateway(t, "gw-2", "eu-1")
	w.unlist("gw-1")
	g1.stop()

	opens := await[frame.Open](g2, 2)
	if !opens[0].Rehomed || !opens[1].Rehomed {
		t.Fatalf("opens %+v", opens)
	}
	byUser := map[topology.UserID]topology.SessionID{}
	for _, o := range opens {
		byUser[o.User] = o.Session
	}
	again := await[frame.Post](g2, 2)
	for i, p := range again {
		want := posts[i]
		want.Session = byUser["U1"]
		if p != want {
			t.Errorf("post %d came again as %+v, want %+v", i, p, want)
		}
	}
	rg := await[frame.ResumeGroup](g2, 1)[0]
	slices.Sort(rg.Sessions)
	want := frame.ResumeGroup{Workspace: "W1", Channel: "C1", Rev: 12, Sessions: slices.Sorted(slices.Values([]topology.SessionID{byUser["U1"], byUser["U2"]}))}
	if d := cmp.Diff(want, rg); d != "" {
		t.Error(d)
	}
	for _, r := range await[frame.Resume](g2, 2) {
		if d := cmp.Diff([]frame.Cursor{{Channel: chat.UserCursor, Rev: 3}}, r.Cursors); d != "" || !r.Last {
			t.Errorf("resume %+v: %s", r, d)
		}
	}
	g2.onC1(
		frame.Answer{Session: byUser["U1"], Req: again[0].Req, Body: frame.AnswerBody{Channel: "C1", Message: "M13", TS: 13, Seq: 13, Rev: 13}},
		frame.Answer{Session: byUser["U1"], Req: again[1].Req, Body: frame.AnswerBody{Kind: problem.Denied, Detail: "no", Field: "channel_id"}},
		frame.GroupOpen{Group: 9, Workspace: "W1", Channel: "C1", Rev: 12},
		frame.Join{Group: 9, Rev: 12, Sessions: rg.Sessions},
		frame.GroupFrame{Group: 9, From: 13, To: 13, Payload: event(13)})
	var ack chat.AckEvent
	one.next(chat.TypeAck, &ack)
	if ack.ID != "a" || ack.Posted == nil || ack.MessageID != "M13" || ack.Seq != 13 {
		t.Errorf("ack %+v", ack)
	}
	if ee := one.errorEvent(); ee.ID != "b" || ee.Kind != "denied" || ee.Field != "channel_id" {
		t.Errorf("error %+v", ee)
	}
	one.message(13)
	two.message(13)
	one.quiet()
	two.quiet()
}

// A link that dies before the client has announced its cursors or got its hello
// leaves nothing behind at the next gateway but a plain opening.
func TestRehome_BeforeHello(t *testing.T) {
	w := newWorld(t)
	g1 := w.gateway(t, "gw-1", "eu-1")
	g1.hello = func(frame.Open) []byte { return nil }
	e := w.edge(t)
	s := w.connect(t, e, "U1", "&resume=1")
	await[frame.Open](g1, 1)
	g2 := w.gateway(t, "gw-2", "eu-1")
	w.unlist("gw-1")
	g1.stop()
	s.next(chat.TypeHello, nil)
	if o := await[frame.Open](g2, 1)[0]; o.Rehomed || !o.ResumeExpected {
		t.Fatalf("open %+v", o)
	}
}

func TestRehome_GatewayRestartsAtTheSameAddress(t *testing.T) {
	w := newWorld(t)
	g1 := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, o := w.open(t, e, g1, "U1")
	g1.join(o.Session)
	g1.conn().Close(nil)
	again := await[frame.Open](g1, 2)[1]
	if !again.Rehomed {
		t.Fatalf("open %+v", again)
	}
	s.quiet()
}

func TestRehome_MovedToAnotherCell(t *testing.T) {
	w := newWorld(t)
	g1, g2 := w.gateway(t, "gw-1", "eu-1"), w.gateway(t, "gw-2", "eu-2")
	e := w.edge(t)
	s, o := w.open(t, e, g1, "U1")
	g1.join(o.Session)
	s.write(`{"type":"post","id":"a","channel_id":"C1","text":"held","client_msg_id":"k"}`)
	p := await[frame.Post](g1, 1)[0]
	g1.onC1(frame.Answer{Session: o.Session, Req: p.Req, Body: frame.AnswerBody{Kind: problem.Moved}})
	g1.say(frame.Control, frame.Moved{Workspace: "W1", Epoch: 2, Cell: "eu-2"})
	again := await[frame.Open](g2, 1)[0]
	if !again.Rehomed || again.Epoch != 2 {
		t.Fatalf("open %+v", again)
	}
	q := await[frame.Post](g2, 1)[0]
	if q.Key != "k" || q.Session != again.Session {
		t.Fatalf("post %+v", q)
	}
	g2.onC1(frame.Answer{Session: again.Session, Req: q.Req, Body: frame.AnswerBody{Channel: "C1", Message: "M11", Seq: 11, Rev: 11}})
	var ack chat.AckEvent
	s.next(chat.TypeAck, &ack)
	if ack.ID != "a" {
		t.Fatalf("ack %+v", ack)
	}
}

func TestRehome_DrainingGateway(t *testing.T) {
	w := newWorld(t)
	g1 := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	var sockets []*socket
	var ids []topology.SessionID
	for _, u := range []topology.UserID{"U1", "U2", "U3", "U4"} {
		s, o := w.open(t, e, g1, u)
		sockets, ids = append(sockets, s), append(ids, o.Session)
	}
	g1.join(ids...)
	g2 := w.gateway(t, "gw-2", "eu-1")
	g1.say(frame.Control, frame.Draining{AfterMS: 200})
	for _, o := range await[frame.Open](g2, 4) {
		if !o.Rehomed {
			t.Errorf("open %+v", o)
		}
	}
	await[frame.Close](g1, 4)
	for _, s := range sockets {
		s.quiet()
	}
	w.open(t, e, g2, "U5") // new ones go past it as well
}

func TestResume_ByTheClient(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s := w.connect(t, e, "U1", "&resume=1")
	s.next(chat.TypeHello, nil)
	o := await[frame.Open](g, 1)[0]
	if !o.ResumeExpected || o.Rehomed {
		t.Fatalf("open %+v", o)
	}
	s.write(`{"type":"resume","cursors":{"C1":7,"@user":2}}`)
	r := await[frame.Resume](g, 1)[0]
	slices.SortFunc(r.Cursors, func(a, b frame.Cursor) int { return strings.Compare(string(a.Channel), string(b.Channel)) })
	if d := cmp.Diff(frame.Resume{Session: o.Session, Cursors: []frame.Cursor{{Channel: "@user", Rev: 2}, {Channel: "C1", Rev: 7}}, Last: true}, r); d != "" {
		t.Fatal(d)
	}
	// It dies halfway: the client still waits for its "resumed".
	g.onC1(frame.SessionFrame{Session: o.Session, Channel: "C1", From: 8, To: 8, Payload: event(8)})
	s.message(8)
	g.conn().Close(nil)
	again := await[frame.Open](g, 2)[1]
	if !again.ResumeExpected || again.Rehomed {
		t.Fatalf("open %+v", again)
	}
	rs := await[frame.Resume](g, 2)[1]
	if !slices.Contains(rs.Cursors, frame.Cursor{Channel: "C1", Rev: 8}) {
		t.Fatalf("resume %+v", rs)
	}
	s.quiet() // the second hello is not for the client
	s.write(`{"type":"resume","cursors":{}}`)
	if ee := s.errorEvent(); ee.Field != "type" {
		t.Fatalf("error %+v", ee)
	}
}

func TestResume_MustBeFirst(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s := w.connect(t, e, "U1", "&resume=1")
	s.next(chat.TypeHello, nil)
	s.write(`{"type":"ping","id":"x"}`)
	if ee := s.errorEvent(); ee.Field != "type" || ee.ID != "x" {
		t.Errorf("error %+v", ee)
	}
	if ce := s.closed(); ce.Code != 4002 {
		t.Errorf("closed with %v", ce)
	}
}

// C8: a channel that the client is not in is answered with an error, and is not
// waited for: when the link dies after that, the client is not resumed again.
func TestResume_C8_ChannelThatTheClientIsNotIn(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s := w.connect(t, e, "U1", "&resume=1")
	s.next(chat.TypeHello, nil)
	s.write(`{"type":"resume","cursors":{"C1":10,"C99":7,"@user":3}}`)
	o := await[frame.Open](g, 1)[0]
	await[frame.Resume](g, 1)
	g.say(frame.LaneOf("C99"), frame.SessionFrame{Session: o.Session, Channel: "C99", Payload: chat.Encode(chat.ErrorEvent{Type: chat.TypeError, ChannelID: "C99", Kind: "not_found"})})
	if ee := s.errorEvent(); ee.ChannelID != "C99" {
		t.Errorf("error %+v", ee)
	}
	g.join(o.Session)
	g.onC1(groupFrame(11))
	s.message(11)
	g.conn().Close(nil)
	if again := await[frame.Open](g, 2)[1]; !again.Rehomed || again.ResumeExpected {
		t.Errorf("open %+v", again)
	}
	if r := await[frame.Resume](g, 2)[1]; slices.ContainsFunc(r.Cursors, func(c frame.Cursor) bool { return c.Channel == "C99" }) {
		t.Errorf("resume %+v", r)
	}
}

// A resume frame that can't be read is told apart from none: the error names what
// is wrong with it.
func TestResume_BrokenOnesAreNamed(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	for send, want := range map[string]struct{ field, says string }{
		`{"type":"resume","cursors":"C1"}`:                                   {"cursors", "whole number"},
		`{"type":"resume","cursors":[1]}`:                                    {"cursors", "whole number"},
		`{"type":"resume","cursors":{"C1":-1}}`:                              {"cursors", "-1"},
		`{"type":"resume","cursors":{"C1":1.5}}`:                             {"cursors", "1.5"},
		`{"type":"resume","cursors":{"C1":"7"}}`:                             {"cursors", "string"},
		`{"type":"resume","cursors":{"C1":1e300}}`:                           {"cursors", "1e300"},
		`{"type":"resume","cursors":{"":1}}`:                                 {"cursors", "1 to 64 bytes"},
		`{"type":"resume","cursors":{"` + strings.Repeat("x", 65) + `":1}}`:  {"cursors", "has 65"},
		`{"type":"resume","cursors":` + manyCursors(chat.CursorsMax+1) + `}`: {"cursors", "10000"},
		`["resume"]`: {"", "JSON object"},
		`resume`:     {"", "JSON object"},
	} {
		t.Run(send[:min(len(send), 50)], func(t *testing.T) {
			s := w.connect(t, e, "U1", "&resume=1")
			s.next(chat.TypeHello, nil)
			s.write(send)
			if ee := s.errorEvent(); ee.Kind != "invalid" || ee.Field != want.field || !strings.Contains(ee.Detail, want.says) {
				t.Errorf("error %+v, want field %q and %q", ee, want.field, want.says)
			}
			if ce := s.closed(); ce.Code != 4002 || ce.Text != "no valid resume frame" {
				t.Errorf("closed with %v", ce)
			}
		})
	}
}

func manyCursors(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"C%d":1`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestResume_MustComeInTime(t *testing.T) {
	w := newWorld(t)
	w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s := w.connect(t, e, "U1", "&resume=1")
	s.next(chat.TypeHello, nil)
	start := time.Now()
	if ee := s.errorEvent(); ee.Field != "type" {
		t.Errorf("error %+v", ee)
	}
	if d := time.Since(start); d < 4*time.Second || d > 7*time.Second {
		t.Errorf("after %s, want about %s", d, chat.ResumeWait)
	}
	if ce := s.closed(); ce.Code != 4002 {
		t.Errorf("closed with %v", ce)
	}
}

func TestClientFrames_BadOnesAreNamed(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, _ := w.open(t, e, g, "U1")
	long := strings.Repeat("x", 200)
	for _, c := range []struct{ send, kind, field string }{
		{`garbage`, "invalid", ""},
		{`[]`, "invalid", ""},
		{`null`, "invalid", ""},
		{` "x"`, "invalid", ""},
		{"{\"type\":\"post\",\"text\":\"\xff\"}", "invalid", ""},
		{`{"id":"1"}`, "invalid", "type"},
		{`{"type":"dance"}`, "invalid", "type"},
		{`{"type":7}`, "invalid", "type"},
		{`{"type":"post","text":"x"}`, "invalid", "channel_id"},
		{`{"type":"post","channel_id":"C1"}`, "invalid", "text"},
		{`{"type":"post","channel_id":"C1","text":5}`, "invalid", "text"},
		{`{"type":"post","channel_id":"C1","text":"` + strings.Repeat("ü", 40_001) + `"}`, "invalid", "text"},
		{`{"type":"post","channel_id":"` + long + `","text":"x"}`, "invalid", "channel_id"},
		{`{"type":"post","channel_id":"C1","text":"x","client_msg_id":"` + long + `"}`, "invalid", "client_msg_id"},
		{`{"type":"post","channel_id":"C1","text":"x","thread_root":"` + long + `"}`, "invalid", "thread_root"},
		{`{"type":"mark_read","channel_id":"C1"}`, "invalid", "last_read_message_id"},
		{`{"type":"typing_start"}`, "invalid", "channel_id"},
		{`{"type":"resume","cursors":{}}`, "invalid", "type"},
		{`{"type":"resume","cursors":{"C1":-1}}`, "invalid", "cursors"},
		{`{"type":"ping","id":"` + long + `"}`, "invalid", "id"},
	} {
		s.write(c.send)
		if ee := s.errorEvent(); ee.Kind != c.kind || ee.Field != c.field || ee.Detail == "" || strings.HasPrefix(ee.Detail, ":") {
			t.Errorf("%.60s: %+v, want kind %s, field %q", c.send, ee, c.kind, c.field)
		}
	}
	s.quiet()
	if n := len(all[frame.Post](g)); n > 0 {
		t.Errorf("%d bad posts reached the gateway", n)
	}
}

func TestClientFrames_ReachTheGateway(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, o := w.open(t, e, g, "U1")
	s.write(`{"type":"post","channel_id":"C1","text":"` + strings.Repeat("ü", 40_000) + `","thread_root":"M1"}`)
	s.write(`{"type":"typing_start","channel_id":"C1"}`)
	s.write(`{"type":"mark_read","id":"m","channel_id":"C1","last_read_message_id":"M9"}`)
	s.write(`{"type":"ping","id":"q","active":false}`)
	p := await[frame.Post](g, 1)[0]
	if p.Key == "" || p.ThreadRoot != "M1" || len(p.Text) != 80_000 || p.Session != o.Session {
		t.Errorf("post with key %q, root %s, %d bytes", p.Key, p.ThreadRoot, len(p.Text))
	}
	if f := await[frame.Typing](g, 1)[0]; f.Channel != "C1" {
		t.Errorf("typing %+v", f)
	}
	if f := await[frame.Activity](g, 1)[0]; f.Active {
		t.Errorf("activity %+v", f)
	}
	m := await[frame.MarkRead](g, 1)[0]
	if m.Message != "M9" || m.Req <= p.Req {
		t.Errorf("mark_read %+v after post %d", m, p.Req)
	}
	var pong chat.PongEvent
	s.next(chat.TypePong, &pong)
	if pong.ID != "q" {
		t.Errorf("pong %+v", pong)
	}
	g.onC1(frame.Answer{Session: o.Session, Req: m.Req, Body: frame.AnswerBody{Channel: "C1"}})
	b := s.read()
	if string(b) != `{"type":"ack","id":"m","channel_id":"C1"}` {
		t.Errorf("ack %s", b)
	}
	_ = s.ws.Close()
	if c := await[frame.Close](g, 1)[0]; c.Session != o.Session {
		t.Errorf("close %+v", c)
	}
}

// E3: a post that nobody answers is answered by the edge.
func TestPost_E3_UnansweredIsUnknown(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.HoldMax = 300 * time.Millisecond })
	s, _ := w.open(t, e, g, "U1")
	s.write(`{"type":"post","id":"a","channel_id":"C1","text":"x"}`)
	if ee := s.errorEvent(); ee.ID != "a" || ee.Kind != "unknown" || ee.Outcome != "unknown" {
		t.Errorf("error %+v", ee)
	}
	w.unlist("gw-1")
	g.stop()
	s.write(`{"type":"post","id":"b","channel_id":"C1","text":"x"}`)
	for {
		ee := s.errorEvent()
		if ee.ID == "b" {
			if ee.Outcome == "" {
				t.Errorf("error %+v", ee)
			}
			return
		}
	}
}

func TestFlood_IsBounded(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.FramesPerS, c.FramesBurst = 1, 10 })
	s, _ := w.open(t, e, g, "U1")
	for range 20 {
		s.write(`{"type":"ping"}`)
	}
	refused := 0
	for range 20 {
		b := s.read()
		if strings.Contains(string(b), `"exhausted"`) {
			refused++
			if !strings.Contains(string(b), "retry_ms") {
				t.Errorf("%s does not say when to retry", b)
			}
		}
	}
	if refused < 9 || refused > 10 {
		t.Errorf("%d refused, want 10", refused)
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	g.hello = func(frame.Open) []byte { return nil }
	e := w.edge(t)
	s := w.connect(t, e, "U1", "")
	o := await[frame.Open](g, 1)[0]
	g.say(frame.Control, frame.Refused{Session: o.Session, Kind: problem.Unavailable, Detail: "busy"})
	o = await[frame.Open](g, 2)[1]
	g.say(frame.Control, frame.Refused{Session: o.Session, Kind: problem.Unauthentic, Detail: "no such user"})
	if ee := s.errorEvent(); ee.Kind != "unauthentic" {
		t.Errorf("error %+v", ee)
	}
	if ce := s.closed(); ce.Code != 4003 {
		t.Errorf("closed with %v", ce)
	}
}

// An address that now belongs to a gateway of another cell is not used.
func TestLink_GatewayOfAnotherCell(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-2")
	wrong := g.info
	wrong.Cell = "eu-1"
	w.list(wrong)
	e := w.edge(t, func(c *edge.Config) { c.HomelessMax = time.Second })
	s := w.connect(t, e, "U1", "")
	if ee := s.errorEvent(); ee.Kind != "unavailable" {
		t.Errorf("error %+v", ee)
	}
	if n := len(all[frame.Open](g)); n > 0 {
		t.Errorf("%d sessions were opened there", n)
	}
}

// E1: a session that a gateway joins at a rev it is not at is resumed from where
// it is.
func TestSession_E1_JoinAtAnotherRev(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, o := w.open(t, e, g, "U1") // its hello said 10
	g.onC1(frame.GroupOpen{Group: 1, Workspace: "W1", Channel: "C1", Rev: 12}, frame.Join{Group: 1, Rev: 12, Sessions: []topology.SessionID{o.Session}}, groupFrame(13))
	again := await[frame.Open](g, 2)[1]
	r := await[frame.Resume](g, 1)[0]
	if r.Session != again.Session || !slices.Contains(r.Cursors, frame.Cursor{Channel: "C1", Rev: 10}) {
		t.Fatalf("resume %+v", r)
	}
	s.quiet()
}

// What waits for answers is bounded, in number and in bytes.
func TestPost_HeldOnesAreBounded(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t, func(c *edge.Config) { c.HoldPostsMax = 40 })
	s, o := w.open(t, e, g, "U1")
	text := strings.Repeat("ü", 40_000)
	for range 20 { // 13 of them are 1 MiB
		s.write(`{"type":"post","id":"big","channel_id":"C1","text":"` + text + `"}`)
	}
	for range 7 {
		if ee := s.errorEvent(); ee.Kind != "exhausted" || ee.RetryMS == 0 {
			t.Fatalf("error %+v", ee)
		}
	}
	for _, p := range await[frame.Post](g, 13) {
		g.onC1(frame.Answer{Session: o.Session, Req: p.Req, Body: frame.AnswerBody{Channel: "C1", Message: "M", Rev: 1, Seq: 1}})
		s.next(chat.TypeAck, nil)
	}
	for range 41 {
		s.write(`{"type":"mark_read","id":"m","channel_id":"C1","last_read_message_id":"M"}`)
	}
	if ee := s.errorEvent(); ee.Kind != "exhausted" {
		t.Fatalf("error %+v", ee)
	}
}
