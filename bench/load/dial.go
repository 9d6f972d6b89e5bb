package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// Bounds of connecting.
const (
	// dialsAtOnce is below every listener's backlog.
	dialsAtOnce = 16
	// portsPerSource keeps a source address's sockets well below the kernel's
	// range of free ports (28,000 by default); the next ones come from the next
	// address of 127/8.
	portsPerSource = 15_000
	answerSeconds  = 30
	answerBytesMax = 4096
)

// RaiseFiles makes sure that the process may have n files open.
func RaiseFiles(n uint64) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return problem.Wrap(err, problem.Unavailable, "the limit of open files can't be read")
	}
	if r.Cur >= n {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: max(n, r.Max)}); err != nil {
		return problem.Wrap(err, problem.Unavailable, "%d open files are needed, %d allowed: ulimit -n %d", n, r.Max, n)
	}
	return nil
}

// dialAll opens the sockets a few at a time and hands them to the loop, which
// turns between the batches: those that are open must show signs of life.
func (l *Load) dialAll(ctx context.Context) error {
	at := 0
	for batch := range slices.Chunk(l.cfg.Sockets, dialsAtOnce*dialsAtOnce) {
		if err := l.dialBatch(ctx, batch, at); err != nil {
			return err
		}
		at += len(batch)
		if err := l.once(time.Millisecond); err != nil {
			return err
		}
		l.keepAlive()
		l.show("connect", 0)
	}
	return nil
}

func (l *Load) dialBatch(ctx context.Context, batch []Socket, from int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialsAtOnce)
	var mu sync.Mutex
	for i, s := range batch {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			fd, rest, err := dial(s, (from+i)/portsPerSource)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return l.adopt(fd, rest)
		})
	}
	return g.Wait()
}

// adopt takes a socket after its handshake; rest is what came behind it.
func (l *Load) adopt(fd int, rest []byte) error {
	c := &conn{fd: fd, index: len(l.conns)}
	l.conns = append(l.conns, c)
	l.byFD[int32(fd)] = c //nolint:gosec // descriptors are small
	if err := unix.SetNonblock(fd, true); err != nil {
		return problem.Wrap(err, problem.Unavailable, "socket %d", fd)
	}
	if err := unix.EpollCtl(l.poll, unix.EPOLL_CTL_ADD, fd, event(fd, unix.EPOLLIN)); err != nil {
		return problem.Wrap(err, problem.Unavailable, "epoll")
	}
	l.take(c, rest)
	return nil
}

func event(fd int, what uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: what, Fd: int32(fd)} //nolint:gosec // descriptors are small
}

// dial connects from the source-th address of 127/8 and does the handshake.
func dial(s Socket, source int) (fd int, rest []byte, err error) {
	to, err := netip.ParseAddrPort(s.Addr)
	if err != nil || !to.Addr().Is4() {
		return 0, nil, problem.New(problem.Invalid, "%q must be an IPv4 address and a port", s.Addr)
	}
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, problem.Wrap(err, problem.Unavailable, "no socket")
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd) // the reason is in err
		}
	}()
	if err := prepare(fd, to, source); err != nil {
		return 0, nil, problem.Wrap(err, problem.Unavailable, "a socket can't be prepared")
	}
	if err := connect(fd, to); err != nil {
		return 0, nil, problem.Wrap(err, problem.Unavailable, "%s can't be reached", s.Addr)
	}
	rest, err = handshake(fd, s)
	return fd, rest, err
}

// connect goes on waiting where a signal of the runtime broke into it.
func connect(fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if !errors.Is(err, unix.EINTR) {
		return err
	}
	n, err := again(func() (int, error) {
		return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, answerSeconds*1000) //nolint:gosec // descriptors are small
	})
	if err != nil || n == 0 {
		return errors.Join(err, unix.ETIMEDOUT)
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// again repeats a call that a signal of the runtime broke into.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func prepare(fd int, to netip.AddrPort, source int) error {
	limit := unix.Timeval{Sec: answerSeconds}
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &limit); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if !to.Addr().IsLoopback() {
		return nil
	}
	// The port is chosen at connect, when the kernel knows the whole pair.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, byte(source >> 8), byte(2 + source)}}) //nolint:gosec // a handful of sources
}

// handshake upgrades the connection. The key is the standard's own example: the
// server's answer to it proves nothing that a benchmark needs.
func handshake(fd int, s Socket) (rest []byte, err error) {
	ask := fmt.Sprintf("GET /connect?token=%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", s.Token, s.Addr)
	if _, err := again(func() (int, error) { return unix.Write(fd, []byte(ask)) }); err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "%s took no handshake", s.Addr)
	}
	var got []byte
	for len(got) < answerBytesMax {
		buf := make([]byte, answerBytesMax)
		n, err := again(func() (int, error) { return unix.Read(fd, buf) })
		if err != nil || n == 0 {
			return nil, problem.Wrap(err, problem.Unavailable, "%s broke off the handshake", s.Addr)
		}
		got = append(got, buf[:n]...)
		head, rest, whole := bytes.Cut(got, []byte("\r\n\r\n"))
		switch {
		case !whole:
		case !bytes.HasPrefix(head, []byte("HTTP/1.1 101")):
			return nil, problem.New(problem.Unavailable, "%s refused a socket: %.300s", s.Addr, got)
		default:
			return rest, nil
		}
	}
	return nil, problem.New(problem.Invalid, "%s answered the handshake with more than %d bytes", s.Addr, answerBytesMax)
}
