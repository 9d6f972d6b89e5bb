package edge

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
)

// flushers write to the sockets that a turn has filled. One write a socket and
// turn, without blocking: what a socket's kernel buffer does not take is left to
// a writer of its own. Few sockets are written at once by who filled them; many
// are shared out among loops, one per core.
type flushers struct {
	loops []flushLoop
}

type flushLoop struct {
	mu      sync.Mutex
	waiting []*session
	wake    chan struct{} // holds one
}

// inlineMax sockets are written by who filled them: handing them over costs more.
const inlineMax = 8

func newFlushers() *flushers {
	f := &flushers{loops: make([]flushLoop, runtime.GOMAXPROCS(0))}
	for i := range f.loops {
		f.loops[i].wake = make(chan struct{}, 1)
	}
	return f
}

// flush writes to the sockets of a turn, soon.
func (f *flushers) flush(ss []*session) {
	if len(ss) <= inlineMax {
		for _, s := range ss {
			s.flush(nil)
		}
		return
	}
	share := (len(ss) + len(f.loops) - 1) / len(f.loops)
	for i := range f.loops {
		part := ss[:min(share, len(ss))]
		ss = ss[len(part):]
		if len(part) == 0 {
			return
		}
		l := &f.loops[i]
		l.mu.Lock()
		l.waiting = append(l.waiting, part...)
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default: // it has not looked since
		}
	}
}

// run serves one loop until ctx ends.
func (l *flushLoop) run(ctx context.Context) {
	scratch := make([]byte, 0, joinBytes)
	var spare []*session
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		l.mu.Lock()
		ss := l.waiting
		l.waiting = spare[:0]
		l.mu.Unlock()
		for _, s := range ss {
			s.flush(scratch)
		}
		clear(ss)
		spare = ss
	}
}

// flush writes what waits for the socket as far as its kernel buffer takes it; a
// writer of its own does the rest.
func (s *session) flush(scratch []byte) {
	rest, done, err := s.out.tryWrite(scratch, &s.owner.buffers)
	switch {
	case err != nil:
		s.cut()
	case !done:
		s.owner.write(func() { s.write(rest) })
	}
}

// direct writes to a socket without waiting for it.
type direct struct {
	conn    syscall.RawConn
	attempt func(fd uintptr) bool // made once: a closure per write would be garbage
	data    []byte
	n       int
	err     error
}

// newDirect is nil where there is no plain socket: below TLS.
func newDirect(c net.Conn) *direct {
	plain, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	conn, err := plain.SyscallConn()
	if err != nil {
		return nil
	}
	d := &direct{conn: conn}
	d.attempt = func(fd uintptr) bool {
		for {
			d.n, d.err = syscall.Write(int(fd), d.data)
			if !errors.Is(d.err, syscall.EINTR) {
				return true // also on EAGAIN: nobody waits here
			}
		}
	}
	return d
}

// write writes as much as the socket takes now.
func (d *direct) write(b []byte) (n int, err error) {
	d.data = b
	err = d.conn.Write(d.attempt)
	d.data = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(d.err, syscall.EAGAIN):
		return 0, nil
	case d.err != nil:
		return 0, d.err
	default:
		return d.n, nil
	}
}

// tryWrite writes what waits until nothing does (done), or the socket takes no
// more: then the caller has to see that a writer goes on, with rest first. Without
// scratch, one of the pool is used.
func (q *queue) tryWrite(scratch []byte, pool *sync.Pool) (rest []byte, done bool, err error) {
	if q.direct == nil {
		return nil, false, nil
	}
	for {
		fs, ok := q.takeDirect()
		if !ok {
			return nil, false, nil // the end of a socket is its writer's
		}
		if len(fs) == 0 {
			return nil, true, nil
		}
		if len(fs) > 1 && scratch == nil {
			buf := borrow(pool)
			defer pool.Put(buf)
			scratch = *buf
		}
		for len(fs) > 0 {
			b, n, shared := joined(fs, scratch)
			wrote, err := q.direct.write(b)
			if err != nil {
				return nil, false, err
			}
			q.wrote(wrote)
			if wrote == len(b) {
				fs = fs[n:]
				continue
			}
			rest = b[wrote:]
			if !shared {
				rest = append([]byte(nil), rest...)
			}
			q.putBack(fs[n:])
			return rest, false, nil
		}
	}
}

// joined is the next write: one frame as it is, or as many as fit into a write,
// copied into scratch. shared says that it is a frame itself, which never changes.
func joined(fs [][]byte, scratch []byte) (b []byte, n int, shared bool) {
	if len(fs) == 1 {
		return fs[0], 1, true
	}
	b = append(scratch[:0], fs[0]...)
	for n = 1; n < len(fs) && len(b)+len(fs[n]) <= joinBytes; n++ {
		b = append(b, fs[n]...)
	}
	if n == 1 {
		return fs[0], 1, true
	}
	return b, n, false
}

// takeDirect gives what waits; ok is false when the socket is being ended.
func (q *queue) takeDirect() (fs [][]byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ending {
		return nil, false
	}
	fs, q.waiting = q.waiting, nil
	if len(fs) == 0 {
		q.writing = false
	}
	return fs, true
}

// putBack puts frames that were taken before all others.
func (q *queue) putBack(fs [][]byte) {
	if len(fs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(append(make([][]byte, 0, len(fs)+len(q.waiting)), fs...), q.waiting...)
}
