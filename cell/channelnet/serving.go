package channelnet

import (
	"context"
	"errors"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"parley/cell/channel"
	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// serving is the callee's side of one stream. A call has a goroutine of its own
// from its arrival to its answer.
type serving struct {
	s        *Server
	role     pki.Role
	holdings bool          // tell them on this stream
	wake     chan struct{} // capacity 1: the sender should look
	large    chan struct{} // a slot for each large answer that is made or waits

	mu      sync.Mutex
	calls   map[uint64]context.CancelFunc // under way
	answers []*answer                     // to be sent
}

// answer is one that waits to be sent.
type answer struct {
	*cellv1.Answer
	size int
	sent func() // called when it has left; nil = nobody waits for that
}

func newServing(s *Server, r pki.Role, holdings bool) *serving {
	return &serving{
		s: s, role: r, holdings: holdings, wake: make(chan struct{}, 1), large: make(chan struct{}, largeMax),
		calls: map[uint64]context.CancelFunc{},
	}
}

// run serves until the caller or the connection ends. It has stopped every call's
// goroutine when it returns.
func (v *serving) run(ctx context.Context, st *connect.BidiStream[cellv1.ServeRequest, cellv1.ServeResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		defer cancel()
		v.send(ctx, st.Send)
	})
	for {
		m, err := st.Receive()
		if err != nil {
			return ended(err)
		}
		for _, number := range m.GetGivenUp() {
			v.giveUp(number)
		}
		for _, c := range m.GetCalls() {
			if err := v.take(ctx, &work, c); err != nil {
				return err
			}
		}
	}
}

// ended is the outcome of a stream that its caller, or the connection, has ended.
func ended(err error) error {
	if ce, ok := errors.AsType[*connect.Error](err); ok && ce.Code() == connect.CodeResourceExhausted {
		return err // a message that is too large: the caller should know
	}
	return nil
}

// take begins a call.
func (v *serving) take(ctx context.Context, work *sync.WaitGroup, c *cellv1.Call) error {
	if _, hint := c.GetAsk().(*cellv1.Call_Wake); hint {
		if s := v.s.cluster.Own(topology.ServerID(c.GetServer())); s != nil {
			s.Wake()
		}
		return nil
	}
	number := c.GetNumber()
	ctx, cancel := context.WithTimeout(ctx, waitOf(c))
	v.mu.Lock()
	_, twice := v.calls[number]
	busy := len(v.calls)+len(v.answers) >= 2*waitingMax // the caller's own bound comes first
	if !twice && !busy {
		v.calls[number] = cancel
	}
	v.mu.Unlock()
	switch {
	case twice:
		cancel()
		return problem.New(problem.Invalid, "two calls under way have the number %d", number)
	case busy:
		cancel()
		v.put(&answer{Answer: &cellv1.Answer{Number: number, Problem: problemOf(errBusy())}})
		return nil
	}
	work.Go(func() {
		a := v.do(ctx, c)
		a.Number = number
		v.mu.Lock()
		delete(v.calls, number)
		v.mu.Unlock()
		cancel()
		v.put(a)
	})
	return nil
}

func (v *serving) giveUp(number uint64) {
	v.mu.Lock()
	cancel := v.calls[number]
	v.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// do carries a call out.
func (v *serving) do(ctx context.Context, c *cellv1.Call) *answer {
	a := &answer{}
	if isLarge(c) {
		select {
		case v.large <- struct{}{}:
			a.sent = func() { <-v.large }
		case <-ctx.Done():
			a.Answer = refused(ctx.Err())
			return a
		}
	}
	out, err := v.perform(ctx, c)
	if err != nil {
		out = refused(err)
	}
	if a.size = proto.Size(out); a.size > answerBytesMax-slackBytes {
		out = refused(problem.New(problem.TooLarge, "the answer has %d bytes; ask for less at once", a.size))
		a.size = proto.Size(out)
	}
	a.Answer = out
	return a
}

func refused(err error) *cellv1.Answer { return &cellv1.Answer{Problem: problemOf(err)} }

func isLarge(c *cellv1.Call) bool {
	switch c.GetAsk().(type) {
	case *cellv1.Call_Changes, *cellv1.Call_Page, *cellv1.Call_Thread, *cellv1.Call_Import:
		return true
	default:
		return false
	}
}

func (v *serving) put(a *answer) {
	v.mu.Lock()
	v.answers = append(v.answers, a)
	v.mu.Unlock()
	select {
	case v.wake <- struct{}{}:
	default: // it will look, already
	}
}

// next is what the next message holds, nil if nothing waits.
func (v *serving) next() []*answer {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, bytes := 0, 0
	for n < len(v.answers) {
		if bytes += v.answers[n].size; n > 0 && bytes > batchBytes {
			break
		}
		n++
	}
	batch := v.answers[:n:n]
	if v.answers = v.answers[n:]; len(v.answers) == 0 {
		v.answers = nil
	}
	return batch
}

// send writes what waits, and the holdings when they change, until ctx ends or
// the connection breaks.
func (v *serving) send(ctx context.Context, write func(*cellv1.ServeResponse) error) {
	var told teller
	for {
		m := &cellv1.ServeResponse{}
		if v.holdings {
			m.Holdings = told.news(v.s.cluster)
		}
		batch := v.next()
		if len(batch) == 0 && m.Holdings == nil {
			select {
			case <-v.wake:
			case <-told.changed: // nil without holdings
			case <-ctx.Done():
				return
			}
			continue
		}
		for _, a := range batch {
			m.Answers = append(m.Answers, a.Answer)
		}
		err := write(m)
		for _, a := range batch {
			if a.sent != nil {
				a.sent()
			}
		}
		if err != nil {
			return
		}
	}
}

// teller knows what a caller was told of the holdings.
type teller struct {
	last    channel.Holdings
	changed <-chan struct{} // closed when there may be news
}

// news is the present state, or nil if it is what was told last.
func (t *teller) news(c *channel.Cluster) *cellv1.Holdings {
	select {
	case <-t.changed:
	default:
		if t.changed != nil {
			return nil
		}
	}
	var now channel.Holdings
	now, t.changed = c.Holdings()
	if t.last != nil && same(t.last, now) {
		return nil
	}
	t.last = now
	return holdingsMessage(now)
}
