package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// shipBytesMax bounds one request: some hundred tailers' rounds.
const shipBytesMax = 8 << 20

// shipper sends batches of many partitions to one broker. A broker looks at a
// connection's next request only when it has answered the last, and it answers when
// the other replicas have the batches: so what comes while a request is under way
// goes with the next, all together.
type shipper struct {
	t      *topic
	broker *kgo.Broker

	mu    sync.Mutex
	busy  bool
	queue []*parcel
}

// parcel is one partition's batch.
type parcel struct {
	part  kmsg.ProduceRequestTopicPartition
	id    [16]byte // the topic's
	taken bool     // it goes with the request under way; under the shipper's lock
	done  chan struct{}
	sent  bool // the two below are what came of it, set when done is closed
	err   error
}

func (t *topic) shipper(broker int32) *shipper {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shippers[broker]
	if s == nil {
		s = &shipper{t: t, broker: t.db.client.Broker(int(broker))}
		t.shippers[broker] = s
	}
	return s
}

// ship has a batch sent. sent is false if it surely did not leave.
func (s *shipper) ship(ctx context.Context, id [16]byte, part kmsg.ProduceRequestTopicPartition) (sent bool, err error) {
	p := &parcel{part: part, id: id, done: make(chan struct{})}
	s.mu.Lock()
	if !s.busy {
		if !s.t.db.spawn(s.run) {
			s.mu.Unlock()
			return false, errClosed()
		}
		s.busy = true
	}
	s.queue = append(s.queue, p)
	s.mu.Unlock()
	select {
	case <-p.done:
		return p.sent, p.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.queue {
		if s.queue[i] == p {
			s.queue = append(s.queue[:i:i], s.queue[i+1:]...)
			break
		}
	}
	return p.taken, ctx.Err()
}

// run sends for as long as something waits.
func (s *shipper) run() {
	for {
		load := s.next()
		if load == nil {
			return
		}
		codes, sent, err := s.send(load)
		for _, p := range load {
			p.sent, p.err = sent, err
			if code, ok := codes[p.part.Partition]; ok {
				p.err = kerr.ErrorForCode(code)
			} else if err == nil {
				p.err = kerr.UnknownServerError // left out of the answer
			}
			close(p.done)
		}
	}
}

// next takes what goes with the next request, nil if nothing waits.
func (s *shipper) next() (load []*parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := 0
	for len(s.queue) > 0 && (bytes == 0 || bytes+len(s.queue[0].part.Records) <= shipBytesMax) {
		p := s.queue[0]
		p.taken = true
		bytes += len(p.part.Records)
		load, s.queue = append(load, p), s.queue[1:]
	}
	s.busy = load != nil
	return load
}

func (s *shipper) send(load []*parcel) (codes map[int32]int16, sent bool, err error) {
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = s.t.name, load[len(load)-1].id
	for _, p := range load {
		rt.Partitions = append(rt.Partitions, p.part)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis, req.Topics = -1, int32(answerMax/time.Millisecond), []kmsg.ProduceRequestTopic{rt}
	ctx, cancel := context.WithTimeout(s.t.db.ctx, answerMax)
	defer cancel()
	resp, err := req.RequestWith(ctx, s.broker)
	if err != nil {
		return nil, !neverSent(err), err
	}
	codes = map[int32]int16{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			codes[p.Partition] = p.ErrorCode
		}
	}
	if len(codes) == 0 {
		return nil, true, errors.New("the answer names no partition")
	}
	return codes, true, nil
}
