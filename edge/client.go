package edge

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"time"
	"unicode/utf8"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

const (
	// idBytesMax bounds ids in client frames: ours have 27.
	idBytesMax = 64
	// holdBytesMax bounds the texts that one session waits for answers to.
	holdBytesMax = 1 << 20
	// floodMax frames refused in a row for their number end the session.
	floodMax = 1000
)

const fieldCursors = "cursors" // of a resume frame

// take handles one frame of the client. It is called by the reader alone.
func (s *session) take(data []byte) {
	now := time.Now()
	f, err := parseClient(data)
	if s.resume && !s.resumeSeen() {
		if err == nil {
			err = s.takeFirst(f)
		}
		if err != nil {
			s.end(closeMisuse, "no valid resume frame", errorEvent(f.ID, err))
		}
		return
	}
	if ok, wait := s.bucket.take(now); !ok {
		if s.bucket.refused > floodMax {
			s.end(closeMisuse, "too many frames")
			return
		}
		s.refuse(f.ID, &problem.Error{Kind: problem.Exhausted, Msg: "too many frames; slow down", RetryAfter: wait + time.Millisecond})
		return
	}
	if err == nil {
		err = s.act(f, now)
	}
	if err != nil {
		s.refuse(f.ID, err)
	}
}

// takeFirst takes the first frame of a client that has announced a resume.
func (s *session) takeFirst(f chat.ClientFrame) error {
	if f.Type != chat.TypeResume {
		return problem.Field("type", "the first frame must be %q, as announced by resume=1", chat.TypeResume)
	}
	return s.takeResume(f)
}

func (s *session) resumeSeen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resumed
}

func parseClient(data []byte) (chat.ClientFrame, error) {
	var f chat.ClientFrame
	if !utf8.Valid(data) {
		return f, problem.New(problem.Invalid, "the frame is not valid UTF-8")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		return f, problem.New(problem.Invalid, "the frame is not a JSON object")
	}
	err := json.Unmarshal(data, &f)
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typed) && typed.Field == fieldCursors:
		return f, problem.Field(fieldCursors, "must give each channel id a rev, a whole number from 0 on; a JSON %s is none", typed.Value)
	case errors.As(err, &typed):
		return f, problem.Field(typed.Field, "can't be a JSON %s", typed.Value)
	case err != nil:
		return f, problem.Wrap(err, problem.Invalid, "the frame is not a JSON object: %v", err)
	case len(f.ID) > chat.ClientMsgIDBytesMax:
		f.ID = ""
		return f, problem.Field("id", "is longer than %d bytes", chat.ClientMsgIDBytesMax)
	}
	return f, nil
}

func (s *session) act(f chat.ClientFrame, now time.Time) error {
	switch f.Type {
	case chat.TypeResume:
		return s.takeResume(f)
	case chat.TypePost:
		return s.takePost(f, now)
	case chat.TypeMarkRead:
		return s.takeMarkRead(f, now)
	case chat.TypeTypingStart:
		return s.takeTyping(f)
	case chat.TypePing:
		s.takePing(f)
		return nil
	case "":
		return problem.Field("type", "is missing")
	default:
		return problem.Field("type", "is not one of resume, post, mark_read, typing_start, ping")
	}
}

func checkChannel(ch topology.ChannelID) error {
	if ch == "" {
		return problem.Field("channel_id", "is missing")
	}
	if len(ch) > idBytesMax {
		return problem.Field("channel_id", "is longer than %d bytes", idBytesMax)
	}
	return nil
}

