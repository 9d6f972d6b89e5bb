package client_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"parley/client"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// edges is a network in memory: by host, what takes a connection.
type edges map[string]func(net.Conn)

func (e edges) client(t *testing.T, host string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: "http://" + host, Token: "secret", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		take := e[host]
		if take == nil { // packets vanish
			<-ctx.Done()
			return nil, ctx.Err()
		}
		here, there := net.Pipe()
		go take(there)
		return here, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// swallow reads all and answers nothing, as a process that was stopped seems to.
func swallow(c net.Conn) {
	defer func() { _ = c.Close() }()
	for b := make([]byte, 1024); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// upgraded takes a connection as an edge does whose socket is then f's.
func upgraded(f func(*websocket.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		l := &oneConn{conns: make(chan net.Conn, 1), addr: c.LocalAddr()}
		l.conns <- c
		s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(l.conns)
			up := websocket.Upgrader{}
			ws, err := up.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer func() { _ = ws.Close() }()
			f(ws)
		})}
		_ = s.Serve(l)
	}
}

// oneConn is a listener with one connection.
type oneConn struct {
	conns chan net.Conn // closed when it has been served
	addr  net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// mute opens a socket and says nothing.
func mute(ws *websocket.Conn) {
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			return
		}
	}
}

// well is an edge that works, after a while.
func well(after time.Duration) func(*websocket.Conn) {
	return func(ws *websocket.Conn) {
		t := time.AfterFunc(after, func() {
			_ = ws.WriteMessage(websocket.TextMessage, chat.Encode(chat.Hello{Type: chat.TypeHello})) // the client may have left
		})
		defer t.Stop()
		mute(ws)
	}
}

// TestStream_LeavesAnEdgeThatHangs: whatever an edge hangs in, the next one is
// tried within seconds.
func TestStream_LeavesAnEdgeThatHangs(t *testing.T) {
	for name, hangs := range map[string]func(net.Conn){
		"no connection": nil, "no answer": swallow, "no hello": upgraded(mute),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := edges{"a": hangs, "b": upgraded(well(time.Millisecond))}
				if took := helloAfter(t, nil, net.client(t, "a"), net.client(t, "b")); took > 5*time.Second {
					t.Errorf("the first hello came after %v", took)
				}
				if took := helloAfter(t, map[topology.ChannelID]topology.Rev{"C": 1}, net.client(t, "a"), net.client(t, "b")); took > 5*time.Second {
					t.Errorf("the hello of a resume came after %v", took)
				}
			})
		})
	}
}

// TestStream_WaitsLongerForSlowEdges: edges that all need ten seconds are not left
// for ever just before they answer.
func TestStream_WaitsLongerForSlowEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := upgraded(well(10 * time.Second))
		net := edges{"a": slow, "b": slow}
		if took := helloAfter(t, nil, net.client(t, "a"), net.client(t, "b")); took > 45*time.Second {
			t.Errorf("the first hello came after %v", took)
		}
	})
}

// TestStream_LeavesASocketThatFellSilent: pings are answered, or the socket is dead.
func TestStream_LeavesASocketThatFellSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := edges{"a": upgraded(well(time.Millisecond)), "b": upgraded(well(time.Millisecond))}
		s := run(t, nil, net.client(t, "a"), net.client(t, "b"))
		<-s.Events()
		began := time.Now()
		<-s.Events() // the second edge's hello
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the silence lasted %v", took)
		}
	})
}

func run(t *testing.T, cursors map[topology.ChannelID]topology.Rev, cs ...*client.Client) *client.Stream {
	t.Helper()
	s, err := client.NewStream(cs, cursors, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// helloAfter is how long a stream takes to its first event.
func helloAfter(t *testing.T, cursors map[topology.ChannelID]topology.Rev, cs ...*client.Client) time.Duration {
	t.Helper()
	s := run(t, cursors, cs...)
	began := time.Now()
	select {
	case <-s.Events():
	case <-time.After(5 * time.Minute):
		t.Fatal("no hello within five minutes")
	}
	return time.Since(began)
}
