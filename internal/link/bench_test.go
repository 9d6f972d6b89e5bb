package link_test

import (
	"sync/atomic"
	"testing"

	"parley/internal/link"
	"parley/internal/wire/frame"
)

// counter is a Handler that counts.
type counter struct {
	want  int64
	n     atomic.Int64
	ended chan struct{}
}

func (c *counter) Frames(_ *link.Conn, _ int, fs []frame.Frame) {
	if n := c.n.Add(int64(len(fs))); n >= c.want && n-int64(len(fs)) < c.want {
		close(c.ended)
	}
}

func (*counter) Closed(*link.Conn, error) {}

// Frames of 300 bytes one way, flushed every 64: what a busy turn looks like.
func BenchmarkLinkFrames(b *testing.B) {
	w := newWorld(b)
	count := &counter{ended: make(chan struct{})}
	s := w.serve(b, serverOptions{handler: count})
	c := w.mustDial(b, s.Addr(), newRecorder())
	var f frame.Frame = frame.GroupFrame{Group: 5, From: 9, To: 9, Payload: make([]byte, 300)}
	count.want = int64(b.N)
	b.ReportAllocs()
	b.SetBytes(300)
	b.ResetTimer()
	for i := range b.N {
		for int64(i)-count.n.Load() > 16_000 { // keep below LaneBytesMax
			c.Flush()
		}
		if err := c.Send(1+i%frame.Lanes, f); err != nil {
			b.Fatal(err)
		}
		if i%64 == 63 {
			c.Flush()
		}
	}
	c.Flush()
	<-count.ended
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}
