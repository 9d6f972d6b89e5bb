package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/oklog/ulid/v2"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// ackMax bounds the wait for one answer on one socket: the edge holds a post for
// 10 s. Afterwards it is repeated under the same key.
const ackMax = 12 * time.Second

// waitersMax bounds the posts of a stream that wait for their answers.
const waitersMax = 1024

// answer is what a socket said about a frame that carried an id.
type answer struct {
	posted chat.Posted
	err    error
}

// Post posts over the stream's socket, and again under the same key over the next
// ones until the outcome is known, or ctx ends: then kind Unknown if it may have
// been done, Unavailable if it was not. A message without a client_msg_id gets one.
func (s *Stream) Post(ctx context.Context, ch topology.ChannelID, p chat.PostRequest) (chat.Posted, error) {
	if p.ClientMsgID == "" {
		p.ClientMsgID = ulid.Make().String()
	}
	unknown := false
	for try := 0; ; try++ {
		posted, err := s.postOnce(ctx, ch, p)
		if err == nil {
			return posted, nil
		}
		unknown = unknown || problem.Is(err, problem.Unknown)
		if again(err, true) && ctx.Err() == nil && pause(ctx, backoff(try)) == nil {
			continue
		}
		if unknown && !problem.Is(err, problem.Conflict) {
			return chat.Posted{}, problem.Wrap(err, problem.Unknown, "the message may have been posted; repeat it with the same key")
		}
		return chat.Posted{}, err
	}
}

// postOnce sends a post on the present socket, waiting for one, and waits for
// the answer.
func (s *Stream) postOnce(ctx context.Context, ch topology.ChannelID, p chat.PostRequest) (chat.Posted, error) {
	if err := s.connected(ctx); err != nil {
		return chat.Posted{}, err
	}
	id := ulid.Make().String()
	wait := make(chan answer, 1)
	s.mu.Lock()
	socket := s.socket
	full := len(s.waiters) >= waitersMax
	if !full && socket != nil {
		s.waiters[id] = wait
	}
	s.mu.Unlock()
	switch {
	case full:
		return chat.Posted{}, problem.New(problem.Exhausted, "%d posts wait for their answers already", waitersMax)
	case socket == nil: // it ended just now
		return chat.Posted{}, problem.New(problem.Unavailable, "not connected; connecting again")
	}
	defer s.forget(id)
	err := socket.Send(chat.ClientFrame{
		Type: chat.TypePost, ID: id, ChannelID: ch, Text: p.Text, ThreadRoot: p.ThreadRoot, ClientMsgID: p.ClientMsgID,
	})
	if err != nil {
		return chat.Posted{}, problem.Wrap(err, problem.Unknown, "the socket broke while the message was sent")
	}
	t := time.NewTimer(ackMax)
	defer t.Stop()
	select {
	case a := <-wait:
		return a.posted, a.err
	case <-t.C:
		return chat.Posted{}, problem.New(problem.Unknown, "the edge did not answer in time")
	case <-ctx.Done():
		return chat.Posted{}, problem.Wrap(ctx.Err(), problem.Unknown, "the message may have been posted; repeat it with the same key")
	}
}

// connected waits until there is a socket that has said hello.
func (s *Stream) connected(ctx context.Context) error {
	for {
		s.mu.Lock()
		socket, changed := s.socket, s.changed
		s.mu.Unlock()
		if socket != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return problem.Wrap(ctx.Err(), problem.Unavailable, "no edge could be reached")
		}
	}
}

func (s *Stream) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiters, id)
}

// answered hands an answer to who waits for it; false if nobody does.
func (s *Stream) answered(e Event) bool {
	s.mu.Lock()
	wait, ok := s.waiters[e.ID]
	delete(s.waiters, e.ID)
	s.mu.Unlock()
	if !ok {
		return false
	}
	wait <- decodeAnswer(e)
	return true
}

func decodeAnswer(e Event) answer {
	if e.Type == chat.TypeAck {
		var a chat.AckEvent
		if err := json.Unmarshal(e.Raw, &a); err != nil || a.Posted == nil {
			return answer{err: problem.New(problem.Unknown, "the edge's answer can't be decoded")}
		}
		return answer{posted: *a.Posted}
	}
	var refused chat.ErrorEvent
	if err := json.Unmarshal(e.Raw, &refused); err != nil {
		return answer{err: problem.New(problem.Unknown, "the edge's answer can't be decoded")}
	}
	return answer{err: &problem.Error{
		Kind: problem.Kind(refused.Kind), Msg: refused.Detail, Field: refused.Field, RetryAfter: time.Duration(refused.RetryMS) * time.Millisecond,
	}}
}

// hold makes a socket the present one; nil ends all waits on the former.
func (s *Stream) hold(socket *Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket = socket
	close(s.changed)
	s.changed = make(chan struct{})
	if socket != nil {
		return
	}
	for id, wait := range s.waiters {
		wait <- answer{err: problem.New(problem.Unknown, "the socket broke before the answer came")}
		delete(s.waiters, id)
	}
}
