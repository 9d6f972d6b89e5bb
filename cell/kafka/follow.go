package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// windowMax is how many of a partition's newest events are kept in memory: some
	// 60 KB. Workers that keep up are served from there, all groups alike.
	windowMax = 512
	// Fetches of the follower: all partitions of a broker in one, which waits for
	// news; and what one partition may add to it.
	followBytes     = 4 << 20
	followPartBytes = 256 << 10
	followWait      = 500 * time.Millisecond
	// unusedMax is after how long without a reader a partition is followed no more.
	unusedMax  = 2 * time.Minute
	sweepEvery = 30 * time.Second
)

// follower fetches what is new in the partitions that somebody waits for: one
// stream per broker for all partitions and all groups. Who reads older events
// fetches them himself, so that nobody waits for a slow one, and nothing piles up.
type follower struct {
	l       *eventLog
	windows [topology.Shards]window
	joining *flights[struct{}]

	mu     sync.Mutex
	client *kgo.Client // nil before the first partition is followed
	wanted map[topology.Shard]bool
}

// window is a partition's newest events: those at positions from+1 and so on.
type window struct {
	mu       sync.Mutex
	followed bool
	from     eventlog.Position
	events   []eventlog.Event
	grown    chan struct{} // closed when there are more; nil while nobody waits
	waiting  int
	used     time.Time
}

func newFollower(l *eventLog) *follower {
	f := &follower{l: l, wanted: map[topology.Shard]bool{}}
	f.joining = newFlights(l.db, f.join)
	return f
}

func (w *window) end() eventlog.Position { return w.from + eventlog.Position(len(w.events)) }

// Wait implements eventlog.Log.
func (l *eventLog) Wait(ctx context.Context, p topology.Shard, after eventlog.Position) error {
	if p >= topology.Shards {
		return noPartition(p)
	}
	w := &l.follower.windows[p]
	for {
		grown, there := w.await(after)
		if there {
			return nil
		}
		if grown == nil {
			if err := l.follower.follow(ctx, p); err != nil {
				return err
			}
			continue
		}
		select {
		case <-grown:
			w.left()
		case <-ctx.Done():
			w.left()
			return problem.Wrap(ctx.Err(), problem.Unavailable, "no event came")
		case <-l.db.ctx.Done():
			w.left()
			return errClosed()
		}
	}
}

// await reports whether there are events after a position, or what tells of new
// ones: nil if the partition is not followed. Who waits on it calls left then.
func (w *window) await(after eventlog.Position) (grown <-chan struct{}, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used = time.Now()
	if !w.followed {
		return nil, false
	}
	if w.end() > after {
		return nil, true
	}
	if w.grown == nil {
		w.grown = make(chan struct{})
	}
	w.waiting++
	return w.grown, false
}

func (w *window) left() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting--
	w.used = time.Now()
}

// read gives events from memory, if those after the position are there.
func (w *window) read(after eventlog.Position, limit int) ([]eventlog.Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used = time.Now()
	if !w.followed || after < w.from || after >= w.end() {
		return nil, false
	}
	rest := w.events[after-w.from:]
	return append([]eventlog.Event(nil), rest[:min(limit, len(rest))]...), true
}

// add puts fetched events in. A gap is what retention took: the window begins anew.
func (w *window) add(at eventlog.Position, es []eventlog.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.followed || len(es) == 0 {
		return
	}
	if at < w.end() { // fetched again after a fault
		n := min(int(w.end()-at), len(es))       //nolint:gosec // small
		at, es = at+eventlog.Position(n), es[n:] //nolint:gosec // not negative
	}
	if at != w.end() {
		w.from, w.events = at, nil
	}
	w.events = append(w.events, es...)
	if n := len(w.events) - windowMax; n > 0 {
		w.from += eventlog.Position(n)
		w.events = append([]eventlog.Event(nil), w.events[n:]...)
	}
	if w.grown != nil && len(es) > 0 {
		close(w.grown)
		w.grown = nil
	}
}

// begin makes the window follow from a position on.
func (w *window) begin(at eventlog.Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.followed, w.from, w.events, w.used = true, at, nil, time.Now()
}

// unused ends the window if nobody has used it for long.
func (w *window) unused(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.followed || w.waiting > 0 || now.Sub(w.used) < unusedMax {
		return false
	}
	w.followed, w.events = false, nil
	return true
}

func (w *window) isFollowed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.followed
}

// follow begins to follow a partition. Those that are wanted at the same time
// begin together: each change stops the stream for a moment.
func (f *follower) follow(ctx context.Context, p topology.Shard) error {
	f.mu.Lock()
	f.wanted[p] = true
	f.mu.Unlock()
	_, err := f.joining.get(ctx)
	return err
}

// join follows what is wanted from its end on. What is there already is read by
// who lacks it.
func (f *follower) join(ctx context.Context) (none struct{}, err error) {
	f.mu.Lock()
	wanted := f.wanted
	f.wanted = map[topology.Shard]bool{}
	f.mu.Unlock()
	ends, err := f.l.Ends(ctx)
	if err != nil {
		return none, err
	}
	if err := f.start(); err != nil {
		return none, err
	}
	add := map[int32]kgo.Offset{}
	for p := range wanted {
		if w := &f.windows[p]; !w.isFollowed() {
			w.begin(ends[p])
			add[int32(p)] = kgo.NewOffset().At(int64(ends[p])) //nolint:gosec // an offset
		}
	}
	if len(add) > 0 {
		f.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{f.l.topic.name: add})
	}
	return none, nil
}

// start makes the client and its loop, once. Only join calls it.
func (f *follower) start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.client != nil {
		return nil
	}
	opts, err := f.l.db.cfg.options(f.l.db.log)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.FetchMaxWait(followWait), kgo.FetchMaxBytes(followBytes), kgo.FetchMaxPartitionBytes(followPartBytes),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)...)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "the event log's client can't be made")
	}
	if !f.l.db.spawn(func() { f.run(client) }) {
		client.Close()
		return errClosed()
	}
	f.client = client
	return nil
}

// run puts what is fetched into the windows until the database closes.
func (f *follower) run(client *kgo.Client) {
	defer client.Close()
	swept := time.Now()
	for f.l.db.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(f.l.db.ctx, sweepEvery)
		fetches := client.PollFetches(ctx)
		cancel()
		fetches.EachError(func(_ string, p int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && f.l.db.ctx.Err() == nil {
				f.l.db.log.Warn("a partition can't be followed; trying again", "shard", p, "err", err)
			}
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) > 0 && p.Partition >= 0 && p.Partition < topology.Shards {
				f.windows[p.Partition].add(eventlog.Position(p.Records[0].Offset), f.l.decode(p.Records)) //nolint:gosec // an offset
			}
		})
		if now := time.Now(); now.Sub(swept) >= sweepEvery {
			f.sweep(client, now)
			swept = now
		}
	}
}

// sweep ends what nobody reads any more: partitions that went to other processes.
func (f *follower) sweep(client *kgo.Client, now time.Time) {
	var gone []int32
	for p := range f.windows {
		if f.windows[p].unused(now) {
			gone = append(gone, int32(p))
		}
	}
	if len(gone) > 0 {
		client.RemoveConsumePartitions(map[string][]int32{f.l.topic.name: gone})
	}
}
