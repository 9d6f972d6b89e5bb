package kafka

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"parley/cell/readstate"
	"parley/internal/problem"
)

const (
	// journalPartitions is fixed: a key's entries are in order because they are in one.
	journalPartitions = 16
	// journalRecords and journalBytes bound what waits to be written; who comes above
	// them waits, too.
	journalRecords = 16 << 10
	journalBytes   = 16 << 20
	// replayBytes is how much of a partition is read at a time.
	replayBytes = 1 << 20
)

// journal is the read state's journal.
type journal struct {
	db    *DB
	topic *topic
}

var _ readstate.Journal = (*journal)(nil)

func newJournal(d *DB) *journal {
	return &journal{db: d, topic: newTopic(d, d.cfg.readStateTopic(), journalPartitions)}
}

// journalOptions are those of the client's producer, which only the journal uses:
// idempotent, in order per partition, until all that must have a record have it.
func journalOptions(c Config) []kgo.Opt {
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxBufferedRecords(journalRecords), kgo.MaxBufferedBytes(journalBytes),
		kgo.RecordDeliveryTimeout(c.AppendMax),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProduceRequestTimeout(answerMax),
	}
}

func (j *journal) partition(key []byte) int32 {
	h := fnv.New32a()
	_, _ = h.Write(key) // never fails
	return int32(h.Sum32() % journalPartitions)
}

// Append implements readstate.Journal.
func (j *journal) Append(ctx context.Context, es []readstate.Entry) error {
	if len(es) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, j.db.cfg.AppendMax)
	defer cancel()
	began := time.Now()
	err := j.append(ctx, es)
	j.db.metrics.journaled(len(es), time.Since(began), err)
	return err
}

func (j *journal) append(ctx context.Context, es []readstate.Entry) error {
	done := make(chan error, len(es)) // never blocks the client, whoever still listens
	for _, e := range es {
		if len(e.Key) == 0 {
			return problem.New(problem.Internal, "an entry of the journal has no key")
		}
		value := e.Value
		if value == nil {
			value = []byte{} // none at all would delete the key
		}
		r := &kgo.Record{Topic: j.topic.name, Partition: j.partition(e.Key), Key: e.Key, Value: value}
		j.db.client.Produce(ctx, r, func(_ *kgo.Record, err error) { done <- err })
	}
	var failed error
	for range es {
		select {
		case err := <-done:
			if err != nil && failed == nil {
				failed = err
			}
		case <-ctx.Done():
			return inDoubtEntries(ctx.Err())
		}
	}
	if failed != nil {
		return inDoubtEntries(failed)
	}
	return nil
}

func inDoubtEntries(cause error) error {
	return &problem.Error{Kind: problem.Unknown, Msg: "the journal did not answer in time and may have the entries; append them again", RetryAfter: time.Second, Cause: cause}
}

// Replay implements readstate.Journal.
func (j *journal) Replay(ctx context.Context, fn func(es []readstate.Entry) error) error {
	ends, err := j.topic.ending.get(ctx)
	if err != nil {
		return err
	}
	for p := range ends {
		if err := j.replay(ctx, int32(p), int64(ends[p]), fn); err != nil { //nolint:gosec // few; an offset
			return err
		}
	}
	return nil
}

// replay reads one partition up to an end. Compaction leaves gaps, also before it.
func (j *journal) replay(ctx context.Context, p int32, end int64, fn func(es []readstate.Entry) error) error {
	for offset := int64(0); offset < end; {
		try, cancel := context.WithTimeout(ctx, callMax)
		got, err := j.topic.fetch(try, p, offset, replayBytes)
		cancel()
		if err != nil {
			return err
		}
		if got.start > offset {
			offset = got.start
			continue
		}
		if got.next <= offset {
			return nil // nothing is left up to the end
		}
		offset = got.next
		es := make([]readstate.Entry, 0, len(got.records))
		for _, r := range got.records {
			es = append(es, readstate.Entry{Key: r.Key, Value: r.Value})
		}
		if len(es) == 0 {
			continue
		}
		if err := fn(es); err != nil {
			return err
		}
	}
	return nil
}
