// Package hub is the floor of the fan-out benchmarks: a websocket server that
// does what every chat server must do on a socket, and nothing else. No auth, no
// rooms that change, no store but, with Sync, one file.
//
// It is one epoll loop. A turn reads all posts that are there before it touches
// a socket, builds one frame per post that all sockets share, and then gives
// every socket what is pending for it in one write: a single frame as it is,
// several as one joined copy. With Sync a post is acked and shown only after an
// fdatasync that covers it; what comes in meanwhile goes with the next.
package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"parley/bench/load"
	"parley/internal/problem"
)

// Config is a hub's.
type Config struct {
	Addr string // IPv4 host:port; port 0 takes any
	Sync string // the file that posts are synced to before they are shown; "" = none
}

// Bounds of the hub.
const (
	filesMax      = 16 << 10
	backlog       = 1024
	eventsAtOnce  = 512
	readBytes     = 64 << 10
	joinBytes     = 256 << 10
	blockedMax    = 8 << 20 // what may wait for a socket that doesn't read; it is closed then
	requestMax    = 8 << 10
	heartbeatSecs = 10
)

type hub struct {
	poll, listener, wake int
	conns                map[int32]*conn
	channels             map[string]*channel
	buf, scratch         []byte
	turn                 []post // read in this turn
	dirty                []*conn
	disk                 *disk // nil: nothing is stored
}

// channel is a channel and the sockets that follow it.
type channel struct {
	id    string
	rev   uint64
	conns []*conn
}

// Run serves until ctx ends, and calls ready with its address.
func Run(ctx context.Context, cfg Config, ready func(addr string)) error {
	h := &hub{conns: map[int32]*conn{}, channels: map[string]*channel{}, buf: make([]byte, readBytes), scratch: make([]byte, 0, joinBytes)}
	if err := load.RaiseFiles(filesMax); err != nil {
		return err
	}
	addr, err := h.open(cfg)
	if err != nil {
		return err
	}
	defer h.close()
	defer context.AfterFunc(ctx, h.rouse)()
	if cfg.Sync != "" {
		if h.disk, err = openDisk(cfg.Sync, h.rouse); err != nil {
			return err
		}
		defer h.disk.close()
	}
	ready(addr)
	for ctx.Err() == nil {
		if err := h.once(); err != nil {
			return err
		}
	}
	return nil
}

func (h *hub) open(cfg Config) (string, error) {
	at, err := netip.ParseAddrPort(cfg.Addr)
	if err != nil || !at.Addr().Is4() {
		return "", problem.Field("listen", "%q must be an IPv4 address and a port", cfg.Addr)
	}
	fds := []*int{&h.poll, &h.listener, &h.wake}
	for i, open := range []func() (int, error){
		func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) },
		func() (int, error) {
			return unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		},
		func() (int, error) { return unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC) },
	} {
		if *fds[i], err = open(); err != nil {
			return "", problem.Wrap(err, problem.Unavailable, "the hub has no descriptor")
		}
	}
	err = errors.Join(
		unix.SetsockoptInt(h.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(h.listener, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}),
		unix.Listen(h.listener, backlog), h.watch(h.listener), h.watch(h.wake),
	)
	if err != nil {
		return "", problem.Wrap(err, problem.Unavailable, "%s can't be listened on", cfg.Addr)
	}
	name, err := unix.Getsockname(h.listener)
	if err != nil {
		return "", err
	}
	own, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return "", problem.New(problem.Internal, "the hub has no IPv4 address")
	}
	return netip.AddrPortFrom(netip.AddrFrom4(own.Addr), uint16(own.Port)).String(), nil //nolint:gosec // a port
}

func (h *hub) watch(fd int) error {
	return unix.EpollCtl(h.poll, unix.EPOLL_CTL_ADD, fd, event(fd, unix.EPOLLIN))
}

func event(fd int, what uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: what, Fd: int32(fd)} //nolint:gosec // descriptors are small
}

// rouse ends a wait of the loop.
func (h *hub) rouse() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(h.wake, one[:]) // a full counter is a wake-up, too
}

func (h *hub) close() {
	for _, c := range h.conns {
		_ = unix.Close(c.fd) // on the way out
	}
	for _, fd := range []int{h.listener, h.wake, h.poll} {
		_ = unix.Close(fd) // on the way out
	}
}

// once is a turn: read everything, then write.
func (h *hub) once() error {
	var events [eventsAtOnce]unix.EpollEvent
	n, err := unix.EpollWait(h.poll, events[:], -1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return problem.Wrap(err, problem.Unavailable, "epoll")
	}
	for _, e := range events[:max(n, 0)] {
		switch c := h.conns[e.Fd]; {
		case int(e.Fd) == h.listener:
			h.accept()
		case int(e.Fd) == h.wake:
			var b [8]byte
			_, _ = unix.Read(h.wake, b[:]) // empty: someone was faster
		case c == nil:
		default:
			if e.Events&unix.EPOLLOUT != 0 {
				h.unblock(c)
			}
			if e.Events&^unix.EPOLLOUT != 0 {
				h.read(c)
			}
		}
	}
	if h.disk != nil {
		h.turn = h.disk.exchange(h.turn)
	}
	h.show(h.turn)
	clear(h.turn)
	h.turn = h.turn[:0]
	for _, c := range h.dirty {
		h.flush(c)
	}
	h.dirty = h.dirty[:0]
	return nil
}
