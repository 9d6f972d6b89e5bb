package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Counts is what came back.
type Counts struct {
	Posts     int64 `json:"posts"`     // finished: acked and delivered everywhere
	Delivered int64 `json:"delivered"` // message events read
	Refused   int64 `json:"refused"`   // posts answered with an error
	Lost      int64 `json:"lost"`      // revs that a socket never had, and posts that never finished
	Doubled   int64 `json:"doubled"`
	Disorder  int64 `json:"disorder"`
	Broken    int64 `json:"broken"` // sockets that the server closed
}

func (c Counts) minus(o Counts) Counts {
	return Counts{
		c.Posts - o.Posts, c.Delivered - o.Delivered, c.Refused - o.Refused, c.Lost - o.Lost,
		c.Doubled - o.Doubled, c.Disorder - o.Disorder, c.Broken - o.Broken,
	}
}

// Faults is how much of what must be 0 is not.
func (c Counts) Faults() int64 { return c.Refused + c.Lost + c.Doubled + c.Disorder + c.Broken }

// Latency is the essence of a histogram.
type Latency struct {
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
}

// Result is one run's.
type Result struct {
	Took           time.Duration `json:"took_ns"`
	PostsPerS      float64       `json:"posts_per_s"`
	DeliveriesPerS float64       `json:"deliveries_per_s"`
	Ack            Latency       `json:"ack"`      // from post to ack
	Delivery       Latency       `json:"delivery"` // from post to each socket's copy
	ClientCPU      time.Duration `json:"client_cpu_ns"`
	Counts
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 3)
}

func (l *Load) forget() { l.ack, l.delivery = newHistogram(), newHistogram() }

func record(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/1000, 1), latencyMax.Microseconds())) // within its range by now
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	us := func(v int64) time.Duration { return time.Duration(v) * time.Microsecond }
	return Latency{P50: us(h.ValueAtPercentile(50)), P99: us(h.ValueAtPercentile(99)), Max: us(h.Max())}
}

// selfCPU is the CPU time of this process, which is the generator's alone: the
// servers are processes of their own.
func selfCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Counts is all that came back so far.
func (l *Load) Counts() Counts { return l.sum }
