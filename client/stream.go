package client

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Event is one server event: what it starts with, and its bytes to decode.
type Event struct {
	chat.Envelope
	Raw []byte
}

// Stream keeps a socket open at one of several edges. It counts every channel's
// rev: a change comes once, in order, over however many sockets it takes, and a
// hole, which must not be, ends the socket and is repaired by a resume.
//
// I1 Per channel, the revs handed over are c+1, c+2 … from the cursor c on,
// unless a reset event lies between. I2 A cursor moves when its event is handed
// over, never before.
type Stream struct {
	edges    []*Client
	log      *slog.Logger
	out      chan Event
	observer Observer
	sockets  uint64 // opened so far; Run's alone
	mute     int    // edges in a row that did not answer in time; Run's alone

	mu      sync.Mutex
	socket  *Socket       // nil while there is none
	changed chan struct{} // closed and renewed when it changes
	waiters map[string]chan answer
	cursors map[topology.ChannelID]topology.Rev
	began   bool // a hello was had: from then on sockets resume
}

const (
	// openFirst is how long an edge has to open a socket and say hello, before the
	// next one is tried: one that hangs accepts and says nothing. Two ways across an
	// ocean and back, and a take-over in the cell, fit in. When no edge is that quick
	// they are all busy, and get twice the time at the next round, up to openMax.
	openFirst = 4 * time.Second
	openMax   = 15 * time.Second
)

// openWait is how long the next edge has.
func (s *Stream) openWait() time.Duration {
	return min(openMax, openFirst<<min(s.mute/len(s.edges), 8))
}

// streamQueueMax bounds events that were read and not yet taken by Next.
const streamQueueMax = 256

// NewStream makes a stream over edges, in order of preference. Cursors, if not
// nil, are those of a former stream. Run does the work.
func NewStream(edges []*Client, cursors map[topology.ChannelID]topology.Rev, log *slog.Logger) (*Stream, error) {
	if len(edges) == 0 {
		return nil, problem.Field("edges", "at least one edge is needed")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Stream{
		edges: edges, log: log, out: make(chan Event, streamQueueMax), observer: silent{},
		changed: make(chan struct{}), waiters: map[string]chan answer{}, cursors: maps.Clone(cursors), began: cursors != nil,
	}
	if s.cursors == nil {
		s.cursors = make(map[topology.ChannelID]topology.Rev)
	}
	return s, nil
}

// Events hands over the events; it is closed when Run returns.
func (s *Stream) Events() <-chan Event { return s.out }

// Cursors is a copy of how far each channel has come.
func (s *Stream) Cursors() map[topology.ChannelID]topology.Rev {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.cursors)
}

// Send sends a frame on the present socket; Unavailable while there is none.
func (s *Stream) Send(f chat.ClientFrame) error {
	s.mu.Lock()
	socket := s.socket
	s.mu.Unlock()
	if socket == nil {
		return problem.New(problem.Unavailable, "not connected; connecting again")
	}
	return socket.Send(f)
}

// Run connects, and connects again, until ctx ends or the token is refused.
func (s *Stream) Run(ctx context.Context) error {
	defer close(s.out)
	failures := 0
	var next *Socket // made before the one before it was left
	for at := 0; ; at++ {
		var held bool
		var err error
		held, next, err = s.serve(ctx, at, next)
		if ctx.Err() != nil {
			if next != nil {
				_ = next.Close() // nobody will read it
			}
			return nil
		}
		if IsGone(err) {
			return err
		}
		s.log.Info("socket ended; connecting again", "err", err)
		if next != nil {
			failures = 0
			continue
		}
		if failures++; held {
			failures = 0
		}
		if err := pause(ctx, backoff(failures)); err != nil {
			return nil
		}
	}
}

func (s *Stream) edge(at int) *Client { return s.edges[at%len(s.edges)] }

// serve holds one socket, dialling it unless it is there; held says that it worked
// for a while. When the edge asks to leave, next is a socket at the next one.
func (s *Stream) serve(ctx context.Context, at int, socket *Socket) (held bool, next *Socket, err error) {
	s.mu.Lock()
	resume := s.began
	s.mu.Unlock()
	edge := s.edge(at)
	if socket, err = s.open(ctx, edge, resume, socket); err != nil {
		return false, nil, err
	}
	s.sockets++
	s.observer.Opened(s.sockets, edge.base.String(), resume)
	defer func() { s.observer.Closed(s.sockets, err) }()
	defer func() { _ = socket.Close() }() // the reason is in err
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer stop()
	if resume {
		cursors := s.Cursors()
		s.observer.Resumed(s.sockets, cursors)
		if err := socket.Resume(cursors); err != nil {
			return false, nil, err
		}
	}
	s.hold(socket)
	defer s.hold(nil)
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	go heartbeat(own, socket)
	made := make(chan *Socket, 1)
	leaving := false
	for {
		raw, e, err := s.read(socket, !held)
		if err != nil {
			if leaving {
				cancel()
				next = <-made
			}
			return held, next, err
		}
		s.observer.Came(s.sockets, raw)
		if e.Type == chat.TypeGoaway {
			if !leaving {
				leaving = true
				go s.leave(own, socket, s.edge(at+1), raw, made)
			}
			continue
		}
		if err := s.take(ctx, Event{Envelope: e, Raw: raw}, resume); err != nil {
			return held, nil, err
		}
		held = true
	}
}

