package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"parley/internal/pki"
	"parley/internal/wire/frame"
)

// Conn is one end of a link. Its methods may be called from any goroutine, also
// from the handler's.
type Conn struct {
	quic     *quic.Conn
	peer     pki.Identity
	handler  Handler
	log      *slog.Logger
	liveness Liveness
	release  func() // closes what was made for this link alone
	shared   bool   // the socket is a server's, which outlives the link

	lanes   [lanes]lane
	dirty   atomic.Uint32    // bit per lane with something pending since its last Flush
	pongAt  atomic.Int64     // ns since start of the last pong
	pings   [16]atomic.Int64 // ns since start of the last pings, by number
	slowest atomic.Int64     // ns: the slowest answer of late
	started time.Time

	closing sync.Once
	err     error         // set before done is closed
	done    chan struct{} // closed by close
	ended   chan struct{} // closed by supervise, after Closed has returned
	work    sync.WaitGroup
}

// lane is one ordered stream. Lock order: only one lane's mu is ever held.
type lane struct {
	stream *quic.Stream
	early  []byte // what the handshake read beyond its own frame

	mu      sync.Mutex
	pending []byte
	wake    chan struct{} // holds one: the writer has something to look for
}

func newConn(q *quic.Conn, peer pki.Identity, l Liveness, log *slog.Logger) *Conn {
	c := &Conn{
		quic: q, peer: peer, log: log, liveness: l.withDefaults(), release: func() {},
		started: time.Now(), done: make(chan struct{}), ended: make(chan struct{}),
	}
	for i := range c.lanes {
		c.lanes[i].wake = make(chan struct{}, 1)
	}
	return c
}

// start runs the link's goroutines; Closed is called when all of them ended.
func (c *Conn) start(h Handler) {
	c.handler = h
	for i := range c.lanes {
		c.work.Go(func() { c.writeLane(&c.lanes[i]) })
		c.work.Go(func() { c.readLane(i) })
	}
	c.work.Go(c.watch)
	go c.supervise()
}

func (c *Conn) supervise() {
	c.work.Wait()
	c.handler.Closed(c, c.err)
	c.linger()
	c.release()
	close(c.ended)
}

// linger keeps the socket of a link that this side ended: the notice of it may
// be lost, and is then sent again in answer to the peer's next packet.
func (c *Conn) linger() {
	var e *Error
	if c.shared || errors.As(c.err, &e) && e.Remote {
		return
	}
	t := time.NewTimer(lingerMax)
	defer t.Stop()
	<-t.C
}

// Send encodes frames into the lane's pending buffer, in order; Flush puts them
// on their way. It never blocks. An error means that this and the following
// frames were not taken: a frame beyond the codec's limits (the link goes on),
// or a link that has ended.
func (c *Conn) Send(lane int, fs ...frame.Frame) error {
	if lane < 0 || lane >= lanes {
		return fmt.Errorf("link: no lane %d, there are 0 … %d", lane, lanes-1)
	}
	if c.ending() {
		return c.err
	}
	l := &c.lanes[lane]
	l.mu.Lock()
	var err error
	for _, f := range fs {
		if l.pending, err = frame.Append(l.pending, f); err != nil {
			break
		}
	}
	full := len(l.pending) > LaneBytesMax
	l.mu.Unlock()
	if full {
		c.Close(errorf(ErrOverrun, "%d bytes wait on lane %d", LaneBytesMax, lane))
		return c.Err()
	}
	c.dirty.Or(1 << lane)
	return err
}

// Flush wakes the writers of the lanes that have something pending: all of it
// goes out in one write per lane. Call it once per turn, after all Sends.
func (c *Conn) Flush() {
	for mask := c.dirty.Swap(0); mask != 0; mask &= mask - 1 {
		select {
		case c.lanes[bits.TrailingZeros32(mask)].wake <- struct{}{}:
		default: // the writer has not looked since it was last woken
		}
	}
}

// Close ends the link and tells the peer why; nil means ErrClosed. It doesn't
// wait, what is pending is dropped, and a second Close changes nothing.
func (c *Conn) Close(err error) {
	if err == nil {
		err = ErrClosed
	}
	c.closing.Do(func() {
		c.err = mapClose(err)
		close(c.done)
		_ = c.quic.CloseWithError(codeOf(c.err), reasonOf(c.err)) // it reports nothing of use
	})
}

