package chatui_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"parley/client"
	"parley/internal/chatui"
	"parley/internal/wire/chat"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// edge is enough of an edge for one person in one channel: what is posted comes
// back on the socket.
func edge(t *testing.T) *client.Client {
	t.Helper()
	events := make(chan []byte, 16)
	old := chat.Message{MessageID: "M1", ChannelID: "C1", Seq: 1, UserID: "U2", Text: "before \x1b[2Jyou came", TS: 1}
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/users/me", answer(chat.User{ID: "U1", Name: "ann"}))
	mux.HandleFunc("GET /api/v1/users", answer(chat.UserPage{Users: []chat.User{{ID: "U1", Name: "ann"}, {ID: "U2", Name: "bob"}}}))
	mux.HandleFunc("GET /api/v1/channels", answer(chat.ChannelPage{Channels: []chat.Channel{{ID: "C1", Name: "general", IsMember: true, MemberCount: 2}}}))
	mux.HandleFunc("GET /api/v1/channels/C1/messages", answer(chat.MessagePage{Messages: []chat.Message{old}}))
	mux.HandleFunc("GET /api/v1/search", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query().Get("q"); q != "you came" {
			t.Errorf("searched for %q", q)
		}
		answer(chat.SearchPage{Messages: []chat.FoundMessage{{Message: old}}, HasMore: true, NextCursor: "x"})(w, r)
	})
	mux.HandleFunc("POST /api/v1/channels/C1/messages", func(w http.ResponseWriter, r *http.Request) {
		var p chat.PostRequest
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			t.Error(err)
		}
		m := chat.Message{MessageID: "M2", ChannelID: "C1", Seq: 2, UserID: "U1", Text: p.Text, TS: 2}
		events <- chat.Encode(chat.MessageEvent{Type: chat.TypeMessage, ChannelID: "C1", Rev: 3, Message: m})
		w.WriteHeader(http.StatusCreated)
		answer(chat.Posted{MessageID: "M2", Seq: 2, Rev: 3})(w, r)
	})
	var sockets sync.WaitGroup
	mux.HandleFunc("GET /connect", func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		sockets.Add(1)
		defer sockets.Done()
		defer func() { _ = ws.Close() }()
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
			}
		}()
		hello := chat.Hello{Type: chat.TypeHello, Channels: []chat.HelloChannel{{ID: "C1", Rev: 2}}}
		for b := chat.Encode(hello); ; {
			if err := ws.WriteMessage(websocket.TextMessage, b); err != nil {
				<-gone
				return
			}
			select {
			case b = <-events:
			case <-gone:
				return
			}
		}
	})
	s := httptest.NewServer(mux)
	c, err := client.New(client.Config{URL: s.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close(); sockets.Wait() })
	return c
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	err := chatui.Plain(t.Context(), chatui.Config{Clients: []*client.Client{edge(t)}, Channel: "#general"}, strings.NewReader("hello\n\n/search you came\n"), &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"#general · 2 members · you are ann\n", " bob: before �[2Jyou came\n", " ann: hello\n", " #general bob: before �[2Jyou came\n", "      * 1 found for you came, and more\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Error("a message steers the terminal")
	}
}

func TestPlain_NoSuchChannel(t *testing.T) {
	var out bytes.Buffer
	err := chatui.Plain(t.Context(), chatui.Config{Clients: []*client.Client{edge(t)}, Channel: "nowhere"}, strings.NewReader(""), &out)
	if err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("got %v", err)
	}
}
