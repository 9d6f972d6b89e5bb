package load

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// conn is one socket.
type conn struct {
	fd      int
	index   int
	greeted bool
	closed  bool
	part    []byte // of a frame that is not here yet as a whole
	out     []byte // what the kernel did not take
	follows []place
	beat    int64 // seconds between pings
}

// place is where a socket is in a channel.
type place struct {
	ch  *channel
	rev uint64
}

func (c *conn) close() {
	if !c.closed {
		c.closed = true
		_ = unix.Close(c.fd) // nothing depends on it any more
	}
}

// Opcodes of RFC 6455.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

const (
	frameBytesMax = 8 << 20
	waitMost      = 50 * time.Millisecond
)

// once waits for events and handles them; left, if not 0, bounds the wait.
func (l *Load) once(left time.Duration) error {
	wait := waitMost
	if left > 0 {
		wait = min(wait, left)
	}
	var events [eventsAtOnce]unix.EpollEvent
	n, err := unix.EpollWait(l.poll, events[:], int(wait.Milliseconds())+1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return problem.Wrap(err, problem.Unavailable, "epoll")
	}
	for _, e := range events[:max(n, 0)] {
		c := l.byFD[e.Fd]
		if c == nil || c.closed {
			continue
		}
		if e.Events&unix.EPOLLOUT != 0 {
			l.flush(c)
		}
		if e.Events&^unix.EPOLLOUT != 0 {
			l.read(c)
		}
	}
	return nil
}

func (l *Load) read(c *conn) {
	n, err := unix.Read(c.fd, l.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if err != nil || n <= 0 {
		l.broke(c)
		return
	}
	l.take(c, l.buf[:n])
}

func (l *Load) broke(c *conn) {
	if !c.closed {
		l.sum.Broken++
		c.close()
	}
}

// take cuts the frames out of what was read.
func (l *Load) take(c *conn, b []byte) {
	now := int64(time.Since(l.start))
	if len(c.part) > 0 {
		c.part = append(c.part, b...)
		b = c.part
	}
	for len(b) >= 2 {
		op, body, size := frame(b)
		if size < 0 {
			l.broke(c)
			return
		}
		if size == 0 {
			break
		}
		l.frame(c, op, body, now)
		b = b[size:]
	}
	c.part = append(c.part[:0], b...)
	if len(b) == 0 {
		c.part = nil
	}
}

// frame is the first frame of b; size is 0 when it is not whole, below 0 when it
// is none that a server sends.
func frame(b []byte) (op byte, body []byte, size int) {
	head, n := 2, int(b[1])
	switch {
	case n&0x80 != 0:
		return 0, nil, -1
	case n == 126:
		if len(b) < 4 {
			return 0, nil, 0
		}
		head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	case n == 127:
		if len(b) < 10 {
			return 0, nil, 0
		}
		long := binary.BigEndian.Uint64(b[2:])
		if long > frameBytesMax {
			return 0, nil, -1
		}
		head, n = 10, int(long)
	}
	if len(b) < head+n {
		return 0, nil, 0
	}
	return b[0] & 15, b[head : head+n], head + n
}

func (l *Load) frame(c *conn, op byte, body []byte, now int64) {
	switch op {
	case opText:
		l.event(c, body, now)
	case opPing:
		l.write(c, masked(nil, opPong, body))
	case opClose:
		l.broke(c)
	default: // pongs say nothing here
	}
}

// masked appends a client's frame. Its mask is zero: the server's work is the
// same, and this side saves its own.
func masked(b []byte, op byte, body []byte) []byte {
	b = append(b, 0x80|op)
	if len(body) < 126 {
		b = append(b, 0x80|byte(len(body))) //nolint:gosec // bounded above
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(body))) //nolint:gosec // posts are short
	}
	return append(append(b, 0, 0, 0, 0), body...)
}

// write sends a frame now, or when the kernel takes it.
func (l *Load) write(c *conn, b []byte) {
	if c.closed {
		return
	}
	waited := len(c.out) > 0
	c.out = append(c.out, b...)
	if !waited {
		l.flush(c)
	}
}

func (l *Load) flush(c *conn) {
	had := len(c.out)
	if had == 0 {
		return
	}
	n, err := unix.Write(c.fd, c.out)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		l.broke(c)
		return
	}
	c.out = append(c.out[:0], c.out[max(n, 0):]...)
	want := uint32(unix.EPOLLIN)
	if len(c.out) > 0 {
		want |= unix.EPOLLOUT
	} else {
		c.out = nil
		if n == had { // it never waited, so the kernel need not be told
			return
		}
	}
	_ = unix.EpollCtl(l.poll, unix.EPOLL_CTL_MOD, c.fd, event(c.fd, want)) // fails only on a closed socket
}

// keepAlive sends the heartbeats that are due, spread over the sockets.
func (l *Load) keepAlive() {
	second := int64(time.Since(l.start) / time.Second)
	if second == l.pingedAt {
		return
	}
	l.pingedAt = second
	ping := masked(nil, opText, []byte(`{"type":"ping"}`))
	for i, c := range l.conns {
		if c.greeted && !c.closed && (second+int64(i))%c.beat == 0 {
			l.write(c, ping)
		}
	}
}
