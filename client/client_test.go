package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T, h http.Handler) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	c, err := client.New(client.Config{URL: s.URL, Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

// abort breaks the connection instead of an answer.
func abort(w http.ResponseWriter) {
	if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = c.Close()
	}
}

// TestPost_IsRepeatedUnderOneKey: an edge that can't say what became of a post
// gets it again, with the same key, until it can.
func TestPost_IsRepeatedUnderOneKey(t *testing.T) {
	var mu sync.Mutex
	keys := map[string]int{}
	tries := 0
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var p chat.PostRequest
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil || r.Header.Get("Authorization") != "Bearer secret" {
			problem.Write(w, problem.New(problem.Invalid, "%v", err))
			return
		}
		keys[p.ClientMsgID]++
		switch tries++; tries {
		case 1:
			problem.Write(w, problem.New(problem.Unknown, "the cell did not answer"))
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			abort(w) // the connection breaks
		default:
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(chat.Posted{Seq: 7})
		}
	}))
	got, err := c.Post(t.Context(), "C1", chat.PostRequest{Text: "x"})
	if err != nil || got.Seq != 7 {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(keys) != 1 || tries != 4 {
		t.Errorf("%d tries under keys %v", tries, keys)
	}
}

func TestCalls_AreNotRepeatedInVain(t *testing.T) {
	var tries atomic.Int64
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		problem.Write(w, problem.Field("text", "must not be empty"))
	}))
	_, err := c.Post(t.Context(), "C1", chat.PostRequest{})
	if !problem.Is(err, problem.Invalid) || problem.Show(err) != "text: must not be empty" || tries.Load() != 1 {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
	tries.Store(0)
	c = newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		abort(w)
	}))
	if _, err := c.CreateChannel(t.Context(), chat.CreateChannelRequest{Name: "x"}); !problem.Is(err, problem.Unknown) || tries.Load() != 1 {
		t.Errorf("creating a channel: %v after %d tries", err, tries.Load())
	}
}

// script is an edge whose sockets each send what it says and then break.
type script struct {
	t       *testing.T
	sockets [][]any
	mu      sync.Mutex
	resumes []map[topology.ChannelID]topology.Rev // nil: a socket without resume
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.Close() }()
	s.mu.Lock()
	n := len(s.resumes)
	var f chat.ClientFrame
	if r.URL.Query().Get("resume") == "1" {
		if err := ws.ReadJSON(&f); err != nil || f.Type != chat.TypeResume {
			s.t.Errorf("the first frame is %+v, %v", f, err)
		}
	}
	s.resumes = append(s.resumes, f.Cursors)
	s.mu.Unlock()
	if n >= len(s.sockets) {
		<-r.Context().Done()
		return
	}
	for _, e := range s.sockets[n] {
		if err := ws.WriteMessage(websocket.TextMessage, chat.Encode(e)); err != nil {
			return
		}
	}
}

func message(ch topology.ChannelID, rev topology.Rev) chat.MessageEvent {
	return chat.MessageEvent{Type: chat.TypeMessage, ChannelID: ch, Rev: rev, Message: chat.Message{Text: fmt.Sprint(ch, rev)}}
}

// TestStream_I1_EveryRevOnceInOrder: over sockets that break, repeat and skip.
func TestStream_I1_EveryRevOnceInOrder(t *testing.T) {
	hello := chat.Hello{Type: chat.TypeHello, URev: 3, Channels: []chat.HelloChannel{{ID: "A", Rev: 10}, {ID: "B", Rev: 0}}}
	s := &script{t: t, sockets: [][]any{
		{hello, message("A", 11), message("B", 1), message("A", 12), message("A", 14)}, // 13 is missing
		{hello, message("A", 12), message("A", 13), chat.ResumedEvent{Type: chat.TypeResumed, ChannelID: "A", Rev: 13}, message("A", 14), message("B", 2)},
		{hello, chat.ErrorEvent{Type: chat.TypeError, ChannelID: "B", Kind: "not_found"}, chat.ResetEvent{Type: chat.TypeReset, ChannelID: "A", Rev: 90}, message("A", 91)},
		{hello, chat.ChannelEvent{Type: chat.TypeChannel, Event: chat.ChannelLost, ChannelID: "B", URev: 4}, message("A", 92)},
		{hello, chat.ChannelEvent{Type: chat.TypeChannel, Event: chat.ChannelGained, ChannelID: "B", URev: 5}, message("B", 40), message("B", 41), chat.GoawayEvent{Type: chat.TypeGoaway}},
		{hello, message("A", 93)},
	}}
	c := newClient(t, s)
	stream, err := client.NewStream([]*client.Client{c}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- stream.Run(ctx) }()
	var got []string
	for e := range stream.Events() {
		if e.Type == chat.TypeMessage || e.Type == chat.TypeReset {
			got = append(got, fmt.Sprint(e.Type, " ", e.ChannelID, " ", e.Rev))
		}
		if e.Rev == 93 {
			break
		}
	}
	want := []string{
		"message A 11", "message B 1", "message A 12", "message A 13", "message A 14", "message B 2",
		"reset A 90", "message A 91", "message A 92", "message B 40", "message B 41", "message A 93",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	resumes := []map[topology.ChannelID]topology.Rev{
		nil,
		{"A": 12, "B": 1, "@user": 3},
		{"A": 14, "B": 2, "@user": 3},
		{"A": 91, "B": 2, "@user": 3},
		{"A": 92, "@user": 4},
		{"A": 92, "B": 41, "@user": 5},
	}
	if d := cmp.Diff(resumes, s.resumes[:len(resumes)]); d != "" {
		t.Error(d)
	}
}

func TestStream_EndsWhenTheTokenIsRefused(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.New(problem.Unauthentic, "the token has expired"))
	}))
	stream, err := client.NewStream([]*client.Client{c}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Run(t.Context()); !problem.Is(err, problem.Unauthentic) {
		t.Errorf("got %v", err)
	}
}
