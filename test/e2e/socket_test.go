//go:build e2e

package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"parley/client"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// until reads a socket until an event fits, and decodes it.
func until[E any](t *testing.T, s *client.Socket, what string, fits func(e E, head chat.Envelope) bool) E {
	t.Helper()
	giveUp := time.AfterFunc(stepMax, func() { _ = s.Close() })
	defer giveUp.Stop()
	for range 10_000 {
		raw, head, err := s.Read()
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		var e E
		if json.Unmarshal(raw, &e) == nil && fits(e, head) {
			return e
		}
	}
	t.Fatalf("no %s among 10,000 events", what)
	return *new(E)
}

// connect opens a socket that starts now and reads its hello.
func connect(t *testing.T, c *client.Client) *client.Socket {
	t.Helper()
	s, err := c.Dial(step(t), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, head, err := s.Read(); err != nil || head.Type != chat.TypeHello {
		t.Fatalf("the first event is %+v, %v", head, err)
	}
	return s
}

func send(t *testing.T, s *client.Socket, f chat.ClientFrame) {
	t.Helper()
	if err := s.Send(f); err != nil {
		t.Fatal(err)
	}
}

// checkSocket does on sockets what people's clients do.
func checkSocket(t *testing.T, d *dev) {
	t.Helper()
	ws := d.info.Workspaces[0]
	general, ann, bob := ws.Channels[0].ID, ws.Users[0], ws.Users[1]
	here, there, second := connect(t, d.as(t, 0, 0, 0)), connect(t, d.as(t, 0, 1, 1)), connect(t, d.as(t, 0, 1, 0))

	send(t, here, chat.ClientFrame{Type: chat.TypePing, ID: "p1"})
	until(t, here, "pong", func(_ chat.PongEvent, h chat.Envelope) bool { return h.Type == chat.TypePong && h.ID == "p1" })

	send(t, here, chat.ClientFrame{Type: chat.TypeTypingStart, ChannelID: general})
	until(t, there, "typing", func(e chat.TypingEvent, h chat.Envelope) bool { return h.Type == chat.TypeTyping && e.UserID == ann.ID })

	send(t, here, chat.ClientFrame{Type: chat.TypePost, ID: "m1", ChannelID: general, Text: "over the socket"})
	ack := until(t, here, "ack", func(_ chat.AckEvent, h chat.Envelope) bool { return h.Type == chat.TypeAck && h.ID == "m1" })
	if ack.Posted == nil || ack.Seq == 0 {
		t.Fatalf("the ack is %+v", ack)
	}
	isMine := func(e chat.MessageEvent, _ chat.Envelope) bool { return e.Message.MessageID == ack.MessageID }
	if got := until(t, there, "the message", isMine); got.Message.Text != "over the socket" || got.Message.Seq != ack.Seq || got.Rev != ack.Rev {
		t.Errorf("the other region sees %+v for %+v", got, ack)
	}

	send(t, there, chat.ClientFrame{Type: chat.TypeMarkRead, ID: "r1", ChannelID: general, LastReadMessageID: ack.MessageID})
	until(t, there, "ack of mark_read", func(_ chat.AckEvent, h chat.Envelope) bool { return h.Type == chat.TypeAck && h.ID == "r1" })
	state := until(t, second, "read_state in the other session", func(e chat.ReadStateEvent, h chat.Envelope) bool {
		return h.Type == chat.TypeReadState && e.ChannelID == general
	})
	if state.UnreadCount != 0 || state.LastReadMessageID == nil || *state.LastReadMessageID != ack.MessageID {
		t.Errorf("the read state is %+v", state)
	}

	send(t, here, chat.ClientFrame{Type: chat.TypePost, ID: "bad", ChannelID: general, Text: ""})
	bad := until(t, here, "error", func(_ chat.ErrorEvent, h chat.Envelope) bool { return h.Type == chat.TypeError })
	if bad.ID != "bad" || bad.Kind != "invalid" || bad.Field != "text" {
		t.Errorf("an empty text got %+v", bad)
	}
	send(t, here, chat.ClientFrame{Type: "dance", ID: "odd"})
	if odd := until(t, here, "error", func(_ chat.ErrorEvent, h chat.Envelope) bool { return h.Type == chat.TypeError }); odd.ID != "odd" || odd.Field != "type" {
		t.Errorf("an unknown frame got %+v", odd)
	}

	checkGain(t, d, here, there, bob.ID)
	checkPresence(t, d, there)
}

// checkGain adds somebody who is connected to a new channel, and takes them out.
func checkGain(t *testing.T, d *dev, here, there *client.Socket, bob topology.UserID) {
	t.Helper()
	owner := d.as(t, 0, 0, 0)
	ch, err := owner.CreateChannel(step(t), chat.CreateChannelRequest{Name: "sockets", Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	gained := func(e chat.ChannelEvent, h chat.Envelope) bool {
		return h.Type == chat.TypeChannel && e.Event == chat.ChannelGained && e.ChannelID == ch.ID
	}
	until(t, here, "gained", gained)
	rev, err := owner.AddMembers(step(t), ch.ID, []topology.UserID{bob})
	if err != nil {
		t.Fatal(err)
	}
	if e := until(t, there, "gained", gained); e.URev == 0 || e.Channel == nil || e.Channel.Name != "sockets" {
		t.Errorf("gained: %+v", e)
	}
	joined := until(t, here, "member_joined", func(e chat.ChannelEvent, _ chat.Envelope) bool {
		return e.Event == chat.MemberJoined && e.ChannelID == ch.ID
	})
	if joined.Rev != rev || len(joined.UserIDs) != 1 || joined.UserIDs[0] != bob {
		t.Errorf("joined: %+v, the call said rev %d", joined, rev)
	}
	if _, err := d.as(t, 0, 1, 1).Leave(step(t), ch.ID); err != nil {
		t.Fatal(err)
	}
	until(t, there, "lost", func(e chat.ChannelEvent, _ chat.Envelope) bool {
		return e.Event == chat.ChannelLost && e.ChannelID == ch.ID
	})
}

// checkPresence sees somebody come and go.
func checkPresence(t *testing.T, d *dev, watcher *client.Socket) {
	t.Helper()
	carol := d.info.Workspaces[0].Users[2].ID
	s, err := d.as(t, 0, 2, 0).Dial(step(t), false)
	if err != nil {
		t.Fatal(err)
	}
	is := func(status string) func(chat.PresenceEvent, chat.Envelope) bool {
		return func(e chat.PresenceEvent, h chat.Envelope) bool {
			return h.Type == chat.TypePresence && e.UserID == carol && e.Status == status
		}
	}
	until(t, watcher, "online", is("online"))
	idle := false
	send(t, s, chat.ClientFrame{Type: chat.TypePing, Active: &idle})
	until(t, watcher, "away", is("away"))
	_ = s.Close()
	until(t, watcher, "offline", is("offline"))
}

// checkConnect looks at the ways to log in at a socket.
func checkConnect(t *testing.T, d *dev) {
	t.Helper()
	user := d.info.Workspaces[0].Users[0]
	base := "ws" + strings.TrimPrefix(d.info.Edges[1].URL, "http") + "/connect"
	dial := func(query url.Values) (string, int) {
		ws, res, err := websocket.DefaultDialer.DialContext(step(t), base+"?"+query.Encode(), http.Header{}) //nolint:bodyclose // gorilla has read and closed it
		if err != nil {
			if res == nil {
				t.Fatal(err)
			}
			return "", res.StatusCode
		}
		defer func() { _ = ws.Close() }()
		_, b, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		var h chat.Hello
		if err := json.Unmarshal(b, &h); err != nil || h.UserID != user.ID {
			t.Errorf("hello is %s", b)
		}
		return h.Type, 0
	}
	if typ, status := dial(url.Values{"token": {user.Token}}); typ != chat.TypeHello {
		t.Errorf("?token= got %d", status)
	}
	ticket, err := d.as(t, 0, 0, 1).Ticket(step(t))
	if err != nil {
		t.Fatal(err)
	}
	if typ, status := dial(url.Values{"ticket": {ticket.Ticket}}); typ != chat.TypeHello {
		t.Errorf("?ticket= got %d", status)
	}
	if _, status := dial(url.Values{"ticket": {ticket.Ticket}}); status != http.StatusUnauthorized {
		t.Errorf("a ticket's second use got %d", status)
	}
	if _, status := dial(nil); status != http.StatusUnauthorized {
		t.Errorf("nothing got %d", status)
	}
}
