package channelnet_test

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"parley/cell/channel"
)

// BenchmarkPost is 256 writers on 1,000 channels, as cell/channel's, in the owner's
// process and from another one. Both ends are in this one process: cpu-µs/post is what
// both take together.
func BenchmarkPost(b *testing.B) {
	for _, where := range []string{"local", "remote"} {
		b.Run(where, func(b *testing.B) {
			c := newCell(b)
			p := c.start("a", "cs-a")
			if where == "remote" {
				p = c.start("c")
			}
			refs := p.channels(1000)
			text := strings.Repeat("x", 300)
			var n atomic.Int64
			b.SetParallelism(128)
			b.ReportAllocs()
			before := cpu(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := n.Add(1)
					_, err := p.cluster.Post(context.Background(), channel.Post{
						Channel: refs[i%1000], Author: "U1", Text: text, Key: strconv.FormatInt(i, 10),
					})
					if err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "posts/s")
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/post")
		})
	}
}

// cpu is what this process has taken so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
