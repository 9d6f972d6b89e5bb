package load_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"parley/bench/load"
	"parley/internal/wire/chat"
)

// server is a chat of one socket whose stream the test writes: answer gets each
// post, with its number from 1, and returns the events to send.
func server(t *testing.T, answer func(n uint64, post chat.ClientFrame) []string) string {
	t.Helper()
	var up websocket.Upgrader
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		send := func(e string) { _ = ws.WriteMessage(websocket.TextMessage, []byte(e)) }
		send(`{"type":"hello","channels":[{"id":"Ca","rev":7}],"heartbeat_s":1}`)
		for n := uint64(1); ; n++ {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			var f chat.ClientFrame
			if json.Unmarshal(b, &f) != nil || f.Type != chat.TypePost {
				n--
				continue
			}
			for _, e := range answer(n, f) {
				if e == "close" {
					return
				}
				send(e)
			}
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func ack(f chat.ClientFrame) string { return fmt.Sprintf(`{"type":"ack","id":%q}`, f.ID) }

func message(rev uint64, f chat.ClientFrame) string {
	return fmt.Sprintf(`{"type":"message","channel_id":"Ca","rev":%d,"message":{"text":%q,"client_msg_id":%q}}`, rev, f.Text, f.ClientMsgID)
}

// run loads a server until it has had so many posts, however slow the machine is.
func run(t *testing.T, posts uint64, answer func(n uint64, post chat.ClientFrame) []string) load.Counts {
	t.Helper()
	var had atomic.Uint64
	addr := server(t, func(n uint64, post chat.ClientFrame) []string {
		had.Store(n)
		return answer(n, post)
	})
	l, err := load.Connect(t.Context(), load.Config{Name: "test", Sockets: []load.Socket{{Addr: addr, Token: "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 100 {
		if _, err := l.Run(t.Context(), load.Plan{InFlight: 1, For: 50 * time.Millisecond, Drain: 200 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		if had.Load() >= posts {
			return l.Counts()
		}
	}
	t.Fatalf("only %d posts got through", had.Load())
	return load.Counts{}
}

func TestLoad_GoodServerHasNoFaults(t *testing.T) {
	r := run(t, 10, func(n uint64, f chat.ClientFrame) []string {
		if len(f.Text) != load.BodyBytes {
			t.Errorf("a post has %d bytes", len(f.Text))
		}
		return []string{message(7+n, f), `{"type":"presence","user_id":"U1","status":"online"}`, ack(f)}
	})
	if r.Faults() != 0 || r.Posts == 0 || r.Posts != r.Delivered {
		t.Errorf("%+v", r)
	}
}

// TestLoad_L2_FindsFaults plants each fault in an otherwise good stream, at the
// third post.
func TestLoad_L2_FindsFaults(t *testing.T) {
	const at = 3
	for _, c := range []struct {
		name  string
		plant func(rev uint64, f chat.ClientFrame) []string
		after uint64 // what it adds to the revs from then on
		count func(load.Counts) int64
	}{
		{"lost", func(rev uint64, f chat.ClientFrame) []string { return []string{message(rev+1, f), ack(f)} }, 1, func(c load.Counts) int64 { return c.Lost }},
		{"doubled", func(rev uint64, f chat.ClientFrame) []string {
			return []string{message(rev, f), message(rev, f), ack(f)}
		}, 0, func(c load.Counts) int64 { return c.Doubled }},
		{"disorder", func(rev uint64, f chat.ClientFrame) []string {
			return []string{message(rev, f), message(rev-1, f), ack(f)}
		}, 0, func(c load.Counts) int64 { return c.Disorder }},
		{"double ack", func(rev uint64, f chat.ClientFrame) []string { return []string{message(rev, f), ack(f), ack(f)} }, 0, func(c load.Counts) int64 { return c.Doubled }},
		{"refused", func(_ uint64, f chat.ClientFrame) []string {
			return []string{fmt.Sprintf(`{"type":"error","id":%q,"kind":"unavailable"}`, f.ID)}
		}, ^uint64(0), func(c load.Counts) int64 { return c.Refused }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, 10, func(n uint64, f chat.ClientFrame) []string {
				switch {
				case n == at:
					return c.plant(7+n, f)
				case n > at:
					return []string{message(7+n+c.after, f), ack(f)}
				default:
					return []string{message(7+n, f), ack(f)}
				}
			})
			if c.count(r) != 1 || r.Faults() != 1 {
				t.Errorf("%+v, want just this fault", r)
			}
		})
	}
}

func TestLoad_ClosedSocketIsAFault(t *testing.T) {
	r := run(t, 1, func(uint64, chat.ClientFrame) []string { return []string{"close"} })
	if r.Broken != 1 || r.Lost != 1 {
		t.Errorf("%+v, want a broken socket and a lost post", r)
	}
}

func TestLoad_L3_MissingDeliveryIsLost(t *testing.T) {
	r := run(t, 1, func(_ uint64, f chat.ClientFrame) []string { return []string{ack(f)} })
	if r.Lost != 1 || r.Posts != 0 {
		t.Errorf("%+v, want one lost", r)
	}
}

func TestConnect_RefusalSaysWhy(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such token", http.StatusUnauthorized)
	}))
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	_, err := load.Connect(t.Context(), load.Config{Sockets: []load.Socket{{Addr: addr}}})
	if err == nil || !strings.Contains(err.Error(), "no such token") {
		t.Errorf("got %v", err)
	}
}

// A server that says nothing after the handshake: ctx ends the wait.
func TestConnect_EndsWithItsContext(t *testing.T) {
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
		}
		_, _ = c.Read(make([]byte, 1))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := load.Connect(ctx, load.Config{Sockets: []load.Socket{{Addr: ln.Addr().String()}}}); err == nil {
		t.Error("a socket without a hello counts as connected")
	}
	<-gone
}
