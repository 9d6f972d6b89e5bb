package edge_test

import (
	"encoding/binary"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// masked is a client's frame, byte by byte: head is its first byte.
func masked(head byte, payload string) []byte {
	mask := [4]byte{1, 2, 3, 4}
	b := []byte{head}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

func pingFrame(id string, pad int) string {
	return `{"type":"ping","id":"` + id + `"` + strings.Repeat(" ", pad) + `}`
}

func (s *socket) raw(b []byte) {
	s.t.Helper()
	if _, err := s.ws.NetConn().Write(b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) ponged(id string) {
	s.t.Helper()
	var p chat.PongEvent
	if s.next(chat.TypePong, &p); p.ID != id {
		s.t.Fatalf("a pong for %q, want %q", p.ID, id)
	}
}

// Frames come in any portions, and all are answered in order.
func TestReader_FramesInAnyPortions(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	s, _ := w.open(t, e, g, "U1")
	pongs := make(chan string, 16)
	s.ws.SetPongHandler(func(data string) error { pongs <- data; return nil })

	many := append(masked(0x81, pingFrame("a", 0)), masked(0x89, "one")...)
	many = append(many, masked(0x8a, "")...)
	many = append(many, masked(0x01, `{"type":"ping",`)...) // a message in two frames, with a ping between
	many = append(many, masked(0x89, "two")...)
	many = append(many, masked(0x80, `"id":"b"}`)...)
	for _, pad := range []int{200, 3000, 4095, 4096, 5000, 20_000} { // around the edge's buffer
		many = append(many, masked(0x81, pingFrame(strconv.Itoa(pad), pad))...)
	}
	for name, portion := range map[string]int{"at once": len(many), "in odd portions": 1009, "in small ones": 97} {
		t.Run(name, func(t *testing.T) {
			go func() {
				for b := many; len(b) > 0; b = b[min(portion, len(b)):] {
					s.raw(b[:min(portion, len(b))])
					<-time.After(time.Millisecond) // so that portions come alone
				}
			}()
			for _, id := range []string{"a", "b", "200", "3000", "4095", "4096", "5000", "20000"} {
				s.ponged(id)
			}
			if one, two := <-pongs, <-pongs; one != "one" || two != "two" {
				t.Errorf("pongs %q and %q", one, two)
			}
		})
	}
}

// E2: a client that sends its frame slowly holds up no other.
func TestReader_E2_AHalfSentFrameDelaysNobody(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	var halves []*socket
	f := masked(0x81, pingFrame("late", 0))
	for i := range 4 * runtime.GOMAXPROCS(0) {
		s, _ := w.open(t, e, g, "U1")
		s.raw(f[:1+i%(len(f)-1)])
		halves = append(halves, s)
	}
	other, _ := w.open(t, e, g, "U2")
	other.write(pingFrame("now", 0))
	other.ponged("now")
	for i, s := range halves {
		s.raw(f[1+i%(len(f)-1):])
		s.ponged("late")
		s.write(pingFrame("after", 0))
		s.ponged("after")
	}
}

func TestReader_BrokenFramesEndTheSocket(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	closes := 0
	for name, b := range map[string][]byte{
		"no mask":            {0x81, 0x02, '{', '}'},
		"a long ping":        masked(0x89, strings.Repeat("x", 126)),
		"a ping in parts":    masked(0x09, "x"),
		"an unknown opcode":  masked(0x83, "x"),
		"a part of nothing":  masked(0x80, "x"),
		"a reserved bit":     masked(0xa1, "{}"),
		"a bad close":        masked(0x88, "\x03\xed"),
		"an unknown control": masked(0x8b, ""),
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := w.open(t, e, g, "U1")
			s.raw(b)
			if ce := s.closed(); ce.Code != websocket.CloseProtocolError {
				t.Errorf("closed with %v", ce)
			}
			closes++
			await[frame.Close](g, closes)
		})
	}
}

// A client that is gone without a close frame, in every way TCP knows.
func TestReader_EndOfTheConnection(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	closes := 0
	for name, do := range map[string]func(*net.TCPConn) error{
		"closed": (*net.TCPConn).Close, "half closed": (*net.TCPConn).CloseWrite,
		"reset": func(c *net.TCPConn) error { return c.SetLinger(0) },
		"in a frame": func(c *net.TCPConn) error {
			_, err := c.Write([]byte{0x81, 0x85, 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := w.open(t, e, g, "U1")
			c, ok := s.ws.NetConn().(*net.TCPConn)
			if !ok {
				t.Fatalf("the client has a %T", s.ws.NetConn())
			}
			if err := do(c); err != nil {
				t.Fatal(err)
			}
			if name != "half closed" {
				_ = c.Close() // for those that are not yet
			}
			closes++
			await[frame.Close](g, closes)
		})
	}
}

// A plain socket that says nothing owns no goroutine, before and after it spoke.
func TestReader_SilentSocketsOwnNoGoroutine(t *testing.T) {
	w := newWorld(t)
	g := w.gateway(t, "gw-1", "eu-1")
	e := w.edge(t)
	first, _ := w.open(t, e, g, "U1") // with it the link is there, and the loops
	before := runtime.NumGoroutine()
	const n = 100
	ss := []*socket{first}
	for range n {
		s, _ := w.open(t, e, g, "U1")
		ss = append(ss, s)
	}
	few := func(when string) {
		t.Helper()
		for end := time.Now().Add(patience); runtime.NumGoroutine() > before+n/4; <-time.After(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d goroutines %s, %d with one socket", runtime.NumGoroutine(), when, before)
			}
		}
	}
	few("while all are silent")
	f := masked(0x81, pingFrame("x", 0))
	for _, s := range ss {
		s.raw(masked(0x8a, "")) // a pong alone
		s.raw(f[:3])
		<-time.After(time.Millisecond) // so that it comes alone
		s.raw(f[3:])
		s.ponged("x")
	}
	few("after all have spoken")
}
