//go:build engines

package redisdb

import (
	"context"
	"fmt"
	"slices"
	"sync"
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

// The marks of a round: callers at once, each of which waits for its answer.
const (
	benchUsers    = 2000
	benchChannels = 20
	benchCallers  = 4096
	benchRound    = 400_000
)

// BenchmarkMarks: callers that mark one by one, side by side, at Parley and at a
// minimal client, in turns against one server. The ratio of the medians is what the
// promises cost: a mark never goes back, is in the journal, and its generation
// still is there. Rounds: -benchtime 9x.
func BenchmarkMarks(b *testing.B) {
	cfg := Config{Addrs: testAddrs(b, "PARLEY_TEST_REDIS"), KeyPrefix: testPrefix()}
	b.Cleanup(func() { cfg.Mode = modeSingle; wipe(b, cfg) })
	d := open(b, cfg, Deps{Name: "s1", Journal: nowhere{}})
	raw := newRawMarks(b, d, cfg)
	ids := make([]topology.UserID, benchUsers)
	for i := range ids {
		ids[i] = topology.UserID(fmt.Sprintf("U01ARZ3NDEKTSV4RRFFQ6%05d", i))
	}
	chs := make([]topology.ChannelID, benchChannels)
	for i := range chs {
		chs[i] = topology.ChannelID(fmt.Sprintf("C01ARZ3NDEKTSV4RRFFQ6%05d", i))
	}
	mark := func(i int) (topology.UserID, topology.ChannelID, readstate.Mark) {
		return ids[i%benchUsers], chs[i/benchUsers%benchChannels], seqMark(i)
	}
	var at atomic.Int64
	round := func(put func(ctx context.Context, i int) error) float64 {
		return putAll(b, &at, put)
	}
	byRaw := func(ctx context.Context, i int) error {
		u, ch, m := mark(i)
		return raw.put(ctx, string(u), string(ch), m)
	}
	byParley := func(ctx context.Context, i int) error {
		u, ch, m := mark(i)
		_, err := d.ReadState().Put(ctx, user(u), ch, m)
		return err
	}
	round(byRaw) // both find all their keys made
	round(byParley)
	var raws, marks []float64
	b.ResetTimer()
	for i := range b.N {
		if i%2 == 0 {
			raws = append(raws, round(byRaw))
			marks = append(marks, round(byParley))
		} else {
			marks = append(marks, round(byParley))
			raws = append(raws, round(byRaw))
		}
	}
	slices.Sort(raws)
	slices.Sort(marks)
	b.ReportMetric(raws[b.N/2], "raw/s")
	b.ReportMetric(marks[b.N/2], "marks/s")
	b.ReportMetric(marks[b.N/2]/raws[b.N/2], "ratio")
	b.Logf("raw %.0f to %.0f, marks %.0f to %.0f per second", raws[0], raws[b.N-1], marks[0], marks[b.N-1])
}

// putAll puts a round's marks, on from at, and tells how many a second.
func putAll(b *testing.B, at *atomic.Int64, put func(context.Context, int) error) float64 {
	b.Helper()
	end := at.Load() + benchRound
	began := time.Now()
	var wg sync.WaitGroup
	for range benchCallers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(b.Context(), time.Minute) // a request's own
			defer cancel()
			for i := at.Add(1); i <= end; i = at.Add(1) {
				if err := put(ctx, int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	at.Store(end)
	return benchRound / time.Since(began).Seconds()
}

// rawMarks is a minimal client of Redis for concurrent callers: what waits goes in
// one pipeline of plain HSETs, of the bytes that Parley stores, and each caller gets the
// answer to its own. It keeps no order between processes, no journal, no generation,
// and has no bound. It has as many pipelines as Parley has lanes.
type rawMarks struct {
	client *redis.Client
	prefix string
	lanes  []*rawLane
}

type rawLane struct {
	client *redis.Client
	mu     sync.Mutex
	queue  []*rawCall
	busy   bool
}

type rawCall struct {
	key, field, value string
	done              chan error
}

func newRawMarks(b *testing.B, d *DB, cfg Config) *rawMarks {
	b.Helper()
	r := &rawMarks{client: redis.NewClient(d.access.options(cfg.Addrs[0])), prefix: "{" + cfg.KeyPrefix + ":raw}m:1:1:W"}
	for range lanesEach {
		r.lanes = append(r.lanes, &rawLane{client: r.client})
	}
	b.Cleanup(func() {
		if err := r.client.Close(); err != nil {
			b.Error(err)
		}
	})
	return r
}

func (r *rawMarks) put(ctx context.Context, user, channel string, m readstate.Mark) error {
	c := &rawCall{key: r.prefix + user, field: channel, value: encodeMark(m), done: make(chan error, 1)}
	l := r.lanes[int(user[len(user)-1])%len(r.lanes)]
	l.mu.Lock()
	l.queue = append(l.queue, c)
	if !l.busy {
		l.busy = true
		go l.run()
	}
	l.mu.Unlock()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *rawLane) run() {
	ctx := context.Background()
	for {
		l.mu.Lock()
		n := min(len(l.queue), laneAtOnce)
		if n == 0 {
			l.busy, l.queue = false, nil
			l.mu.Unlock()
			return
		}
		calls := l.queue[:n:n]
		l.queue = l.queue[n:]
		l.mu.Unlock()
		p := l.client.Pipeline()
		cmds := make([]*redis.IntCmd, n)
		for i, c := range calls {
			cmds[i] = p.HSet(ctx, c.key, c.field, c.value)
		}
		_, _ = p.Exec(ctx) // each has its error
		for i, c := range calls {
			c.done <- cmds[i].Err()
		}
	}
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