// open dials an edge unless a socket is there, and sets the time for its hello.
func (s *Stream) open(ctx context.Context, edge *Client, resume bool, socket *Socket) (*Socket, error) {
	hello := time.Now().Add(s.openWait())
	if socket == nil {
		var err error
		if socket, err = dialBy(ctx, edge, resume, hello); err != nil {
			if !time.Now().Before(hello) {
				s.mute++
			}
			s.observer.Failed(edge.base.String(), err)
			return nil, err
		}
	}
	socket.silence = max(time.Until(hello), time.Millisecond)
	return socket, nil
}

// read is the socket's next event; what came first ends the wait for a hello.
func (s *Stream) read(socket *Socket, first bool) ([]byte, chat.Envelope, error) {
	raw, e, err := socket.Read()
	switch {
	case err == nil:
		socket.silence, s.mute = silenceMax, 0
	case first && timedOut(err):
		s.mute++
	}
	return raw, e, err
}

// dialBy opens a socket, or gives up at a time.
func dialBy(ctx context.Context, edge *Client, resume bool, t time.Time) (*Socket, error) {
	ctx, cancel := context.WithDeadline(ctx, t)
	defer cancel()
	return edge.Dial(ctx, resume)
}

// leave goes within the time that a goaway gives: it dials the next edge first,
// and only then closes the socket, which is read until then. made gets the new
// socket, or nil.
func (s *Stream) leave(ctx context.Context, socket *Socket, to *Client, raw []byte, made chan<- *Socket) {
	var g chat.GoawayEvent
	if json.Unmarshal(raw, &g) == nil && g.AfterMS > 0 { // an unreadable one is meant for now
		_ = pause(ctx, rand.N(time.Duration(g.AfterMS)*time.Millisecond)/2) // ended early: the socket is gone, dial now
	}
	next, err := dialBy(context.WithoutCancel(ctx), to, true, time.Now().Add(openFirst))
	if err != nil {
		s.observer.Failed(to.base.String(), err)
		next = nil
	}
	made <- next
	_ = socket.Close() // its reader goes on with the new one
}

// take hands one event over, if it is new, and moves its cursor.
func (s *Stream) take(ctx context.Context, e Event, resumed bool) error {
	key, rev := e.ChannelID, e.Rev
	if e.URev != 0 && e.Type == chat.TypeChannel {
		key, rev = chat.UserCursor, topology.Rev(e.URev)
	}
	s.mu.Lock()
	at, known := s.cursors[key]
	s.mu.Unlock()
	switch {
	case e.Type == chat.TypeHello:
		return s.hello(ctx, e, resumed)
	case e.Type == chat.TypeAck, e.Type == chat.TypeError: // an answer's rev is no change
		if s.answered(e) {
			return nil
		}
		return s.hand(ctx, e)
	case e.Type == chat.TypeResumed, e.Type == chat.TypeReset:
	case rev == 0:
		return s.hand(ctx, e)
	case known && rev <= at:
		return nil
	case known && rev > at+1 && key != chat.UserCursor:
		return problem.New(problem.Unavailable, "channel %s went from rev %d to %d; resuming", key, at, rev)
	}
	if err := s.hand(ctx, e); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost(e) {
		delete(s.cursors, e.ChannelID)
	}
	s.cursors[key] = rev
	return nil
}

// lost reports whether an event says that the user has lost a channel: its revs
// go on without the user, and begin anew when the channel is gained again.
func lost(e Event) bool {
	if e.Type != chat.TypeChannel || e.URev == 0 {
		return false
	}
	var c chat.ChannelEvent
	return json.Unmarshal(e.Raw, &c) == nil && c.Event == chat.ChannelLost
}

// hello starts the cursors with the first hello; later ones only pass through.
func (s *Stream) hello(ctx context.Context, e Event, resumed bool) error {
	var h chat.Hello
	if err := json.Unmarshal(e.Raw, &h); err != nil {
		return problem.Wrap(err, problem.Internal, "the hello can't be decoded")
	}
	if err := s.hand(ctx, e); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !resumed {
		s.cursors[chat.UserCursor] = topology.Rev(h.URev)
		for _, c := range h.Channels {
			s.cursors[c.ID] = c.Rev
		}
	}
	s.began = true
	return nil
}

func (s *Stream) hand(ctx context.Context, e Event) error {
	select {
	case s.out <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heartbeat tells the edge that the user's client lives.
func heartbeat(ctx context.Context, s *Socket) {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if s.Send(chat.ClientFrame{Type: chat.TypePing}) != nil {
				return // the reader sees it, too
			}
		}
	}
}

const heartbeatEvery = 10 * time.Second
