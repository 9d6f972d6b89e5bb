package edge

import (
	"sync"
	"sync/atomic"
	"time"

	"parley/internal/link"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
	"parley/regions"
)

// wire is one incarnation of a link to a gateway: what was said on it counts for
// it alone. It is the link's Handler.
type wire struct {
	pool    *pool
	peer    *peer
	gateway regions.Gateway
	began   time.Time
	drained atomic.Bool   // the gateway said that it stops
	ready   chan struct{} // closed when what follows is set
	conn    *link.Conn
	// incarnation is the gateway's own word; abandoned: it was the wrong one.
	incarnation topology.Incarnation
	abandoned   bool
	lanes       [frame.Lanes + 1]lane

	mu          sync.Mutex
	attachments map[topology.SessionID]*attachment
	byWorkspace map[topology.WorkspaceID]map[*attachment]struct{}
	dead        bool
}

// turn collects what one batch of frames leads to, done after it without locks:
// sockets are flushed once however many frames they got.
type turn struct {
	joined []*group // with frames that their members have not been given yet
	wake   []*session
	repair []*attachment
	leave  []*attachment // to another gateway, after a pause
	move   []*attachment // the same, at once
}

func newWire(p *peer) *wire {
	return &wire{
		pool: p.pool, peer: p, gateway: p.gateway, began: time.Now(), ready: make(chan struct{}),
		attachments: map[topology.SessionID]*attachment{}, byWorkspace: map[topology.WorkspaceID]map[*attachment]struct{}{},
	}
}

// queue and flush send frames; a link that has ended is noticed by its Closed.
func (w *wire) queue(lane int, fs ...frame.Frame) {
	if err := w.conn.Send(lane, fs...); err != nil && w.conn.Err() == nil {
		w.pool.log.Warn("a frame could not be sent", "gateway", string(w.gateway.ID), "err", err)
	}
}

func (w *wire) flush() { w.conn.Flush() }

func (w *wire) send(lane int, fs ...frame.Frame) {
	w.queue(lane, fs...)
	w.flush()
}

func (w *wire) find(id topology.SessionID) *attachment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attachments[id]
}

// add takes an attachment, unless the link has ended.
func (w *wire) add(a *attachment) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return false
	}
	w.attachments[a.id] = a
	ws := a.s.claims.Workspace
	if w.byWorkspace[ws] == nil {
		w.byWorkspace[ws] = map[*attachment]struct{}{}
	}
	w.byWorkspace[ws][a] = struct{}{}
	return true
}

func (w *wire) drop(a *attachment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.attachments, a.id)
	ws := a.s.claims.Workspace
	delete(w.byWorkspace[ws], a)
	if len(w.byWorkspace[ws]) == 0 {
		delete(w.byWorkspace, ws)
	}
}

func (w *wire) all() []*attachment {
	w.mu.Lock()
	defer w.mu.Unlock()
	as := make([]*attachment, 0, len(w.attachments))
	for _, a := range w.attachments {
		as = append(as, a)
	}
	return as
}

func (w *wire) ofWorkspace(ws topology.WorkspaceID) []*attachment {
	w.mu.Lock()
	defer w.mu.Unlock()
	as := make([]*attachment, 0, len(w.byWorkspace[ws]))
	for a := range w.byWorkspace[ws] {
		as = append(as, a)
	}
	return as
}

// Frames implements link.Handler.
func (w *wire) Frames(_ *link.Conn, laneNo int, fs []frame.Frame) {
	<-w.ready // at once after Dial returns
	if w.abandoned {
		return
	}
	var t turn
	if laneNo == frame.Control {
		for _, f := range fs {
			w.control(f, &t)
		}
	} else {
		l := &w.lanes[laneNo]
		l.mu.Lock()
		for _, f := range fs {
			w.onLane(l, f, &t)
		}
		t.deliver()
		l.mu.Unlock()
	}
	w.pool.flushers.flush(t.wake)
	for _, a := range t.repair {
		w.pool.repair(a)
	}
	for _, a := range t.leave {
		w.pool.rehome(a)
	}
	for _, a := range t.move {
		w.pool.move(a, true)
	}
}

// Closed implements link.Handler.
func (w *wire) Closed(_ *link.Conn, err error) {
	<-w.ready
	if w.abandoned {
		return
	}
	w.mu.Lock()
	w.dead = true
	w.mu.Unlock()
	w.pool.lost(w, err)
}

