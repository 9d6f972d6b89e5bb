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
