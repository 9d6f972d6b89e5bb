package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"parley/cell/eventlog"
	"parley/internal/problem"
)

// topic is one of our topics: who leads its partitions, and what is in them.
type topic struct {
	db         *DB
	name       string
	partitions int
	loading    *flights[*leaders]
	ending     *flights[[]eventlog.Position]

	mu       sync.Mutex
	known    *leaders            // nil = look again
	shippers map[int32]*shipper  // by broker
	brokers  []int32             // the brokers that there are
	silent   map[int32]time.Time // since when one of them did not say who leads
}

// leaders is who led the partitions at some time; -1 = nobody.
type leaders struct {
	id [16]byte
	of []int32
}

func newTopic(db *DB, name string, partitions int) *topic {
	t := &topic{db: db, name: name, partitions: partitions, shippers: map[int32]*shipper{}, silent: map[int32]time.Time{}}
	t.loading = newFlights(db, t.load)
	t.ending = newFlights(db, t.listEnds)
	return t
}

// leader is the broker that leads a partition, and the topic's id.
func (t *topic) leader(ctx context.Context, p int32) (int32, [16]byte, error) {
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	if known == nil {
		var err error
		if known, err = t.loading.get(ctx); err != nil {
			return -1, [16]byte{}, err
		}
	}
	if known.of[p] < 0 {
		t.forget(known)
		return -1, known.id, away(kerr.LeaderNotAvailable, "has no leader for a partition")
	}
	return known.of[p], known.id, nil
}

// forget drops what turned out to be old. What nobody named may have been learned
// meanwhile, so it costs at most one request.
func (t *topic) forget(old *leaders) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old == nil || t.known == old {
		t.known = nil
	}
}

func (t *topic) load(ctx context.Context) (*leaders, error) {
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = new(t.name)
	req.Topics = append(req.Topics, rt)
	resp, err := t.metadata(ctx, req)
	if err != nil {
		return nil, away(err, "does not answer")
	}
	if len(resp.Topics) != 1 {
		return nil, away(kerr.UnknownTopicOrPartition, "does not know the topic "+t.name)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return nil, away(err, "does not give the topic "+t.name)
	}
	l := &leaders{id: resp.Topics[0].TopicID, of: make([]int32, t.partitions)}
	for p := range l.of {
		l.of[p] = -1
	}
	for _, p := range resp.Topics[0].Partitions {
		if int(p.Partition) < len(l.of) {
			l.of[p.Partition] = p.Leader
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = l
	return l, nil
}

// listEnds gives the positions of the newest records of all partitions.
func (t *topic) listEnds(ctx context.Context) ([]eventlog.Position, error) {
	out := make([]eventlog.Position, t.partitions)
	err := repeat(ctx, func() error {
		listed, err := t.db.admin.ListEndOffsets(ctx, t.name)
		if err != nil {
			return err
		}
		for p := range out {
			o, ok := listed.Lookup(t.name, int32(p))
			if !ok {
				return kerr.UnknownTopicOrPartition
			}
			if o.Err != nil {
				return o.Err
			}
			out[p] = eventlog.Position(max(o.Offset, 0))
		}
		return nil
	})
	if err != nil {
		return nil, away(err, "does not say where its partitions end")
	}
	return out, nil
}

// page is what a fetch found.
type page struct {
	records []*kgo.Record
	next    int64 // the offset to go on at
	start   int64 // of the oldest record, if the fetch was below it
}

// fetch reads a partition from an offset on: about as many bytes as named, at least
// one batch if there is one. It tries until ctx ends.
func (t *topic) fetch(ctx context.Context, p int32, offset int64, bytes int32) (page, error) {
	for n := 0; ; n++ {
		got, err := t.fetchOnce(ctx, p, offset, bytes)
		if err == nil || problem.Is(err, problem.Internal) {
			return got, err
		}
		if n >= tries || !pause(ctx, backoff(n)) {
			return got, err
		}
	}
}

func (t *topic) fetchOnce(ctx context.Context, p int32, offset int64, bytes int32) (page, error) {
	broker, id, err := t.leader(ctx, p)
	if err != nil {
		return page{}, err
	}
	try, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	try, done := t.led(try, p, broker)
	defer done()
	resp, err := fetchRequest(t.name, id, p, offset, bytes).RequestWith(try, t.db.client.Broker(int(broker)))
	if err != nil {
		t.forget(nil)
		return page{}, away(err, "does not answer")
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		t.forget(nil)
		return page{}, away(err, "can't be read")
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return page{}, away(kerr.UnknownServerError, "answers with other partitions than asked for")
	}
	rp := &resp.Topics[0].Partitions[0]
	switch err := kerr.ErrorForCode(rp.ErrorCode); {
	case errors.Is(err, kerr.OffsetOutOfRange):
		return t.outOfRange(ctx, p, offset)
	case err != nil:
		t.forget(nil)
		return page{}, away(err, "can't be read")
	}
	opts := kgo.ProcessFetchPartitionOpts{Offset: offset, Topic: t.name, Partition: p}
	found, next := kgo.ProcessFetchPartition(opts, rp, t.db.unsqueeze, nil)
	if found.Err != nil && len(found.Records) == 0 {
		return page{}, problem.Wrap(found.Err, problem.Internal, "a batch in the topic %s at offset %d can't be read", t.name, offset)
	}
	return page{records: found.Records, next: next}, nil
}

// outOfRange tells an offset below the oldest record, whose retention is over,
// from one above the newest.
func (t *topic) outOfRange(ctx context.Context, p int32, offset int64) (page, error) {
	starts, err := t.db.admin.ListStartOffsets(ctx, t.name)
	if err != nil {
		return page{}, away(err, "does not answer")
	}
	o, ok := starts.Lookup(t.name, p)
	if !ok || o.Err != nil {
		return page{}, away(o.Err, "does not say where a partition begins")
	}
	return page{next: offset, start: max(o.Offset, 0)}, nil
}

func fetchRequest(name string, id [16]byte, p int32, offset int64, bytes int32) *kmsg.FetchRequest {
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = p, offset, bytes
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID, rt.Partitions = name, id, []kmsg.FetchRequestTopicPartition{part}
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.SessionEpoch = bytes, -1 // no session: one partition, now and then
	req.Topics = append(req.Topics, rt)
	return req
}
