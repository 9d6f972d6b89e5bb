package chatui_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"parley/client"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// edge is enough of an edge for one person, ann. What is posted comes back on
// the sockets; others say what the test has them say.
type edge struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	channels []chat.Channel
	messages map[topology.ChannelID][]chat.Message
	replies  map[topology.MessageID][]chat.Message
	unread   map[topology.ChannelID]chat.ReadState
	rev      map[topology.ChannelID]topology.Rev
	sockets  map[*websocket.Conn]bool
	keys     []string // of posts, as they came
	pages    int      // of history that were asked for
	refuse   string   // posts, and why
	down     bool
	serving  sync.WaitGroup
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	e := &edge{
		t: t, messages: map[topology.ChannelID][]chat.Message{}, replies: map[topology.MessageID][]chat.Message{},
		unread: map[topology.ChannelID]chat.ReadState{}, rev: map[topology.ChannelID]topology.Rev{}, sockets: map[*websocket.Conn]bool{},
	}
	for n, name := range []string{"general", "ops", "random"} {
		id := topology.ChannelID("C" + strconv.Itoa(n+1))
		e.channels = append(e.channels, chat.Channel{ID: id, Name: name, IsMember: name != "random", MemberCount: 2})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/users/me", e.answer(func(*http.Request) any { return chat.User{ID: "U1", Name: "ann"} }))
	mux.HandleFunc("GET /api/v1/users", e.answer(func(*http.Request) any {
		return chat.UserPage{Users: []chat.User{{ID: "U1", Name: "ann"}, {ID: "U2", Name: "bob"}}}
	}))
	mux.HandleFunc("GET /api/v1/channels", e.answer(func(*http.Request) any { return chat.ChannelPage{Channels: e.channels} }))
	mux.HandleFunc("GET /api/v1/unread", e.answer(func(*http.Request) any {
		var r chat.UnreadResponse
		for _, s := range e.unread {
			r.Channels = append(r.Channels, s)
		}
		return r
	}))
	mux.HandleFunc("POST /api/v1/channels/{id}/join", e.answer(func(*http.Request) any { return chat.MembershipResponse{Rev: 1} }))
	mux.HandleFunc("POST /api/v1/channels/{id}/mark_read", e.answer(e.mark))
	mux.HandleFunc("GET /api/v1/channels/{id}/messages", e.answer(e.history))
	mux.HandleFunc("GET /api/v1/channels/{id}/messages/{root}/replies", e.answer(e.thread))
	mux.HandleFunc("GET /api/v1/search", e.answer(func(r *http.Request) any {
		if q := r.URL.Query().Get("q"); q != "you came" {
			t.Errorf("searched for %q", q)
		}
		return chat.SearchPage{Messages: []chat.FoundMessage{{Message: e.messages["C1"][0]}}, HasMore: true, NextCursor: "x"}
	}))
	mux.HandleFunc("GET /connect", e.connect)
	s := httptest.NewServer(mux)
	e.url = s.URL
	t.Cleanup(func() { e.fall(); s.Close(); e.serving.Wait() })
	return e
}

func (e *edge) client() *client.Client {
	e.t.Helper()
	c, err := client.New(client.Config{URL: e.url, Token: "t"})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(c.Close)
	return c
}

func (e *edge) answer(f func(r *http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(f(r))
	}
}

func (e *edge) mark(r *http.Request) any {
	var q chat.MarkReadRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		e.t.Error(err)
	}
	ch := topology.ChannelID(r.PathValue("id"))
	e.unread[ch] = chat.ReadState{ChannelID: ch, LastReadMessageID: &q.LastReadMessageID}
	return e.unread[ch]
}

func (e *edge) history(r *http.Request) any {
	e.pages++
	all := e.messages[topology.ChannelID(r.PathValue("id"))]
	if before := topology.MessageID(r.URL.Query().Get("before")); before != "" {
		all = all[:slices.IndexFunc(all, func(m chat.Message) bool { return m.MessageID == before })]
	}
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	first := max(0, len(all)-limit)
	page := slices.Clone(all[first:])
	slices.Reverse(page)
	return chat.MessagePage{Messages: page, HasMore: first > 0}
}

