package gateway

import (
	"context"
	"errors"
	"time"

	"parley/cell/channel"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/frame"
)

// post takes a client's message. Posts of a session to one channel are done one
// after the other, in their order.
func (s *session) post(f frame.Post) {
	s.mu.Lock()
	if s.closed || !s.greeted { // an edge sends requests after Opened only
		s.mu.Unlock()
		return
	}
	if s.waiting >= s.g.cfg.PostsMax {
		s.mu.Unlock()
		s.answer(f.Channel, f.Req, &problem.Error{
			Kind: problem.Exhausted, Msg: "too many messages wait for their answer", RetryAfter: time.Second,
		}, frame.AnswerBody{})
		return
	}
	s.waiting++
	queue, busy := s.posts[f.Channel]
	if s.posts == nil {
		s.posts = map[topology.ChannelID][]frame.Post{}
	}
	s.posts[f.Channel] = append(queue, f)
	s.mu.Unlock()
	if !busy {
		s.g.spawn(func(ctx context.Context) { s.postAll(ctx, f.Channel) })
	}
}

// postAll does what waits for a channel. It goes on when the session has ended:
// what was taken is done, and the edge sends it again elsewhere if it must.
func (s *session) postAll(ctx context.Context, ch topology.ChannelID) {
	for {
		s.mu.Lock()
		queue := s.posts[ch]
		if len(queue) == 0 || s.closed {
			if delete(s.posts, ch); len(s.posts) == 0 {
				s.posts = nil
			}
			s.mu.Unlock()
			return
		}
		f := queue[0]
		s.posts[ch] = queue[1:]
		s.mu.Unlock()
		s.postOne(ctx, f)
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}
}

func (s *session) postOne(ctx context.Context, f frame.Post) {
	ctx, cancel := context.WithTimeout(ctx, s.g.cfg.RequestMax)
	defer cancel()
	s.g.metrics.posts.Inc()
	done, err := s.g.deps.Servers.Post(ctx, channel.Post{
		Channel: topology.ChannelRef{Place: s.place, Channel: f.Channel}, Author: s.open.User,
		Root: f.ThreadRoot, Text: f.Text, Key: f.Key,
	})
	s.answer(f.Channel, f.Req, err, frame.AnswerBody{Channel: f.Channel, Message: done.ID, TS: done.TS, Seq: done.Seq, Rev: done.Rev})
}

// markRead moves the user's mark; its sessions are told by a notice.
func (s *session) markRead(f frame.MarkRead) {
	if !s.take() {
		s.answer(f.Channel, f.Req, problem.New(problem.Exhausted, "too many requests wait for their answer"), frame.AnswerBody{})
		return
	}
	s.g.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, s.g.cfg.RequestMax)
		defer cancel()
		_, err := s.g.deps.Unread.MarkRead(ctx, s.place, s.open.User, f.Channel, f.Message)
		s.answer(f.Channel, f.Req, err, frame.AnswerBody{Channel: f.Channel})
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	})
}

func (s *session) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.greeted || s.waiting >= s.g.cfg.PostsMax {
		return false
	}
	s.waiting++
	return true
}

// answer answers a request. One that is refused since the workspace is not served
// here has no answer: the edge keeps it and sends it to the owner.
func (s *session) answer(ch topology.ChannelID, req uint64, err error, body frame.AnswerBody) {
	if err != nil {
		body = frame.AnswerBody{Kind: problem.KindOf(err), Detail: problem.Show(err), Channel: ch}
		if p, ok := errors.AsType[*problem.Error](err); ok {
			body.Field = p.Field
			body.RetryMS = uint64(max(p.RetryAfter.Milliseconds(), 0))
		}
		if body.Kind == problem.Moved {
			s.moved()
			return
		}
	}
	s.peer.send(frame.LaneOf(string(ch)), frame.Answer{Session: s.open.Session, Req: req, Body: body})
	s.peer.flush()
}

// How often a user's typing in a channel is told, and for how many channels that
// is remembered.
const (
	typingEvery = 3 * time.Second
	typedMax    = 32
)

// typing tells who follows the channel that the user types, if the user may: who
// follows a channel is in it.
func (s *session) typing(ch topology.ChannelID) {
	if s.followed(ch) == nil || !s.isLive() {
		return
	}
	if s.user.types(ch, s.g.deps.Now()) {
		s.g.deps.Bus.Publish(router.TypingTopic(ch), []byte(s.open.User))
	}
}

// types reports whether the user's typing is due to be told.
func (u *user) types(ch topology.ChannelID, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at, ok := u.typed[ch]; ok && now.Sub(at) < typingEvery {
		return false
	}
	if len(u.typed) >= typedMax {
		clear(u.typed)
	}
	if u.typed == nil {
		u.typed = map[topology.ChannelID]time.Time{}
	}
	u.typed[ch] = now
	return true
}
