package edge

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// poller wakes plain sockets when they have something to be read, so that those
// that say nothing own neither a goroutine nor a buffer. Its loops, one per core,
// read what is there and act on it; what has to be waited for is left to a
// goroutine that lives until the socket is silent again.
//
// A silent socket is parked: whoever takes it out of that state reads it next.
// The kernel tells of it once, then it is armed anew.
type poller struct {
	intakes intakes
	work    sync.WaitGroup

	mu    sync.Mutex
	loops []*pollLoop // none before the first socket
	next  int
}

// pollLoop waits for some of the sockets.
type pollLoop struct {
	epoll  *os.File // itself watched by the runtime: no thread waits in it
	fd     int      // its descriptor
	conn   syscall.RawConn
	events [pollEvents]unix.EpollEvent
	n      int
	err    error
	sent   []*wire // with frames of this turn

	mu    sync.Mutex
	seats []*session // by what the kernel knows them by
	free  []int32
}

// pollEvents is how many sockets one look at the kernel tells of.
const pollEvents = 128

// seat gives a new session to a loop; false says that it needs a goroutine.
func (p *poller) seat(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.loops) == 0 {
		if err := p.open(); err != nil {
			s.owner.log.Warn("a socket has to be waited for by a goroutine", "err", err)
			return false
		}
	}
	l := p.loops[p.next%len(p.loops)]
	p.next++
	l.mu.Lock()
	defer l.mu.Unlock()
	s.loop = l
	if n := len(l.free); n > 0 {
		s.seat, l.free = l.free[n-1], l.free[:n-1]
		l.seats[s.seat] = s
		return true
	}
	s.seat = int32(len(l.seats)) //nolint:gosec // bounded by SocketsMax
	l.seats = append(l.seats, s)
	return true
}

// open starts the loops. The caller holds p.mu.
func (p *poller) open() error {
	for range runtime.GOMAXPROCS(0) {
		l, err := newPollLoop()
		if err != nil {
			p.close()
			return err
		}
		p.loops = append(p.loops, l)
		p.work.Go(l.run)
	}
	return nil
}

func newPollLoop() (*pollLoop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // or the runtime would not watch it
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "no epoll instance")
	}
	l := &pollLoop{fd: fd, epoll: os.NewFile(uintptr(fd), "epoll")}
	if l.conn, err = l.epoll.SyscallConn(); err != nil {
		_ = l.epoll.Close() // it was of no use
		return nil, problem.Wrap(err, problem.Unavailable, "no epoll instance")
	}
	return l, nil
}

// stop ends the loops. All sessions have left before.
func (p *poller) stop() {
	p.mu.Lock()
	p.close()
	p.mu.Unlock()
	p.work.Wait()
}

// close ends what open has begun. The caller holds p.mu.
func (p *poller) close() {
	for _, l := range p.loops {
		_ = l.epoll.Close() // its loop notices
	}
	p.loops = nil
}

// run reads sockets until the loop's epoll instance is closed.
func (l *pollLoop) run() {
	var ready []*session
	look := l.look
	for {
		if err := l.conn.Read(look); err != nil || l.err != nil {
			return
		}
		l.mu.Lock()
		for _, e := range l.events[:l.n] {
			if s := l.seats[e.Fd]; s != nil {
				ready = append(ready, s)
			}
		}
		l.mu.Unlock()
		for _, s := range ready {
			if s.parked.CompareAndSwap(true, false) {
				s.turn()
			}
		}
		clear(ready)
		ready = ready[:0]
		l.flush()
	}
}

// flushLater has a link flushed at the end of the turn: the posts of many sockets
// go out together.
func (l *pollLoop) flushLater(w *wire) {
	if !slices.Contains(l.sent, w) {
		l.sent = append(l.sent, w)
	}
}

func (l *pollLoop) flush() {
	for _, w := range l.sent {
		w.flush()
	}
	clear(l.sent)
	l.sent = l.sent[:0]
}

// look asks the kernel without waiting; false has the runtime wait.
func (l *pollLoop) look(fd uintptr) bool {
	l.n, l.err = unix.EpollWait(int(fd), l.events[:], 0)
	if errors.Is(l.err, unix.EINTR) {
		l.n, l.err = 0, nil
	}
	return l.n > 0 || l.err != nil
}

// leave frees a session's seat; its socket is closed.
func (l *pollLoop) leave(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seats[s.seat] = nil
	l.free = append(l.free, s.seat)
}
