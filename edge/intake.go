package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// intakeBytes is a read buffer: most client frames fit whole.
const intakeBytes = 4 << 10

// intake is a read buffer that a plain socket has only while something of its is
// being read: a silent one costs none.
type intake struct {
	buf     bufio.Reader // its buffer is lent; between two uses nothing is in it
	conn    syscall.RawConn
	wait    bool // until something comes; else that nothing is there is an error
	data    []byte
	n       int
	err     error
	attempt func(fd uintptr) bool // made once: a closure per read would be garbage

	epfd, op int
	event    unix.EpollEvent
	watch    func(fd uintptr) // made once, as above
}

// errNothing says that a socket has nothing to be read now.
var errNothing = errors.New("nothing to be read yet")

// intakes is the read buffers that no socket has.
type intakes struct{ free sync.Pool }

func (p *intakes) get(c syscall.RawConn) *intake {
	in, ok := p.free.Get().(*intake)
	if !ok {
		in = &intake{buf: *bufio.NewReaderSize(nil, intakeBytes)}
		in.attempt, in.watch = in.once, in.control
	}
	in.conn = c
	return in
}

// lend makes br read from the intake's socket into its buffer.
func (in *intake) lend(br *bufio.Reader) {
	*br = in.buf
	br.Reset(in)
}

// takeBack ends that; what br has not read is forgotten.
func (in *intake) takeBack(br *bufio.Reader) { in.buf, *br = *br, bufio.Reader{} }

func (p *intakes) put(in *intake) {
	in.conn = nil
	p.free.Put(in)
}

// arm has an epoll instance tell of the socket once, by its seat.
func (in *intake) arm(epfd, op int, seat int32) error {
	in.epfd, in.op = epfd, op
	in.event = unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: seat}
	if err := in.conn.Control(in.watch); err != nil {
		return err
	}
	return in.err
}

func (in *intake) control(fd uintptr) { in.err = unix.EpollCtl(in.epfd, in.op, int(fd), &in.event) }

// Read implements io.Reader.
func (in *intake) Read(b []byte) (int, error) {
	in.data = b
	err := in.conn.Read(in.attempt)
	in.data = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(in.err, syscall.EAGAIN):
		return 0, errNothing
	case in.err != nil:
		return 0, in.err
	case in.n == 0 && len(b) > 0:
		return 0, io.EOF
	default:
		return in.n, nil
	}
}

func (in *intake) once(fd uintptr) bool {
	for {
		in.n, in.err = syscall.Read(int(fd), in.data)
		if !errors.Is(in.err, syscall.EINTR) {
			return !in.wait || !errors.Is(in.err, syscall.EAGAIN)
		}
	}
}

// upgrading hands gorilla a connection with a reader of ours, which it keeps: that
// is how its buffer can be lent.
type upgrading struct {
	http.ResponseWriter
	br   *bufio.Reader
	conn *upgraded
}

// upgraded is a connection on which gorilla writes its handshake and nothing else:
// the close frames that it would send itself could fall into the middle of what
// the session's queue is writing. They are kept for the session to send.
type upgraded struct {
	net.Conn
	done bool // the handshake
	said []byte
}

// Write implements net.Conn.
func (u *upgraded) Write(b []byte) (int, error) {
	if !u.done {
		return u.Conn.Write(b)
	}
	u.said = bytes.Clone(b)
	return len(b), nil
}

// SetWriteDeadline implements net.Conn.
func (u *upgraded) SetWriteDeadline(t time.Time) error {
	if u.done {
		return nil // it is the queue's
	}
	return u.Conn.SetWriteDeadline(t)
}

// Hijack implements http.Hijacker.
func (u *upgrading) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := u.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, problem.New(problem.Internal, "the connection can't be taken over")
	}
	c, brw, err := h.Hijack()
	if err == nil && brw.Reader.Buffered() == 0 { // else the upgrade is refused
		brw.Reader = u.br
	}
	if err != nil {
		return nil, nil, err
	}
	u.conn = &upgraded{Conn: c}
	return u.conn, brw, nil
}
