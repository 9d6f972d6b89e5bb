package channelnet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	cellv1 "parley/internal/gen/parley/cell/v1"
	"parley/internal/problem"
)

// connection is one connection to another process, until it breaks.
type connection struct {
	p     *process
	small *lane // what is urgent; the callee's holdings come on it
	large *lane

	heard  atomic.Int64 // ns since began: when the peer last said anything
	began  time.Time
	cancel context.CancelCauseFunc
}

// stream is the calling side of ChannelService.Serve.
type stream = connect.BidiStreamForClient[cellv1.ServeRequest, cellv1.ServeResponse]

// connect opens both streams; ctx is the connection's life.
func (p *process) connect(ctx context.Context) (c *connection, streams [2]*stream, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	c = &connection{p: p, small: newLane(), large: newLane(), began: time.Now(), cancel: cancel}
	limit := time.AfterFunc(handshakeMax, func() { cancel(errors.New("no welcome in time")) })
	defer limit.Stop()
	for i := range streams {
		if streams[i], err = p.open(ctx, i == 0); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			cancel(err)
			p.transport.CloseIdleConnections()
			return nil, streams, err
		}
	}
	return c, streams, nil
}

// open opens a stream and exchanges Hello and Welcome.
func (p *process) open(ctx context.Context, first bool) (*stream, error) {
	s := p.client.Serve(ctx)
	hello := &cellv1.Hello{Version: p.version(), Cell: []byte(p.of.cfg.Cell), Process: []byte(p.of.cfg.Process), Holdings: first}
	if err := s.Send(&cellv1.ServeRequest{Hello: hello}); err != nil {
		if _, cause := s.Receive(); cause != nil { // why the callee ended it
			err = cause
		}
		return nil, err
	}
	m, err := s.Receive()
	if err != nil {
		return nil, err
	}
	if m.GetRefused() != nil {
		return nil, errorOf(m.GetRefused())
	}
	w := m.GetWelcome()
	switch {
	case w.GetVersion() != p.version():
		return nil, problem.New(problem.Unsupported, "the process %s at %s speaks version %d of the cell's protocol, this one version %d",
			w.GetProcess(), p.addr, w.GetVersion(), p.version())
	case string(w.GetProcess()) == p.of.cfg.Process:
		return nil, problem.New(problem.Conflict, "the process at %s calls itself %s, as this one does: give each process of a cell a name of its own", p.addr, w.GetProcess())
	}
	return s, nil
}

// run serves the connection until it breaks, and says why it did.
func (c *connection) run(ctx context.Context, streams [2]*stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := c.cancel
	c.heard.Store(int64(time.Since(c.began)))
	fail := func(err error) {
		cancel(err)
		stop(err)
	}
	defer context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })()
	var work sync.WaitGroup
	for i, l := range []*lane{c.small, c.large} {
		s := streams[i]
		work.Go(func() {
			fail(l.send(ctx, func(m *cellv1.ServeRequest) error {
				c.p.of.metrics.messages.Inc()
				return s.Send(m)
			}))
			_ = s.CloseRequest() // the stream is over
		})
		work.Go(func() {
			fail(c.receive(s, l))
			_ = s.CloseResponse()
		})
	}
	work.Go(func() { fail(c.watch(ctx)) })
	work.Wait()
	return context.Cause(ctx)
}

func (c *connection) receive(s *stream, l *lane) error {
	for {
		m, err := s.Receive()
		if err != nil {
			return err
		}
		c.heard.Store(int64(time.Since(c.began)))
		l.deliver(m.GetAnswers())
		if m.GetHoldings() == nil {
			continue
		}
		h, err := holdingsOf(m.GetHoldings())
		if err != nil {
			return err
		}
		c.p.tell(h)
	}
}

// watch asks whether the peer lives, and ends the connection if it is silent for
// too long (N3).
func (c *connection) watch(ctx context.Context) error {
	tick := time.NewTicker(c.p.of.pace.pingEvery)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if quiet := time.Since(c.began) - time.Duration(c.heard.Load()); quiet > c.p.of.pace.deadAfter {
			return fmt.Errorf("the process has answered nothing for %s", quiet.Round(time.Millisecond))
		}
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.p.of.pace.deadAfter)
			defer cancel()
			_, _ = c.small.ask(ctx, &cellv1.Call{Ask: &cellv1.Call_Ping{Ping: &cellv1.Ping{}}}, false) // receive notes the answer
		})
	}
}

// end cuts what is under way, once run has returned or the connection was never
// run.
func (c *connection) end(why error) {
	c.small.end(why)
	c.large.end(why)
}