// mapClose gives errors of callers a kind.
func mapClose(err error) error {
	for _, kind := range []error{ErrClosed, ErrOverrun, ErrDead, ErrVersion, ErrProtocol, ErrRefused} {
		if errors.Is(err, kind) {
			if e, ok := errors.AsType[*Error](err); ok {
				return e
			}
			return &Error{Kind: kind, Cause: err}
		}
	}
	return &Error{Kind: ErrClosed, Cause: err}
}

// Done is closed when the link has ended; Err then says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is nil while the link lives.
func (c *Conn) Err() error {
	if !c.ending() {
		return nil
	}
	return c.err
}

// Wait blocks until the link has ended and its goroutines with it, Closed
// included. It must not be called from the handler.
func (c *Conn) Wait() { <-c.ended }

// Peer is who the peer's certificate says it is.
func (c *Conn) Peer() pki.Identity { return c.peer }

// Remote is the peer's address.
func (c *Conn) Remote() string { return c.quic.RemoteAddr().String() }

func (c *Conn) ending() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *Conn) writeLane(l *lane) {
	var spare []byte
	for {
		select {
		case <-c.done:
			return
		case <-l.wake:
		}
		for {
			l.mu.Lock()
			out := l.pending
			l.pending = spare[:0]
			l.mu.Unlock()
			if spare = out; len(out) == 0 {
				break
			}
			if _, err := l.stream.Write(out); err != nil {
				c.fail(err)
				return
			}
			if cap(spare) > keepBytesMax {
				spare = nil
			}
		}
	}
}

func (c *Conn) readLane(i int) {
	var (
		fs  []frame.Frame
		buf = make([]byte, readBytes)
		n   = copy(buf, c.lanes[i].early)
	)
	c.lanes[i].early = nil
	for {
		rest, err := c.deliver(i, &fs, buf[:n])
		if err != nil {
			c.Close(&Error{Kind: ErrProtocol, Detail: err.Error()})
			return
		}
		n = copy(buf, rest)
		if n == len(buf) { // one frame larger than the buffer
			buf = append(buf, make([]byte, len(buf))...)
		}
		k, err := c.lanes[i].stream.Read(buf[n:])
		n += k
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// deliver hands over the whole frames of data and returns what is left.
func (c *Conn) deliver(i int, fs *[]frame.Frame, data []byte) ([]byte, error) {
	got, rest, err := frame.Decode((*fs)[:0], data)
	if i == frame.Control {
		got = c.takePings(got)
	}
	if len(got) > 0 && !c.ending() {
		c.handler.Frames(c, i, got)
	}
	clear(got) // let go of the payloads
	*fs = got[:0]
	return rest, err
}

// takePings answers pings, notes pongs, and returns the other frames.
func (c *Conn) takePings(fs []frame.Frame) []frame.Frame {
	kept := fs[:0]
	for _, f := range fs {
		switch f := f.(type) {
		case frame.Ping:
			_ = c.Send(frame.Control, frame.Pong(f)) // fails only on a link that has ended
			c.Flush()
		case frame.Pong:
			c.ponged(f.N)
		default:
			kept = append(kept, f)
		}
	}
	return kept
}

// ponged notes an answer and how long it took. A slow one is forgotten slowly.
func (c *Conn) ponged(n uint64) {
	now := int64(time.Since(c.started))
	c.pongAt.Store(now)
	took := now - c.pings[n%uint64(len(c.pings))].Load()
	c.slowest.Store(max(took, c.slowest.Load()*15/16))
}

// patience is how long the peer may be silent.
func (c *Conn) patience() time.Duration {
	slow := answerTimes * time.Duration(c.slowest.Load())
	return max(c.liveness.DeadAfter, min(c.liveness.DeadAfter+slow, deadMost))
}

// watch pings the peer and ends the link when it owes its answers too long.
func (c *Conn) watch() {
	tick := time.NewTicker(c.liveness.PingEvery)
	defer tick.Stop()
	c.pongAt.Store(int64(time.Since(c.started)))
	for n := uint64(1); ; n++ {
		silent := time.Since(c.started) - time.Duration(c.pongAt.Load())
		if silent > c.patience()-c.liveness.PingEvery/2 {
			c.Close(errorf(ErrDead, "no answer to pings for %s", silent.Round(time.Millisecond)))
			return
		}
		c.pings[n%uint64(len(c.pings))].Store(int64(time.Since(c.started)))
		_ = c.Send(frame.Control, frame.Ping{N: n}) // fails only on a link that has ended
		c.Flush()
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
	}
}

// fail ends the link after a stream's error.
func (c *Conn) fail(err error) {
	if cause := context.Cause(c.quic.Context()); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // the connection's own reason says more than the stream's
	}
	c.Close(mapError(err))
}
