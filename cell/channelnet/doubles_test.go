package channelnet_test

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"

	"parley/cell/channel"
	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// people is a cell's directory.
type people struct {
	mu       sync.Mutex
	channels map[topology.ChannelRef]channel.Info
	members  map[topology.ChannelRef]map[topology.UserID]bool
}

func newPeople() *people {
	return &people{channels: map[topology.ChannelRef]channel.Info{}, members: map[topology.ChannelRef]map[topology.UserID]bool{}}
}

func (d *people) put(ref topology.ChannelRef, number uint64, us ...topology.UserID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.channels[ref] = channel.Info{Number: number}
	d.members[ref] = map[topology.UserID]bool{}
	for _, u := range us {
		d.members[ref][u] = true
	}
}

func (d *people) Open(_ context.Context, p topology.Place) (bool, error) { return p == place, nil }

func (d *people) ChannelInfo(_ context.Context, ref topology.ChannelRef) (channel.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, ok := d.channels[ref]
	if !ok {
		return channel.Info{}, problem.New(problem.NotFound, "no such channel")
	}
	return i, nil
}

func (d *people) IsMember(_ context.Context, ref topology.ChannelRef, u topology.UserID) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.members[ref][u], nil
}

func (d *people) Members(_ context.Context, ref topology.ChannelRef, most int) ([]topology.UserID, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	us := slices.Collect(maps.Keys(d.members[ref]))
	return us, len(us) <= most, nil
}

func (d *people) UsersByName(context.Context, topology.Place, []string) (map[string]topology.UserID, error) {
	return nil, nil
}

// stoppable is a process's way to the message store. Stopped, its calls wait, as
// those of a process that is paused; failed, they come to nothing for good.
type stoppable struct {
	msglog.Store
	mu     sync.Mutex
	wait   chan struct{} // nil = goes on
	failed bool
}

func (s *stoppable) stop(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on && s.wait == nil:
		s.wait = make(chan struct{})
	case !on && s.wait != nil:
		close(s.wait)
		s.wait = nil
	}
}

func (s *stoppable) fail() {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	s.stop(false)
}

func (s *stoppable) pass() error {
	for {
		s.mu.Lock()
		wait, failed := s.wait, s.failed
		s.mu.Unlock()
		if failed {
			return problem.New(problem.Unavailable, "the process is dead")
		}
		if wait == nil {
			return nil
		}
		<-wait
	}
}

func (s *stoppable) Raise(ctx context.Context, o topology.ServerID, cs []msglog.Claim) ([]msglog.Fence, error) {
	if err := s.pass(); err != nil {
		return nil, err
	}
	return s.Store.Raise(ctx, o, cs)
}

func (s *stoppable) Fences(ctx context.Context, of ...topology.Shard) ([]msglog.Fence, error) {
	if err := s.pass(); err != nil {
		return nil, err
	}
	return s.Store.Fences(ctx, of...)
}

func (s *stoppable) Append(ctx context.Context, sh topology.Shard, t topology.Token, w []msglog.Write) error {
	if err := s.pass(); err != nil {
		return err
	}
	return s.Store.Append(ctx, sh, t, w)
}

func (s *stoppable) Repair(ctx context.Context, sh topology.Shard, t topology.Token, seals []msglog.Seal) error {
	if err := s.pass(); err != nil {
		return err
	}
	return s.Store.Repair(ctx, sh, t, seals)
}

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	must(tb, err)
	defer func() { must(tb, l.Close()) }()
	return l.Addr().String()
}

// relay stands before a process: what passes can be held up, and cut.
type relay struct {
	addr, to string
	ln       net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex
	gone  bool
	hold  chan struct{} // nil = passes
	conns map[net.Conn]struct{}
}

func newRelay(tb testing.TB, to string) *relay {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	must(tb, err)
	r := &relay{addr: ln.Addr().String(), to: to, ln: ln, conns: map[net.Conn]struct{}{}}
	r.work.Go(r.accept)
	return r
}

func (r *relay) accept() {
	for {
		in, err := r.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil || !r.keep(in, out) {
			_ = in.Close()
			continue
		}
		r.work.Go(func() { r.copy(out, in) })
		r.work.Go(func() { r.copy(in, out) })
	}
}

func (r *relay) keep(cs ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range cs {
		if r.gone {
			_ = c.Close()
		}
		r.conns[c] = struct{}{}
	}
	return !r.gone
}

func (r *relay) copy(to, from net.Conn) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		hold := r.hold
		r.mu.Unlock()
		if hold != nil {
			<-hold
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) pause(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case on && r.hold == nil:
		r.hold = make(chan struct{})
	case !on && r.hold != nil:
		close(r.hold)
		r.hold = nil
	}
}

// reset breaks the connections; new ones pass.
func (r *relay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(r.conns)
}

// cut is the end of it: connections break, and none is taken.
func (r *relay) cut() {
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
	_ = r.ln.Close()
	r.reset()
	r.pause(false)
	r.work.Wait()
}

// lockedBuffer is a log that a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
