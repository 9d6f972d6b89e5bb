//go:build engines

package redisdb

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/readstate"
	"parley/cell/router"
	"parley/internal/topology"
)

// nowhere is a journal that costs nothing: the engine's share is measured.
type nowhere struct{}

func (nowhere) Append(context.Context, []readstate.Entry) error                { return nil }
func (nowhere) Replay(context.Context, func(es []readstate.Entry) error) error { return nil }

// BenchmarkMarks: what callers get who mark one by one, side by side, beside a
// pipeline that writes the same marks to hashes as fast as it can.
func BenchmarkMarks(b *testing.B) {
	const users, channels, callers = 2000, 20, 4096
	cfg := Config{Addrs: testAddrs(b, "PARLEY_TEST_REDIS"), KeyPrefix: testPrefix()}
	b.Cleanup(func() { cfg.Mode = modeSingle; wipe(b, cfg) })
	d := open(b, cfg, Deps{Name: "s1", Journal: nowhere{}})
	ids := make([]topology.UserID, users)
	for i := range ids {
		ids[i] = topology.UserID(fmt.Sprintf("U01ARZ3NDEKTSV4RRFFQ6%05d", i))
	}
	chs := make([]topology.ChannelID, channels)
	for i := range chs {
		chs[i] = topology.ChannelID(fmt.Sprintf("C01ARZ3NDEKTSV4RRFFQ6%05d", i))
	}
	b.Run("raw", func(b *testing.B) {
		ctx := b.Context()
		c := redis.NewClient(d.access.options(cfg.Addrs[0]))
		defer c.Close() //nolint:errcheck // the test has its answer
		for at := 0; at < b.N; at += laneAtOnce {
			p := c.Pipeline()
			for i := at; i < min(at+laneAtOnce, b.N); i++ {
				p.HSet(ctx, "{"+cfg.KeyPrefix+":raw}"+string(ids[i%users]), string(chs[i/users%channels]), encodeMark(seqMark(i)))
			}
			if _, err := p.Exec(ctx); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "marks/s")
	})
	b.Run("marks", func(b *testing.B) {
		var n atomic.Int64
		b.SetParallelism(callers / 2)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				i := int(n.Add(1))
				if _, err := d.ReadState().Put(context.Background(), user(ids[i%users]), chs[i/users%channels], seqMark(i)); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "marks/s")
	})
}

// BenchmarkBus_Publish: from Publish to the receiver, over the server.
func BenchmarkBus_Publish(b *testing.B) {
	d := open(b, Config{Addrs: testAddrs(b, "PARLEY_TEST_REDIS"), KeyPrefix: testPrefix()}, Deps{})
	var e counter
	a := d.Bus().Attach(&e)
	defer a.Close()
	a.Follow("channel:1")
	payload := make([]byte, 300)
	for i := range b.N {
		d.Bus().Publish("channel:1", payload)
		for int64(i)-e.n.Load() > 4096 { // let it come
			pause(b.Context(), 100*time.Microsecond)
		}
	}
	eventually(b, 10*time.Second, "all", func() bool { return e.n.Load() >= int64(b.N) })
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

type counter struct{ n atomic.Int64 }

func (c *counter) Deliver(ms []router.Message) { c.n.Add(int64(len(ms))) }
func (c *counter) Lost()                       {}