// thread pages by two, so that a test need not say much.
func (e *edge) thread(r *http.Request) any {
	all := e.replies[topology.MessageID(r.PathValue("root"))]
	if after := topology.MessageID(r.URL.Query().Get("after")); after != "" {
		all = all[slices.IndexFunc(all, func(m chat.Message) bool { return m.MessageID == after })+1:]
	}
	n := min(2, len(all))
	return chat.MessagePage{Messages: all[:n], HasMore: n < len(all)}
}

func (e *edge) connect(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	if e.down {
		e.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	up := websocket.Upgrader{}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		e.mu.Unlock()
		e.t.Error(err)
		return
	}
	e.serving.Add(1)
	defer e.serving.Done()
	hello := chat.Hello{Type: chat.TypeHello}
	for _, ch := range e.channels {
		hello.Channels = append(hello.Channels, chat.HelloChannel{ID: ch.ID, Rev: e.rev[ch.ID]})
	}
	_ = ws.WriteMessage(websocket.TextMessage, chat.Encode(hello))
	e.sockets[ws] = true
	e.mu.Unlock()
	for {
		var f chat.ClientFrame
		if ws.ReadJSON(&f) != nil {
			break
		}
		if f.Type == chat.TypePost {
			e.post(ws, f)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sockets, ws)
	_ = ws.Close()
}

func (e *edge) post(ws *websocket.Conn, f chat.ClientFrame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys = append(e.keys, f.ClientMsgID)
	if e.refuse != "" {
		_ = ws.WriteMessage(websocket.TextMessage, chat.Encode(chat.ErrorEvent{Type: chat.TypeError, ID: f.ID, Kind: "invalid", Detail: e.refuse}))
		return
	}
	m := e.add(f.ChannelID, "U1", f.Text, f.ThreadRoot, f.ClientMsgID)
	_ = ws.WriteMessage(websocket.TextMessage, chat.Encode(chat.AckEvent{
		Type: chat.TypeAck, ID: f.ID, ChannelID: f.ChannelID, Posted: &chat.Posted{MessageID: m.MessageID, Seq: m.Seq, TS: m.TS, Rev: e.rev[f.ChannelID]},
	}))
}

// add stores a message and sends it to the sockets. The caller holds mu.
func (e *edge) add(ch topology.ChannelID, by topology.UserID, text string, root *topology.MessageID, key string) chat.Message {
	m := chat.Message{ChannelID: ch, UserID: by, Text: text, ThreadRoot: root, ClientMsgID: key, TS: 1}
	if root == nil {
		m.Seq = topology.Seq(len(e.messages[ch]) + 1)
		m.MessageID = topology.MessageID(fmt.Sprintf("%s-%06d", ch, m.Seq))
		e.messages[ch] = append(e.messages[ch], m)
	} else {
		m.Seq = topology.Seq(len(e.replies[*root]) + 1)
		m.MessageID = topology.MessageID(fmt.Sprintf("%s-r%06d", *root, m.Seq))
		e.replies[*root] = append(e.replies[*root], m)
		for n := range e.messages[ch] {
			if at := &e.messages[ch][n]; at.MessageID == *root {
				at.ReplyCount++
			}
		}
	}
	e.rev[ch]++
	e.send(chat.MessageEvent{Type: chat.TypeMessage, ChannelID: ch, Rev: e.rev[ch], Message: m})
	return m
}

func (e *edge) send(event any) {
	for ws := range e.sockets {
		_ = ws.WriteMessage(websocket.TextMessage, chat.Encode(event))
	}
}

// say has bob say something.
func (e *edge) say(ch topology.ChannelID, text string) topology.MessageID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.add(ch, "U2", text, nil, "").MessageID
}

// reply has bob answer.
func (e *edge) reply(ch topology.ChannelID, root topology.MessageID, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.add(ch, "U2", text, &root, "")
}

// fall takes the edge away, rise brings it back.
func (e *edge) fall() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = true
	for ws := range e.sockets {
		_ = ws.Close()
	}
}

func (e *edge) rise() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = false
}

func (e *edge) with(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}
