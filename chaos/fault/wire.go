package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// Weather is what happens to streams. Zero passes all.
type Weather struct {
	// Delay is by how much later each answer of the target comes.
	Delay time.Duration
	// Reset is how likely, 0 to 1, each piece that passes, either way, meets a reset of
	// its connection instead. A piece is what one read of a socket gives: a request or
	// an answer, or several that were sent as one.
	Reset float64
	// Cut lets nothing pass, the end of a stream neither; connections are taken, and are
	// silent. Those that lost something in a cut are reset when it is over.
	Cut bool
}

// outputMax is how long a side may leave what is sent to it unread before its
// connection is reset: longer than any engine stands still.
const outputMax = 2 * time.Minute

// Wire passes TCP connections on to a target, through a toxiproxy whose one toxic
// is the weather. It is in the chain from the beginning: to take a toxic out of a
// chain can hang for ever while a connection breaks (Shopify/toxiproxy#558).
type Wire struct {
	proxy *toxiproxy.Proxy

	mu      sync.Mutex
	weather Weather
	changed chan struct{} // closed and renewed by Set
	met     atomic.Int64  // pieces that the weather did something to
}

// NewWire listens at one address (host:port) and passes on to another. Close ends it.
func NewWire(listen, target string) (*Wire, error) {
	w := &Wire{changed: make(chan struct{})}
	toxics.Register("weather", new(toxic))
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	w.proxy = toxiproxy.NewProxy(server, target, listen, target)
	for _, way := range []stream.Direction{stream.Upstream, stream.Downstream} {
		// With this one in the chain toxiproxy ends connections by a reset; it does
		// nothing else where it is never toxic.
		if err := w.add(way, "reset_peer", 0, nil); err != nil {
			return nil, err
		}
		if err := w.add(way, "weather", 1, &toxic{wire: w, answers: way == stream.Downstream}); err != nil {
			return nil, err
		}
	}
	if err := w.proxy.Start(); err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	return w, nil
}

// add puts a toxic into the chain; it becomes t, if that is not nil.
func (w *Wire) add(way stream.Direction, kind string, toxicity float64, t *toxic) error {
	order := fmt.Sprintf(`{"type": %q, "stream": %q, "toxicity": %v}`, kind, way, toxicity)
	in, err := w.proxy.Toxics.AddToxicJson(strings.NewReader(order))
	if err != nil {
		return fmt.Errorf("wire: %s: %w", order, err)
	}
	if t != nil {
		in.Toxic = t
	}
	return nil
}

// Set changes the weather, from now on, and tells how many pieces met the former.
func (w *Wire) Set(weather Weather) (met int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.weather = weather
	close(w.changed)
	w.changed = make(chan struct{})
	return w.met.Swap(0)
}

func (w *Wire) now() (Weather, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.weather, w.changed
}

// Refuse ends all connections and takes no new ones, as when nobody listens at the
// target.
func (w *Wire) Refuse() { w.proxy.Stop() }

// Accept undoes Refuse.
func (w *Wire) Accept() error {
	if err := w.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("wire: %w", err)
	}
	return nil
}

// Close ends the wire and its connections.
func (w *Wire) Close() {
	w.Set(Weather{})
	w.proxy.Stop()
}

// toxic is the weather of one way through a wire, for all connections.
type toxic struct {
	wire    *Wire
	answers bool
}

// Pipe implements toxics.Toxic: it takes one way of one connection from its beginning
// to its end.
func (t *toxic) Pipe(stub *toxics.ToxicStub) {
	in, lost := stub.Input, false
	for open := true; open; {
		now, changed := t.wire.now()
		if lost && !now.Cut {
			break
		}
		select {
		case <-stub.Interrupt: // toxiproxy wants the chain to change
			return
		case <-changed:
		case c := <-in:
			if !now.Cut {
				open = c != nil && t.pass(stub, c, now)
				continue
			}
			lost = true
			t.wire.met.Add(1)
			if c == nil { // the end, of which nobody is told
				in = nil
			}
		}
	}
	stub.Close()
	for in != nil && <-in != nil { // until toxiproxy has closed the other side, too
		continue
	}
}

// pass sends a piece on when it is due; false if the connection ends in its place.
func (t *toxic) pass(stub *toxics.ToxicStub, c *stream.StreamChunk, now Weather) bool {
	if now.Reset > 0 && rand.Float64() < now.Reset {
		t.wire.met.Add(1)
		return false
	}
	if t.answers && now.Delay > 0 {
		t.wire.met.Add(1)
		due := time.NewTimer(time.Until(c.Timestamp.Add(now.Delay)))
		defer due.Stop()
		<-due.C
	}
	return stub.WriteOutput(c, outputMax) == nil
}

// GetBufferSize implements toxics.BufferedToxic: so many pieces are delayed at once.
func (*toxic) GetBufferSize() int { return 1024 }
