package workload

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"parley/bench/floor/pace"
	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/wire/frame"
)

// wire measures echoes. Messages carry their time of sending in ns.
type wire struct {
	mu    sync.Mutex
	start time.Time
	from  int64 // what was sent before is not measured
	hist  *hdrhistogram.Histogram
	owed  int64         // sent and not back
	news  chan struct{} // holds one: something came back
}

// measure sends at a rate, what is due at each tick in one go, and waits for it
// all to be back.
func (w *wire) measure(ctx context.Context, dial func() (echo, error), rate int, e *Env) (*hdrhistogram.Histogram, int64, error) {
	w.mu.Lock()
	w.start, w.from, w.owed, w.news = time.Now(), int64(e.Warm), 0, make(chan struct{}, 1)
	w.hist = hdrhistogram.New(1, linkLatencyUs*1000, 3)
	w.mu.Unlock()
	c, err := dial()
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	err = pace.Run(ctx, linkTick, rate, e.Warm+e.For, func(n int) error {
		batch := make([][]byte, n)
		w.mu.Lock()
		w.owed += int64(n)
		w.mu.Unlock()
		for i := range batch {
			batch[i] = make([]byte, linkBytes)
			binary.BigEndian.PutUint64(batch[i], uint64(time.Since(w.start))) //nolint:gosec // not below 0
		}
		return c.Send(batch)
	})
	if err != nil {
		return nil, 0, problem.Wrap(err, problem.Unavailable, "the echo broke off")
	}
	return w.hist, w.drain(ctx), nil
}

// drain waits for what is under way, and returns what never came.
func (w *wire) drain(ctx context.Context) int64 {
	ctx, cancel := context.WithTimeout(ctx, linkDrain)
	defer cancel()
	for {
		w.mu.Lock()
		owed := w.owed
		w.mu.Unlock()
		if owed == 0 {
			return 0
		}
		select {
		case <-w.news:
		case <-ctx.Done():
			return owed
		}
	}
}

// back takes a message that has returned.
func (w *wire) back(b []byte) {
	now := int64(time.Since(w.start))
	sent := int64(binary.BigEndian.Uint64(b)) //nolint:gosec // as it was written
	w.mu.Lock()
	w.owed--
	if sent >= w.from {
		_ = w.hist.RecordValue(min(max(now-sent, 1), linkLatencyUs*1000)) // within its range
	}
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// linkEcho is a link to a gateway that sends every frame back.
type linkEcho struct {
	conn *link.Conn
	stop context.CancelFunc
	done chan struct{}
}

func dialLink(ctx context.Context, ca *pki.Authority, back func([]byte)) (echo, error) { //nolint:ireturn // one of two
	gateway, edge, err := identities(ca)
	if err != nil {
		return nil, err
	}
	s, err := link.NewServer(link.ServerConfig{
		Addr: "127.0.0.1:0", TLS: gateway.Server(pki.RoleEdge),
		Accept: func(frame.Hello, pki.Identity) (frame.Welcome, link.Handler, error) {
			return frame.Welcome{Gateway: "gw-1", Cell: "eu-1", Incarnation: 1}, mirror{}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &linkEcho{stop: cancel, done: make(chan struct{})}
	ready, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(l.done)
		failed <- s.Run(ctx, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-failed:
		cancel()
		return nil, err
	}
	l.conn, _, err = link.Dial(ctx, link.DialConfig{
		Addr: s.Addr(), TLS: edge.Client(pki.RoleGateway), Hello: frame.Hello{Edge: "edge-1", Region: "eu", Incarnation: 1}, Handler: catcher{back},
	})
	if err != nil {
		cancel()
		<-l.done
		return nil, err
	}
	return l, nil
}

// Send implements echo.
func (l *linkEcho) Send(messages [][]byte) error {
	for _, m := range messages {
		if err := l.conn.Send(1, frame.GroupFrame{Group: 1, From: 1, To: 1, Payload: m}); err != nil {
			return err
		}
	}
	l.conn.Flush()
	return nil
}

// Close implements echo.
func (l *linkEcho) Close() {
	l.conn.Close(nil)
	l.conn.Wait()
	l.stop()
	<-l.done
}

// mirror is the other end.
type mirror struct{}

// Frames implements link.Handler.
func (mirror) Frames(c *link.Conn, lane int, fs []frame.Frame) {
	if c.Send(lane, fs...) == nil { // else the link has ended, and the count shows it
		c.Flush()
	}
}

// Closed implements link.Handler.
func (mirror) Closed(*link.Conn, error) {}

// catcher takes what comes back.
type catcher struct{ back func([]byte) }

// Frames implements link.Handler.
func (c catcher) Frames(_ *link.Conn, _ int, fs []frame.Frame) {
	for _, f := range fs {
		if g, ok := f.(frame.GroupFrame); ok && len(g.Payload) >= 8 {
			c.back(g.Payload)
		}
	}
}

// Closed implements link.Handler.
func (catcher) Closed(*link.Conn, error) {}