// onLane handles one frame of a channel's or user's lane. The caller holds l.mu.
func (w *wire) onLane(l *lane, f frame.Frame, t *turn) {
	if gf, ok := f.(frame.GroupFrame); ok {
		if g := l.groups[gf.Group]; g != nil {
			w.groupFrame(g, gf, t)
		}
		return
	}
	t.deliver() // what follows may change who is in a group, and comes after its frames
	switch f := f.(type) {
	case frame.SessionFrame:
		if a := w.find(f.Session); a != nil {
			a.sessionFrame(f, t)
		}
	case frame.GroupOpen:
		if l.groups == nil {
			l.groups = map[frame.GroupID]*group{}
		}
		if l.groups[f.Group] == nil { // a double changes nothing
			l.groups[f.Group] = &group{lane: l, channel: f.Channel, rev: f.Rev}
		}
	case frame.Join:
		if g := l.groups[f.Group]; g != nil {
			w.join(g, f, t)
		}
	case frame.Leave:
		if g := l.groups[f.Group]; g != nil {
			w.leave(g, f)
		}
	case frame.GroupClose:
		if g := l.groups[f.Group]; g != nil {
			g.empty()
			delete(l.groups, f.Group)
		}
	case frame.Answer:
		if a := w.find(f.Session); a != nil && a.s.answer(a, f) {
			t.leave = append(t.leave, a)
		}
	default:
		w.conn.Close(problem.New(problem.Invalid, "%s does not belong on a channel's lane", frame.Name(f)))
	}
}

// sessionFrame gives an event to one session: catch-up, which moves its cursor,
// or a state, which has none.
func (a *attachment) sessionFrame(f frame.SessionFrame, t *turn) {
	s := a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.att != a {
		return
	}
	switch {
	case f.Channel == "", f.Channel == chat.UserCursor && f.To == 0:
	case f.To == 0: // C8
		s.passOver(f.Channel)
	default:
		switch c := s.cursors.find(f.Channel); {
		case c == nil:
			s.cursors.put(&cursor{channel: f.Channel, rev: f.To})
		case c.group == nil:
			c.rev = f.To
		case f.From > 0 && f.To <= c.group.rev:
			return // it had this through its group
		}
	}
	if len(f.Payload) > 0 && s.push(framed(opText, f.Payload)) {
		t.wake = append(t.wake, s)
	}
}

// passOver forgets the cursor of a channel that the session is not in. The caller
// holds s.mu.
func (s *session) passOver(ch topology.ChannelID) {
	if c := s.cursors.find(ch); c != nil && c.group == nil {
		s.cursors.drop(ch)
	}
	s.arrived(ch)
}

// control handles one frame of the control lane.
func (w *wire) control(f frame.Frame, t *turn) {
	switch f := f.(type) {
	case frame.Opened:
		if a := w.find(f.Session); a != nil {
			a.openedNow(f.Payload, t)
		}
	case frame.Refused:
		if a := w.find(f.Session); a != nil {
			w.refused(a, f, t)
		}
	case frame.Draining:
		w.peer.drainingNow(w, time.Duration(min(f.AfterMS, uint64(drainMax.Milliseconds())))*time.Millisecond) //nolint:gosec // bounded
	case frame.Moved:
		w.moved(f, t)
	case frame.Answer:
		if a := w.find(f.Session); a != nil && a.s.answer(a, f) {
			t.leave = append(t.leave, a)
		}
	case frame.SessionFrame:
		if a := w.find(f.Session); a != nil {
			a.sessionFrame(f, t)
		}
	default:
		w.conn.Close(problem.New(problem.Invalid, "%s does not belong on the control lane", frame.Name(f)))
	}
}

// drainMax bounds how long a gateway may ask its sessions to stay.
const drainMax = 5 * time.Minute

func (a *attachment) openedNow(hello []byte, t *turn) {
	s := a.s
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.att != a || a.opened {
		return
	}
	a.opened = true
	s.homeless, s.refusals = time.Time{}, 0
	if s.greeted.IsZero() && s.greet(hello, now) {
		t.wake = append(t.wake, s)
	}
	if s.idle {
		s.tellActivity()
	}
	if w := s.sendHeld(); w != nil {
		w.flush()
	}
}

func (w *wire) refused(a *attachment, f frame.Refused, t *turn) {
	switch f.Kind {
	case problem.Moved, problem.Unavailable, problem.Unknown, problem.Internal, problem.Exhausted, problem.Full, problem.NotOwner, problem.Fenced:
		w.pool.log.Info("a gateway refused a session; it is tried again", "gateway", string(w.gateway.ID),
			"session", a.s.number, "workspace", string(a.s.claims.Workspace), "err", f.Detail)
		t.leave = append(t.leave, a)
	default:
		err := problem.New(f.Kind, "%s", f.Detail)
		a.s.end(closeRefused, string(f.Kind), errorEvent("", err))
	}
}

// moved sends a workspace's sessions to its owner.
func (w *wire) moved(f frame.Moved, t *turn) {
	cell := f.Cell
	if cell == "" {
		cell = w.gateway.Cell
	}
	r, ok := w.pool.routes.Route(f.Workspace)
	if !ok || f.Epoch > r.Epoch {
		w.pool.routes.Prefer(topology.Route{Workspace: f.Workspace, Cell: cell, Epoch: f.Epoch})
		t.move = append(t.move, w.ofWorkspace(f.Workspace)...)
		return
	}
	if r.Cell != w.gateway.Cell { // known already
		t.move = append(t.move, w.ofWorkspace(f.Workspace)...)
		return
	}
	t.leave = append(t.leave, w.ofWorkspace(f.Workspace)...)
}
