package edge

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// session is one client socket. It outlives the gateways that serve it: each
// opening at a gateway is an attachment with an id of its own, so that what is
// still under way from an earlier one finds nobody.
type session struct {
	number uint64 // for the log
	claims token.Claims
	ws     *websocket.Conn
	conn   *upgraded // what gorilla has
	raw    net.Conn  // the same, to write to
	out    queue
	owner  *sockets
	resume bool // the client announced a resume frame
	bucket bucket
	over   atomic.Bool // no more frames are taken from the client

	// A plain socket is read by its loop; one below TLS by a goroutine, and has
	// none of these.
	br      *bufio.Reader // gorilla's, with a buffer only while the socket is read
	loop    *pollLoop
	seat    int32
	watched bool        // the loop's epoll instance knows the socket
	lazy    bool        // its loop reads it, and flushes links at the end of its turn
	parked  atomic.Bool // nobody reads it, until it has something

	heard   atomic.Int64 // unix ns of the client's last sign of life
	pinged  atomic.Int64 // unix ns of our last ping
	leaveAt atomic.Int64 // unix ns by which a draining edge closes it; 0 = stays
	cutAt   atomic.Int64 // unix ns by which it is cut, its close frame being out; 0 = not yet

	mu        sync.Mutex
	att       *attachment // nil: at no gateway
	homeless  time.Time   // since when; zero while open at a gateway
	notBefore time.Time   // of the next try
	refusals  int         // by gateways, in a row
	closed    bool
	greeted   time.Time // when the hello was given; zero before
	resumed   bool      // the client's resume frame is here
	idle      bool      // the client said that its user is away
	cursors   cursors
	awaiting  map[topology.ChannelID]struct{} // resumed by the client, neither live nor passed over
	held      []*held                         // sent to a gateway and not answered, or not yet sent; by Req
	heldBytes int
	nextReq   uint64
	repairs   int
	repairsAt time.Time
}

// attachment is a session at a gateway. Its link is fixed; opened is guarded by
// the session's mu.
type attachment struct {
	id     topology.SessionID
	s      *session
	wire   *wire
	opened bool
}

// held is a client's post or mark that has no answer yet.
type held struct {
	req      uint64
	id       string // the client's
	lane     int
	bytes    int
	build    func(topology.SessionID) frame.Frame
	sent     bool // to any gateway: its outcome is unknown until answered
	here     bool // to the present one
	deadline time.Time
}

// push queues an event for the socket. It reports whether the caller has to
// start the writer.
func (s *session) push(f []byte) (wake bool) {
	wake, full := s.out.push(f)
	if full {
		s.owner.metrics.slow.Inc()
		s.over.Store(true)
		return s.out.end(false, slowMax, closeFrame(closeResume, "too slow: connect again and resume"))
	}
	return wake
}

// slowMax is how long a slow socket gets for each portion of what waits for it:
// a client that only reads slowly comes back with cursors further on.
const slowMax = 2 * time.Second

// send queues an event and starts the writer.
func (s *session) send(event any) { s.sendFrame(framed(opText, chat.Encode(event))) }

func (s *session) sendFrame(f []byte) {
	if s.push(f) {
		s.flush(nil)
	}
}

// closeWait is how long a client has to answer a close frame.
const closeWait = time.Second

// write writes rest, and runs while the queue has something.
func (s *session) write(rest []byte) {
	last, err := s.out.write(rest, &s.owner.buffers)
	switch {
	case err != nil:
		s.cut()
	case last:
		s.cutAt.Store(time.Now().Add(closeWait).UnixNano())
		s.out.allWritten()
	}
}

// end closes the socket in order: what waits, then events, then the code.
func (s *session) end(code uint16, reason string, events ...any) {
	fs := make([][]byte, 0, len(events)+1)
	for _, e := range events {
		fs = append(fs, framed(opText, chat.Encode(e)))
	}
	s.endWith(append(fs, closeFrame(code, reason))...)
}

// endWith does the same with frames, the last of which closes.
func (s *session) endWith(fs ...[]byte) {
	s.over.Store(true)
	if s.out.end(false, s.owner.cfg.WriteMax, fs...) {
		s.flush(nil)
	}
	s.owner.leave(s)
}

// refuse answers a client's frame with an error; the session goes on.
func (s *session) refuse(id string, err error) { s.send(errorEvent(id, err)) }

func errorEvent(id string, err error) chat.ErrorEvent {
	d := problem.DocumentOf(err)
	e := chat.ErrorEvent{Type: chat.TypeError, ID: id, Kind: string(d.Kind), Detail: d.Detail, Field: d.Field, Outcome: d.Outcome}
	if p, ok := errors.AsType[*problem.Error](err); ok {
		e.RetryMS = p.RetryAfter.Milliseconds()
	}
	return e
}

// greet gives the client its hello, once, and takes from it where a session that
// starts now is: without that a link that dies before its first event would
// leave a gap. The caller holds s.mu.
func (s *session) greet(payload []byte, now time.Time) (wake bool) {
	var h chat.Hello
	if err := json.Unmarshal(payload, &h); err != nil {
		s.owner.log.Warn("a hello could not be read", "session", s.number, "err", err)
	}
	s.greeted = now
	s.cursors = slices.Grow(s.cursors, len(h.Channels)+1)
	s.startAt(chat.UserCursor, topology.Rev(h.URev))
	if !s.resume {
		for _, c := range h.Channels {
			s.startAt(c.ID, c.Rev)
		}
	}
	return s.out.open(framed(opText, payload))
}

func (s *session) startAt(ch topology.ChannelID, rev topology.Rev) {
	if s.cursors.find(ch) == nil {
		s.cursors.put(&cursor{channel: ch, rev: rev})
	}
}

// bucket is a token bucket, used by the reader alone.
type bucket struct {
	perS, burst float64
	tokens      float64
	at          time.Time
	refused     int // in a row
}

// take reports whether one more frame is allowed now, else when.
func (b *bucket) take(now time.Time) (ok bool, wait time.Duration) {
	b.tokens = min(b.burst, b.tokens+now.Sub(b.at).Seconds()*b.perS)
	b.at = now
	if b.tokens < 1 {
		b.refused++
		return false, time.Duration((1 - b.tokens) / b.perS * float64(time.Second))
	}
	b.tokens--
	b.refused = 0
	return true, 0
}