// takeResume passes the client's cursors on, once.
func (s *session) takeResume(f chat.ClientFrame) error {
	if !s.resume {
		return problem.Field("type", "resume must be announced: connect with resume=1")
	}
	if len(f.Cursors) > chat.CursorsMax {
		return problem.Field(fieldCursors, "are more than %d", chat.CursorsMax)
	}
	for ch := range f.Cursors {
		if ch == "" || len(ch) > idBytesMax {
			return problem.Field(fieldCursors, "a channel id must have 1 to %d bytes, one has %d", idBytesMax, len(ch))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed {
		return problem.Field("type", "resume counts only once, as the first frame")
	}
	s.resumed = true
	s.awaiting = make(map[topology.ChannelID]struct{}, len(f.Cursors))
	for ch, rev := range f.Cursors {
		s.cursors.put(&cursor{channel: ch, rev: rev})
		if ch != chat.UserCursor {
			s.awaiting[ch] = struct{}{}
		}
	}
	if s.att != nil {
		s.att.wire.send(frame.Control, resumeFrames(s.att.id, cursorList(s.cursors))...)
	}
	return nil
}

func (s *session) takePost(f chat.ClientFrame, now time.Time) error {
	if err := checkChannel(f.ChannelID); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(f.Text); n == 0 || n > chat.TextRunesMax {
		return problem.Field("text", "must have 1 to %d characters, has %d", chat.TextRunesMax, n)
	}
	if len(f.ClientMsgID) > chat.ClientMsgIDBytesMax {
		return problem.Field("client_msg_id", "is longer than %d bytes", chat.ClientMsgIDBytesMax)
	}
	p := frame.Post{Channel: f.ChannelID, Key: f.ClientMsgID, Text: f.Text}
	if f.ThreadRoot != nil {
		p.ThreadRoot = *f.ThreadRoot
	}
	if len(p.ThreadRoot) > idBytesMax {
		return problem.Field("thread_root", "is longer than %d bytes", idBytesMax)
	}
	if p.Key == "" {
		p.Key = rand.Text()
	}
	return s.hold(f, now, func(id topology.SessionID, req uint64) frame.Frame {
		p.Session, p.Req = id, req
		return p
	})
}

func (s *session) takeMarkRead(f chat.ClientFrame, now time.Time) error {
	if err := checkChannel(f.ChannelID); err != nil {
		return err
	}
	if f.LastReadMessageID == "" || len(f.LastReadMessageID) > idBytesMax {
		return problem.Field("last_read_message_id", "must have 1 to %d bytes", idBytesMax)
	}
	return s.hold(f, now, func(id topology.SessionID, req uint64) frame.Frame {
		return frame.MarkRead{Session: id, Req: req, Channel: f.ChannelID, Message: f.LastReadMessageID}
	})
}

// hold keeps a request until it is answered and sends it, at once or when the
// session is open at a gateway.
func (s *session) hold(f chat.ClientFrame, now time.Time, build func(topology.SessionID, uint64) frame.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) >= s.owner.cfg.HoldPostsMax || len(s.held) > 0 && s.heldBytes+len(f.Text) > holdBytesMax {
		return &problem.Error{Kind: problem.Exhausted, Msg: "too many frames wait for their answers", RetryAfter: time.Second}
	}
	s.nextReq++
	s.heldBytes += len(f.Text)
	req := s.nextReq
	s.held = append(s.held, &held{
		req: req, id: f.ID, lane: frame.LaneOf(string(f.ChannelID)), bytes: len(f.Text), deadline: now.Add(s.owner.cfg.HoldMax),
		build: func(id topology.SessionID) frame.Frame { return build(id, req) },
	})
	w := s.sendHeld()
	switch {
	case w == nil:
	case s.lazy:
		s.loop.flushLater(w)
	default:
		w.flush()
	}
	return nil
}

// sendHeld queues what the present gateway has not had, in order, for the caller
// to flush. The caller holds s.mu.
func (s *session) sendHeld() *wire {
	if s.att == nil || !s.att.opened {
		return nil
	}
	w := s.att.wire
	for _, h := range s.held {
		if !h.here {
			h.here, h.sent = true, true
			w.queue(h.lane, h.build(s.att.id))
		}
	}
	return w
}

func (s *session) takeTyping(f chat.ClientFrame) error {
	if err := checkChannel(f.ChannelID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.att != nil && s.att.opened {
		s.att.wire.send(frame.LaneOf(string(f.ChannelID)), frame.Typing{Session: s.att.id, Channel: f.ChannelID})
	}
	return nil
}

func (s *session) takePing(f chat.ClientFrame) {
	if f.Active != nil {
		s.mu.Lock()
		if idle := !*f.Active; idle != s.idle {
			s.idle = idle
			s.tellActivity()
		}
		s.mu.Unlock()
	}
	s.send(chat.PongEvent{Type: chat.TypePong, ID: f.ID})
}

// tellActivity tells the gateway whether the user is there. The caller holds s.mu.
func (s *session) tellActivity() {
	if s.att != nil && s.att.opened {
		s.att.wire.send(frame.Control, frame.Activity{Session: s.att.id, Active: !s.idle})
	}
}

// answer gives the client the outcome of a held request. rehome says that the
// gateway no longer serves the workspace: the request stays held.
func (s *session) answer(a *attachment, f frame.Answer) (rehome bool) {
	s.mu.Lock()
	if s.att != a {
		s.mu.Unlock()
		return false
	}
	i := 0
	for i < len(s.held) && s.held[i].req != f.Req {
		i++
	}
	if i == len(s.held) || f.Body.Kind == problem.Moved {
		s.mu.Unlock()
		return i < len(s.held)
	}
	h := s.held[i]
	s.held = append(s.held[:i], s.held[i+1:]...)
	s.heldBytes -= h.bytes
	s.mu.Unlock()
	b := f.Body
	if b.Kind != "" {
		err := &problem.Error{Kind: b.Kind, Msg: b.Detail, Field: b.Field, RetryAfter: time.Duration(b.RetryMS) * time.Millisecond} //nolint:gosec // a hint
		s.refuse(h.id, err)
		return false
	}
	if h.id == "" {
		return false // nobody asked for an ack
	}
	ack := chat.AckEvent{Type: chat.TypeAck, ID: h.id, ChannelID: b.Channel}
	if b.Message != "" {
		ack.Posted = &chat.Posted{MessageID: b.Message, TS: chat.Timestamp(b.TS), Seq: b.Seq, Rev: b.Rev}
	}
	s.send(ack)
	return false
}

// expireHeld answers what has waited too long. Sent or not decides whether it may
// have been done.
func (s *session) expireHeld(now time.Time) {
	s.mu.Lock()
	var late []*held
	for len(s.held) > 0 && now.After(s.held[0].deadline) {
		late = append(late, s.held[0])
		s.heldBytes -= s.held[0].bytes
		s.held = s.held[1:]
	}
	s.mu.Unlock()
	for _, h := range late {
		if h.sent {
			s.refuse(h.id, &problem.Error{Kind: problem.Unknown, Msg: "the cell did not answer in time; repeat with the same client_msg_id", RetryAfter: time.Second})
			continue
		}
		s.refuse(h.id, &problem.Error{Kind: problem.Unavailable, Msg: "the workspace's cell can't be reached; try again", RetryAfter: time.Second})
	}
}
