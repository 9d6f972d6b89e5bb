package channelnet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
)

// lane is the caller's side of one stream: what waits to be sent, and what is
// under way. Its fields are of one connection and end with it.
type lane struct {
	wake chan struct{} // capacity 1: the sender should look

	mu      sync.Mutex
	waiting []*asked
	bytes   int                 // of waiting
	gone    []uint64            // given up by their callers after they were sent
	sent    map[uint64]*asked   // unanswered
	number  uint64              // the last that was given
	wakes   map[string]struct{} // servers to remind
	ended   error               // set once: the connection is gone
}

// asked is a request on its way.
type asked struct {
	call    *cellv1.Call
	size    int
	changes bool // it is no mere reading
	done    chan outcome
}

type outcome struct {
	answer *cellv1.Answer
	err    error
}

func newLane() *lane {
	return &lane{wake: make(chan struct{}, 1), sent: map[uint64]*asked{}, wakes: map[string]struct{}{}}
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look, already
	}
}

// ask sends a call and waits for its answer within ctx. An error of the channel
// server comes back as it was.
func (l *lane) ask(ctx context.Context, call *cellv1.Call, changes bool) (*cellv1.Answer, error) {
	if ctx.Err() != nil {
		return nil, errLeft(false, ctx.Err())
	}
	if until, ok := ctx.Deadline(); ok {
		call.WaitUs = micros(time.Until(until))
	}
	r := &asked{call: call, size: proto.Size(call), changes: changes, done: make(chan outcome, 1)}
	if r.size > requestBytesMax-slackBytes {
		return nil, problem.New(problem.TooLarge, "the request has %d bytes; at most %d can be passed on", r.size, requestBytesMax-slackBytes)
	}
	if err := l.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case o := <-r.done:
		return o.answer, o.err
	case <-ctx.Done():
		o := l.giveUp(r, ctx.Err())
		return o.answer, o.err
	}
}

func (l *lane) enqueue(r *asked) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended != nil:
		return errAway(l.ended)
	case len(l.waiting)+len(l.sent) >= waitingMax, l.bytes > requestBytesMax:
		return errBusy()
	}
	l.number++
	r.call.Number = l.number
	l.waiting = append(l.waiting, r)
	l.bytes += r.size
	l.nudge()
	return nil
}

// giveUp is for a caller whose ctx has ended: what has not left is taken back.
func (l *lane) giveUp(r *asked, why error) outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, left := l.sent[r.call.GetNumber()]; left {
		delete(l.sent, r.call.GetNumber())
		l.gone = append(l.gone, r.call.GetNumber())
		l.nudge()
		return outcome{err: errLeft(r.changes, why)}
	}
	if i := slices.Index(l.waiting, r); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.bytes -= r.size
		return outcome{err: errLeft(false, why)}
	}
	return <-r.done // answered, or cut, in this moment
}

// remind sends a Wake, of which many are one.
func (l *lane) remind(server string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakes[server] = struct{}{}
	l.nudge()
}

// next is the next message to send, or nil if nothing waits.
func (l *lane) next() *cellv1.ServeRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting)+len(l.gone)+len(l.wakes) == 0 {
		return nil
	}
	m := &cellv1.ServeRequest{GivenUp: l.gone}
	l.gone = nil
	for server := range l.wakes {
		m.Calls = append(m.Calls, &cellv1.Call{Server: []byte(server), Ask: &cellv1.Call_Wake{Wake: &cellv1.Wake{}}})
	}
	clear(l.wakes)
	n, bytes := 0, 0
	for n < len(l.waiting) {
		r := l.waiting[n]
		if bytes += r.size; n > 0 && bytes > batchBytes {
			break
		}
		l.sent[r.call.GetNumber()] = r
		m.Calls = append(m.Calls, r.call)
		l.bytes -= r.size
		l.waiting[n] = nil
		n++
	}
	if l.waiting = l.waiting[n:]; len(l.waiting) == 0 {
		l.waiting = nil
	}
	return m
}

// send writes what waits until the connection ends.
func (l *lane) send(ctx context.Context, write func(*cellv1.ServeRequest) error) error {
	for {
		m := l.next()
		if m == nil {
			select {
			case <-l.wake:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := write(m); err != nil {
			return err
		}
	}
}

// deliver hands answers to their callers; those of callers who left are dropped.
func (l *lane) deliver(as []*cellv1.Answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range as {
		r := l.sent[a.GetNumber()]
		if r == nil {
			continue
		}
		delete(l.sent, a.GetNumber())
		o := outcome{answer: a}
		if p := a.GetProblem(); p != nil {
			o = outcome{err: errorOf(p)}
		}
		r.done <- o
	}
}

// end cuts what waits and what is under way (N1).
func (l *lane) end(why error) {
	if why == nil {
		why = errors.New("the connection ended")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = why
	for _, r := range l.waiting {
		r.done <- outcome{err: errAway(why)}
	}
	for _, r := range l.sent {
		r.done <- outcome{err: errCut(r.changes, why)}
	}
	l.waiting, l.bytes = nil, 0
	clear(l.sent)
}
