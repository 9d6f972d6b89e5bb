package kafka

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// producerID names a writer of one partition to its brokers: they take each of its
// batches once, in the order of their sequence, and none of an older epoch.
type producerID struct {
	id    int64
	epoch int16
}

// lane is the writer of one partition. Invariants:
//
//  1. One batch is under way at a time, and is repeated with the same bytes: brokers
//     know a repeat by its sequence.
//  2. What was given up with its outcome unknown is never followed by another batch
//     under the same epoch: should it still arrive, then before the next one, or it
//     is refused. So the partition never holds an older append above a newer one of
//     this process.
//
// The client library's own producer can't do that: it cuts batches where it likes,
// so that an append may be half there, and keeps to itself what a timeout left open.
type lane struct {
	events *eventLog
	shard  topology.Shard
	turn   chan struct{} // capacity 1: full while a batch is under way

	producer producerID // epoch -1: needs another
	sequence int32      // of the next event
}

func newLane(l *eventLog, p topology.Shard) *lane {
	return &lane{events: l, shard: p, turn: make(chan struct{}, 1), producer: producerID{id: -1, epoch: -1}}
}

// Append implements eventlog.Log.
func (l *eventLog) Append(ctx context.Context, p topology.Shard, events []eventlog.Event) error {
	if p >= topology.Shards {
		return noPartition(p)
	}
	if len(events) == 0 {
		return nil
	}
	if err := checkEvents(events); err != nil {
		return err
	}
	b, err := newBatch(events, l.db.squeeze, time.Now())
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, l.db.cfg.AppendMax)
	defer cancel()
	err = l.lanes[p].append(ctx, b)
	l.db.metrics.appended(len(events), time.Since(began), err)
	return err
}

func (ln *lane) append(ctx context.Context, b batch) error {
	select {
	case ln.turn <- struct{}{}:
		defer func() { <-ln.turn }()
	case <-ctx.Done():
		return away(ctx.Err(), "is not done with what was appended before")
	}
	doubt := false
	for n := 0; ; n++ {
		o, err := ln.try(ctx, b)
		switch o {
		case stored:
			ln.sequence = (ln.sequence + int32(b.count)) & math.MaxInt32 //nolint:gosec // it wraps as brokers expect
			return nil
		case hopeless:
			return err
		case inDoubt:
			doubt = true
		case notStored:
		}
		if pause(ctx, backoff(n)) {
			continue
		}
		if !doubt {
			return away(err, "takes no events")
		}
		ln.renew()
		return &problem.Error{Kind: problem.Unknown, Msg: "the event log did not answer in time and may have the events; append them again", RetryAfter: time.Second, Cause: err}
	}
}

// outcome is what one try to write a batch led to.
type outcome int

const (
	stored outcome = iota
	notStored
	inDoubt  // it may be stored, or may come to be
	hopeless // another try would end alike
)

func (ln *lane) try(ctx context.Context, b batch) (outcome, error) {
	t := ln.events.topic
	if err := ln.sign(ctx); err != nil {
		return notStored, err
	}
	broker, id, err := t.leader(ctx, int32(ln.shard))
	if err != nil {
		return notStored, err
	}
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = int32(ln.shard), b.encode(ln.producer, ln.sequence)
	ctx, done := t.led(ctx, int32(ln.shard), broker)
	defer done()
	sent, err := t.shipper(broker).ship(ctx, id, part)
	if sent && errors.As(err, new(*kerr.Error)) || err == nil {
		return ln.judge(err)
	}
	t.forget(nil)
	if !sent {
		return notStored, err
	}
	return inDoubt, err
}

// judge tells what a broker's answer says of a batch.
func (ln *lane) judge(err error) (outcome, error) {
	is := func(errs ...*kerr.Error) bool {
		for _, e := range errs {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil, is(kerr.DuplicateSequenceNumber):
		return stored, nil
	case stale(err), is(kerr.NotEnoughReplicas, kerr.CorruptMessage, kerr.ThrottlingQuotaExceeded):
		ln.events.topic.forget(nil)
		return notStored, err
	case is(kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID):
		// The partition's brokers have forgotten this writer, after a day of silence
		// or with events that nobody promised to keep.
		ln.renew()
		return notStored, err
	case is(kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping):
		ln.producer.epoch = -1
		return notStored, err
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge):
		return hopeless, problem.Wrap(err, problem.TooLarge, "the events are more than the topic %s takes at once: raise its max.message.bytes", ln.events.topic.name)
	case kerr.IsRetriable(err):
		return inDoubt, err
	default:
		return hopeless, refused(err, "events")
	}
}

// renew begins the next epoch, so that nothing sent before can follow what is sent
// from now on.
func (ln *lane) renew() {
	ln.sequence = 0
	if ln.producer.epoch < 0 || ln.producer.epoch == math.MaxInt16 {
		ln.producer.epoch = -1
		return
	}
	ln.producer.epoch++
}

// sign makes sure that the lane has an id: that of this process, unless the lane
// had it and can't use it any more.
func (ln *lane) sign(ctx context.Context) error {
	if ln.producer.epoch >= 0 {
		return nil
	}
	l := ln.events
	l.mu.Lock()
	own := l.producer
	l.mu.Unlock()
	if own == nil || own.id == ln.producer.id {
		var err error
		if own, err = l.signing.get(ctx); err != nil {
			return err
		}
	}
	ln.producer, ln.sequence = *own, 0
	return nil
}

// newProducer asks for an id that nobody had.
func (l *eventLog) newProducer(ctx context.Context) (*producerID, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(ctx, l.db.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, away(err, "gives no producer id")
	}
	p := &producerID{id: resp.ProducerID, epoch: resp.ProducerEpoch}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.producer = p
	return p, nil
}
