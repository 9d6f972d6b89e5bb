package kafka

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// eventLog is the event log: partition p of the topic is shard p, and an event's
// position is its offset plus one.
type eventLog struct {
	db       *DB
	topic    *topic
	lanes    [topology.Shards]*lane
	follower *follower

	signing *flights[*producerID]

	mu       sync.Mutex
	groups   map[string]*group
	producer *producerID // this process's, for all lanes; nil = none yet
}

var (
	_ eventlog.Log      = (*eventLog)(nil)
	_ eventlog.Assigner = (*eventLog)(nil)
)

func newEventLog(db *DB) *eventLog {
	l := &eventLog{db: db, topic: newTopic(db, db.cfg.changesTopic(), topology.Shards), groups: map[string]*group{}}
	for p := range l.lanes {
		l.lanes[p] = newLane(l, topology.Shard(p))
	}
	l.follower = newFollower(l)
	l.signing = newFlights(db, l.newProducer)
	return l
}

func noPartition(p topology.Shard) error {
	return problem.New(problem.Internal, "there is no partition %d", p)
}

const (
	// A fetch asks for eventBytes an event: a batch of a tailer comes whole anyway.
	eventBytes    = 96
	fetchBytesMin = 16 << 10
	fetchBytesMax = 1 << 20
)

// Read implements eventlog.Log.
func (l *eventLog) Read(ctx context.Context, p topology.Shard, after eventlog.Position, limit int) ([]eventlog.Event, eventlog.Position, error) {
	if p >= topology.Shards {
		return nil, after, noPartition(p)
	}
	if limit <= 0 {
		return nil, after, nil
	}
	if es, ok := l.follower.windows[p].read(after, limit); ok {
		return es, after + eventlog.Position(len(es)), nil
	}
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	var out []eventlog.Event
	last := after
	for len(out) < limit {
		bytes := min(max(fetchBytesMin, eventBytes*(limit-len(out))), fetchBytesMax)
		got, err := l.topic.fetch(ctx, int32(p), int64(last), int32(bytes)) //nolint:gosec // an offset
		if err != nil {
			return nil, after, err
		}
		if got.start > int64(last) { //nolint:gosec // an offset
			last = eventlog.Position(got.start) //nolint:gosec // an offset
			continue
		}
		rs := got.records[:min(len(got.records), limit-len(out))]
		if len(rs) == 0 {
			break
		}
		out = append(out, l.decode(rs)...)
		last = eventlog.Position(rs[len(rs)-1].Offset + 1) //nolint:gosec // an offset
	}
	if len(out) == 0 {
		return nil, after, nil
	}
	return out, last, nil
}

func (l *eventLog) decode(records []*kgo.Record) []eventlog.Event {
	es := make([]eventlog.Event, len(records))
	for i, r := range records {
		e, ok := decode(r.Key, r.Value)
		if !ok {
			l.db.metrics.foreign.Inc()
			l.db.log.Warn("a record in the event log is no event and is passed by", "shard", r.Partition, "offset", r.Offset)
		}
		es[i] = e
	}
	return es
}
