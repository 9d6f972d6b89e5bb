package edge

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"parley/internal/problem"
	"parley/internal/wire/chat"
)

// prepareRead sets up what gorilla does on reading.
func (s *session) prepareRead() {
	s.ws.SetReadLimit(chat.SocketFrameBytesMax) // decoded bytes: compression is never negotiated
	s.ws.SetPingHandler(func(data string) error {
		s.pingedBy([]byte(data))
		return nil
	})
	s.ws.SetPongHandler(func(string) error {
		s.alive()
		return nil
	})
	s.ws.SetCloseHandler(func(int, string) error { return nil }) // answered below, in order
}

func (s *session) alive() { s.heard.Store(time.Now().UnixNano()) }

func (s *session) pingedBy(data []byte) {
	s.alive()
	s.sendFrame(framed(opPong, data))
}

// read runs until the socket ends: the reader of one below TLS, which nothing
// but a read can wake.
func (s *session) read() {
	defer s.owner.remove(s)
	s.prepareRead()
	for s.readOne() {
	}
}

// readOne waits for a message and acts on it; false says that the socket has ended.
func (s *session) readOne() bool {
	kind, data, err := s.ws.ReadMessage()
	if err != nil {
		s.readFailed(err)
		return false
	}
	s.alive()
	switch {
	case s.over.Load():
	case kind != websocket.TextMessage:
		s.refuse("", problem.New(problem.Invalid, "frames must be JSON text"))
	default:
		s.take(data)
	}
	return true
}

// turn reads what a plain socket has, without waiting for more, and parks it. It
// is called by who took it out of that state.
func (s *session) turn() {
	in := s.owner.poller.intakes.get(s.out.direct.conn)
	in.wait, s.lazy = false, true
	in.lend(s.br)
	for {
		switch s.look() {
		case frameNone:
			s.park(in)
			return
		case frameDone:
		case frameWhole:
			if s.readOne() {
				continue
			}
			s.leaveOff(in)
			return
		case frameOther:
			s.owner.work.Go(func() { s.waitOn(in) })
			return
		}
	}
}

// waitOn goes on where turn can't, until nothing more is there.
func (s *session) waitOn(in *intake) {
	in.wait, s.lazy = true, false
	for {
		if s.look() != frameDone && !s.readOne() {
			s.leaveOff(in)
			return
		}
		if s.br.Buffered() == 0 {
			s.park(in)
			return
		}
	}
}

// park leaves the socket to the kernel's word.
func (s *session) park(in *intake) {
	op := unix.EPOLL_CTL_MOD
	if !s.watched {
		op, s.watched = unix.EPOLL_CTL_ADD, true
	}
	in.takeBack(s.br)
	s.parked.Store(true)
	err := in.arm(s.loop.fd, op, s.seat) // from here on another may read it
	s.owner.poller.intakes.put(in)
	if err != nil {
		s.rouse() // it is closed
	}
}

// leaveOff is the end of reading.
func (s *session) leaveOff(in *intake) {
	in.takeBack(s.br)
	s.owner.poller.intakes.put(in)
	s.owner.remove(s)
}

// cut closes the socket; its reader notices and cleans up.
func (s *session) cut() {
	_ = s.raw.Close() // nothing depends on it any more
	s.rouse()
}

// rouse has a parked socket read, whatever it has.
func (s *session) rouse() {
	if s.parked.CompareAndSwap(true, false) {
		s.owner.work.Go(func() {
			in := s.owner.poller.intakes.get(s.out.direct.conn)
			in.lend(s.br)
			s.waitOn(in)
		})
	}
}

// What a look at the next frame finds.
type frameFound int

const (
	frameNone  frameFound = iota // nothing has come
	frameDone                    // a ping or pong, which was answered
	frameWhole                   // a whole message: to read it takes no waiting
	frameOther                   // part of a frame, of a message, or what ends the socket
)

// RFC 6455's bits and lengths of a client's frame.
const (
	rsvBits      = 0x70
	maskBit      = 0x80
	lengthBits   = 0x7f
	length16     = 126
	headShort    = 6 // two bytes and the mask
	headShort16  = headShort + 2
	opcodeBits   = 0x0f
	opBinary     = 0x2
	maskBytes    = 4
	headMinBytes = 2
)

// look sees what the next frame is. Pings and pongs are dealt with here: gorilla
// would not come back from one before the next message.
func (s *session) look() frameFound {
	h, err := s.br.Peek(headMinBytes)
	if err != nil {
		if errors.Is(err, errNothing) && s.br.Buffered() == 0 {
			return frameNone
		}
		return frameOther
	}
	op, n, head := h[0]&opcodeBits, int(h[1]&lengthBits), headShort
	if h[0]&(finBit|rsvBits) != finBit || h[1]&maskBit == 0 || n > length16 {
		return frameOther
	}
	if n == length16 {
		if h, err = s.br.Peek(headMinBytes + 2); err != nil {
			return frameOther
		}
		n, head = int(h[2])<<8|int(h[3]), headShort16
	}
	if head+n > s.br.Size() {
		return frameOther
	}
	f, err := s.br.Peek(head + n)
	switch {
	case err != nil:
		return frameOther
	case op == opText || op == opBinary:
		return frameWhole
	case n > controlBytesMax || (op != opPing && op != opPong):
		return frameOther
	case op == opPing:
		s.pingedBy(unmasked(f[head-maskBytes:head], f[head:]))
	default:
		s.alive()
	}
	_, err = s.br.Discard(head + n)
	if err != nil {
		return frameOther
	}
	return frameDone
}

func unmasked(mask, data []byte) []byte {
	out := make([]byte, len(data))
	for i, b := range data {
		out[i] = b ^ mask[i%maskBytes]
	}
	return out
}

// readFailed ends the socket in order where the client still listens.
func (s *session) readFailed(err error) {
	var ce *websocket.CloseError
	switch {
	case s.over.Load(): // we closed it; this is the answer, or the end of our patience
	case errors.Is(err, websocket.ErrReadLimit):
		s.end(closeTooBig, fmt.Sprintf("the frame is larger than %d bytes", chat.SocketFrameBytesMax))
		s.linger()
	case len(s.conn.said) > 0: // how the client broke RFC 6455, framed
		s.endWith(s.conn.said)
		s.linger()
	case errors.As(err, &ce) && ce.Code != websocket.CloseAbnormalClosure:
		code := ce.Code
		if code == websocket.CloseNoStatusReceived {
			code = websocket.CloseNormalClosure
		}
		s.end(uint16(code), "")
		s.awaitWritten()
	}
}

// awaitWritten waits a little until the close frame is out.
func (s *session) awaitWritten() {
	wait := time.NewTimer(closeWait)
	defer wait.Stop()
	select {
	case <-s.out.written():
	case <-wait.C:
	}
}

// linger takes what still comes, and forgets it: a connection that is closed with
// something unread is reset, and that would overtake the close frame.
func (s *session) linger() {
	s.awaitWritten()
	_ = s.raw.SetReadDeadline(time.Now().Add(closeWait)) // a closed socket ends the copy as well
	_, _ = io.Copy(io.Discard, s.raw)
}
