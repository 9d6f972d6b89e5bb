package edge

import (
	"parley/internal/failpoint"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// opening is one session of a batch as it stands when it is opened.
type opening struct {
	a       *attachment
	frame   frame.Open
	cursors []frame.Cursor
	resume  bool // send the cursors now
}

// openAll opens sessions at the gateway and resumes them where they were: all
// Opens, then the cursors that several share by group, then the rest. A session
// whose client waits for its "resumed" events is opened as the client's own
// resume; its hello is dropped, since it has had one.
func (w *wire) openAll(ss []*session) {
	batch := make([]opening, 0, len(ss))
	for _, s := range ss {
		if o, ok := w.open(s); ok {
			batch = append(batch, o)
			w.queue(frame.Control, o.frame)
		}
	}
	shared := sharedCursors(batch)
	for at, ids := range shared {
		for len(ids) > 0 {
			n := min(len(ids), frame.SessionsMax)
			w.queue(frame.Control, frame.ResumeGroup{Workspace: at.workspace, Channel: at.channel, Rev: at.rev, Sessions: ids[:n]})
			ids = ids[n:]
		}
	}
	for _, o := range batch {
		if !o.resume {
			continue
		}
		rest := o.cursors[:0]
		for _, c := range o.cursors {
			if len(shared[o.position(c)]) == 0 {
				rest = append(rest, c)
			}
		}
		w.queue(frame.Control, resumeFrames(o.a.id, rest)...)
	}
	w.flush()
}

// open attaches a session that is still without a gateway.
func (w *wire) open(s *session) (opening, bool) {
	r, _ := w.pool.routes.Route(s.claims.Workspace) // none: the gateway says so
	a := &attachment{id: topology.SessionID(w.pool.sessions.Add(1)), s: s, wire: w}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.att != nil {
		return opening{}, false
	}
	if !w.add(a) { // the link has just ended
		w.pool.seek(s)
		return opening{}, false
	}
	s.att = a
	o := opening{a: a, frame: frame.Open{Session: a.id, Workspace: s.claims.Workspace, User: s.claims.User, Epoch: r.Epoch}}
	switch {
	case s.resume && (s.greeted.IsZero() || !s.resumed || len(s.awaiting) > 0):
		o.frame.ResumeExpected = true
		o.resume = s.resumed
	case !s.greeted.IsZero():
		o.frame.Rehomed = true
		o.resume = true
	}
	if o.resume {
		o.cursors = cursorList(s.cursors)
	}
	return o, true
}

// position is what sessions must share to be resumed together.
type position struct {
	workspace topology.WorkspaceID
	channel   topology.ChannelID
	rev       topology.Rev
}

func (o opening) position(c frame.Cursor) position {
	return position{workspace: o.frame.Workspace, channel: c.Channel, rev: c.Rev}
}

// sharedCursors finds the positions that more than one session is at. A user's
// own cursor is nobody else's.
func sharedCursors(batch []opening) map[position][]topology.SessionID {
	shared := map[position][]topology.SessionID{}
	for _, o := range batch {
		for _, c := range o.cursors {
			if c.Channel != chat.UserCursor {
				at := o.position(c)
				shared[at] = append(shared[at], o.a.id)
			}
		}
	}
	for at, ids := range shared {
		if len(ids) < 2 {
			delete(shared, at)
		}
	}
	return shared
}

// cursorList is the cursors as frames carry them. The caller holds s.mu.
func cursorList(cs cursors) []frame.Cursor {
	out := make([]frame.Cursor, 0, len(cs))
	for _, c := range cs {
		rev := c.rev
		if failpoint.Mutant(failpoint.ResumeAhead) {
			rev++
		}
		out = append(out, frame.Cursor{Channel: c.channel, Rev: rev})
	}
	return out
}

// resumeFrames is a session's Resume, in as many frames as it takes.
func resumeFrames(id topology.SessionID, cs []frame.Cursor) []frame.Frame {
	var fs []frame.Frame
	for {
		n := min(len(cs), frame.CursorsMax)
		fs = append(fs, frame.Resume{Session: id, Cursors: cs[:n], Last: n == len(cs)})
		if cs = cs[n:]; len(cs) == 0 {
			return fs
		}
	}
}
