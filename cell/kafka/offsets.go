package kafka

import (
	"context"
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// group is one consumer group of this process. Its committed offsets are positions:
// the offset to go on at is the position of the last event that was had.
type group struct {
	l       *eventLog
	name    string // as the brokers know it
	reading *flights[[]eventlog.Position]

	mu     sync.Mutex
	member *kgo.Client // nil = positions are stored without being a member
	owned  map[topology.Shard]bool
	busy   bool
	next   *commit
}

// commit is positions that go out in one request.
type commit struct {
	at   map[topology.Shard]eventlog.Position
	done chan struct{} // closed when the two below are set
	errs map[topology.Shard]error
	err  error
}

// groupNameMax bounds a group's name after the prefix.
const groupNameMax = 255

func (l *eventLog) group(name string) (*group, error) {
	if n := len(name); n == 0 || n > groupNameMax {
		return nil, problem.Field("group", "must have 1 to %d bytes, not %d", groupNameMax, n)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[name]
	if g == nil {
		g = &group{l: l, name: l.db.cfg.Prefix + "." + name}
		g.reading = newFlights(l.db, g.read)
		l.groups[name] = g
	}
	return g, nil
}

// Committed implements eventlog.Log.
func (l *eventLog) Committed(ctx context.Context, name string, p topology.Shard) (eventlog.Position, error) {
	g, err := l.group(name)
	if err != nil {
		return 0, err
	}
	if p >= topology.Shards {
		return 0, noPartition(p)
	}
	at, err := g.reading.get(ctx)
	if err != nil {
		return 0, err
	}
	return at[p], nil
}

// read is the group's positions in all partitions, in one request.
func (g *group) read(ctx context.Context) ([]eventlog.Position, error) {
	out := make([]eventlog.Position, topology.Shards)
	err := repeat(ctx, func() error {
		offsets, err := g.l.db.admin.FetchOffsets(ctx, g.name)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return err
		}
		for p := range out {
			o, ok := offsets.Lookup(g.l.topic.name, int32(p))
			if ok && o.Err != nil {
				return o.Err
			}
			if ok && o.At > 0 {
				out[p] = eventlog.Position(o.At)
			}
		}
		return nil
	})
	if err != nil {
		return nil, away(err, "does not say how far a group is")
	}
	return out, nil
}

// Commit implements eventlog.Log. What several partitions commit while a request
// is under way goes with the next.
func (l *eventLog) Commit(ctx context.Context, name string, p topology.Shard, at eventlog.Position) error {
	g, err := l.group(name)
	if err != nil {
		return err
	}
	if p >= topology.Shards {
		return noPartition(p)
	}
	c, err := g.add(p, at)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
		return errors.Join(c.err, c.errs[p])
	case <-ctx.Done():
		return away(ctx.Err(), "does not store how far a group is")
	}
}

func (g *group) add(p topology.Shard, at eventlog.Position) (*commit, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = &commit{at: map[topology.Shard]eventlog.Position{}, done: make(chan struct{}), errs: map[topology.Shard]error{}}
	}
	c := g.next
	c.at[p] = at
	if g.busy {
		return c, nil
	}
	if !g.l.db.spawn(g.run) {
		return nil, errClosed()
	}
	g.busy = true
	return c, nil
}

func (g *group) run() {
	for {
		g.mu.Lock()
		c := g.next
		g.next, g.busy = nil, c != nil
		g.mu.Unlock()
		if c == nil {
			return
		}
		ctx, cancel := context.WithTimeout(g.l.db.ctx, callMax)
		c.err = g.store(ctx, c)
		cancel()
		close(c.done)
	}
}

// store sends positions until they are stored or refused. While the group shares
// its partitions out anew, brokers ask to wait, or to come with the new generation.
func (g *group) store(ctx context.Context, c *commit) error {
	for n := 0; ; n++ {
		err := g.storeOnce(ctx, c)
		again := kerr.IsRetriable(err) || errors.Is(err, kerr.RebalanceInProgress) || errors.Is(err, kerr.IllegalGeneration)
		if err == nil || !again || n >= tries || !pause(ctx, backoff(n)) {
			return g.kindOf(err)
		}
	}
}

func (g *group) storeOnce(ctx context.Context, c *commit) error {
	_, id, err := g.l.topic.leader(ctx, 0)
	if err != nil {
		return err
	}
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = g.l.topic.name, id
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = g.name, -1
	g.mu.Lock()
	if g.member != nil {
		req.MemberID, req.Generation = g.member.GroupMetadata()
	}
	for p, at := range c.at {
		// A member speaks for what it has now: another generation may have begun.
		if g.member != nil && !g.owned[p] {
			c.errs[p] = notOurs(nil)
			continue
		}
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset = int32(p), int64(at) //nolint:gosec // an offset
		rt.Partitions = append(rt.Partitions, rp)
	}
	g.mu.Unlock()
	if len(rt.Partitions) == 0 {
		return nil
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, g.l.db.client)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

func notOurs(cause error) error {
	return problem.Wrap(cause, problem.Fenced, "the partition is another worker's now")
}

// kindOf turns an error of a commit into one for a worker.
func (g *group) kindOf(err error) error {
	var p *problem.Error
	switch {
	case err == nil, errors.As(err, &p):
		return err
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.FencedInstanceID):
		return notOurs(err)
	default:
		return away(err, "does not store how far a group is")
	}
}

// End implements eventlog.Log.
func (l *eventLog) End(ctx context.Context, p topology.Shard) (eventlog.Position, error) {
	if p >= topology.Shards {
		return 0, noPartition(p)
	}
	ends, err := l.Ends(ctx)
	if err != nil {
		return 0, err
	}
	return ends[p], nil
}

// Ends are the positions of the newest events of all partitions, in one request
// per broker.
func (l *eventLog) Ends(ctx context.Context) ([]eventlog.Position, error) {
	return l.topic.ending.get(ctx)
}
