package channel_test

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"parley/cell/channel"
)

// BenchmarkPost is 256 writers on 1,000 channels, followed by nobody.
func BenchmarkPost(b *testing.B) {
	c := newCell(b)
	c.start("cs-1")
	refs := c.channels(1000)
	text := strings.Repeat("x", 300)
	var n atomic.Int64
	b.SetParallelism(128)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			_, err := c.cluster.Post(context.Background(), channel.Post{Channel: refs[i%1000], Author: "U1", Text: text, Key: strconv.FormatInt(i, 10)})
			if err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkImport is one channel's import in batches of 2,000, derived at the end.
func BenchmarkImport(b *testing.B) {
	c := newCell(b)
	c.start("cs-1")
	ref := c.importing(1)
	b.ResetTimer()
	for at := 0; at < b.N; at += 2000 {
		n := min(2000, b.N-at)
		if _, err := c.cluster.Import(c.ctx(), channel.Import{Channel: ref, From: uint64(at), Messages: old(c, at, n)}); err != nil {
			b.Fatal(err)
		}
	}
	c.derived(ref)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
