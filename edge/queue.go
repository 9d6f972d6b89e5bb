package edge

import (
	"net"
	"sync"
	"time"
)

// joinBytes is how much is joined into one write: a few packets' worth beyond
// which joining wins nothing.
const joinBytes = 64 << 10

// queue is what waits to be written to one socket. It owns no goroutine unless
// the socket is slow, or below TLS: see flushers. It never blocks who fills it;
// beyond its bounds it drops everything and ends the socket.
type queue struct {
	conn     net.Conn
	direct   *direct // nil: only conn can be written to
	writeMax time.Duration

	mu        sync.Mutex
	waiting   [][]byte
	bytes     int           // waiting and being written
	gated     bool          // nothing goes out before the hello
	writing   bool          // somebody writes, or is about to
	ending    bool          // a close frame is the last; nothing more is taken
	ended     bool          // it is out
	told      chan struct{} // closed when it is; nil while nobody waits
	bytesMax  int
	framesMax int
}

// push takes a frame. wake asks the caller to see that it is written; full says that the
// bounds are reached: the frame was not taken.
func (q *queue) push(f []byte) (wake, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ending {
		return false, false
	}
	if q.bytes+len(f) > q.bytesMax || len(q.waiting) >= q.framesMax {
		return false, true
	}
	q.waiting = append(q.waiting, f)
	q.bytes += len(f)
	return q.start(), false
}

// open puts the hello before everything and lets it all go.
func (q *queue) open(hello []byte) (wake bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gated = false
	if q.ending {
		return q.start()
	}
	q.waiting = append([][]byte{hello}, q.waiting...)
	q.bytes += len(hello)
	return q.start()
}

// end makes fs, a close frame being the last of them, the last frames; each
// portion of what waits may take within. drop forgets what waits. A socket
// without its hello is given nothing else.
func (q *queue) end(drop bool, within time.Duration, fs ...[]byte) (wake bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ending {
		return false
	}
	if drop || q.gated {
		clear(q.waiting)
		q.waiting = q.waiting[:0]
	}
	q.ending, q.gated = true, false
	q.writeMax = min(q.writeMax, within)
	for _, f := range fs {
		q.waiting = append(q.waiting, f)
		q.bytes += len(f)
	}
	_ = q.conn.SetWriteDeadline(time.Now().Add(within)) // fails only on a closed socket
	return q.start()
}

func (q *queue) start() bool {
	if q.gated || q.writing || len(q.waiting) == 0 {
		return false
	}
	q.writing = true
	return true
}

// take gives the writer what waits; none ends it, and last says for good.
func (q *queue) take(spare [][]byte) (fs [][]byte, writeMax time.Duration, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	fs, q.waiting = q.waiting, spare[:0]
	if len(fs) == 0 {
		q.writing = false
		if !q.ending && q.direct != nil {
			_ = q.conn.SetWriteDeadline(time.Time{}) // direct writes have none; fails only on a closed socket
		}
		return nil, 0, q.ending
	}
	return fs, q.writeMax, false
}

// written is closed when the close frame is out.
func (q *queue) written() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.told == nil {
		q.told = make(chan struct{})
		if q.ended {
			close(q.told)
		}
	}
	return q.told
}

// allWritten is the writer's word that it is, once.
func (q *queue) allWritten() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	if q.told != nil {
		close(q.told)
	}
}

func (q *queue) wrote(n int) {
	q.mu.Lock()
	q.bytes -= n
	q.mu.Unlock()
}

// write sends rest, then what waits until nothing does. last says that the close
// frame has gone out.
func (q *queue) write(rest []byte, pool *sync.Pool) (last bool, err error) {
	if len(rest) > 0 {
		q.mu.Lock()
		within := q.writeMax
		q.mu.Unlock()
		if err := q.conn.SetWriteDeadline(time.Now().Add(within)); err != nil {
			return false, err
		}
		if _, err := q.conn.Write(rest); err != nil {
			return false, err
		}
		q.wrote(len(rest))
	}
	var spare [][]byte
	for {
		fs, writeMax, last := q.take(spare)
		if len(fs) == 0 {
			return last, nil
		}
		if err := q.writeAll(fs, writeMax, pool); err != nil {
			return false, err
		}
		clear(fs)
		spare = fs
		if cap(spare) > keepFramesMax {
			spare = nil
		}
	}
}

// keepFramesMax is the longest list that a queue keeps for its next use.
const keepFramesMax = 64

// writeAll writes single frames as they are and joins several: one copy costs
// less than a system call, or than a long writev.
func (q *queue) writeAll(fs [][]byte, writeMax time.Duration, pool *sync.Pool) error {
	for len(fs) > 0 {
		n, size := 1, len(fs[0])
		for n < len(fs) && size+len(fs[n]) <= joinBytes {
			size += len(fs[n])
			n++
		}
		if err := q.conn.SetWriteDeadline(time.Now().Add(writeMax)); err != nil {
			return err
		}
		if err := q.writeJoined(fs[:n], pool); err != nil {
			return err
		}
		q.wrote(size)
		fs = fs[n:]
	}
	return nil
}

func (q *queue) writeJoined(fs [][]byte, pool *sync.Pool) error {
	if len(fs) == 1 {
		_, err := q.conn.Write(fs[0])
		return err
	}
	buf := borrow(pool)
	b := (*buf)[:0]
	for _, f := range fs {
		b = append(b, f...)
	}
	_, err := q.conn.Write(b)
	*buf = b
	pool.Put(buf)
	return err
}

// borrow takes a buffer of joinBytes out of the pool.
func borrow(pool *sync.Pool) *[]byte {
	if buf, ok := pool.Get().(*[]byte); ok {
		return buf
	}
	b := make([]byte, 0, joinBytes)
	return &b
}
