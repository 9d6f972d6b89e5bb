// Package frame is the protocol on a link: what an edge and a gateway of a cell
// say to each other on the ordered lanes of one QUIC connection. docs/protocol.md
// has it in prose.
//
// Lane 0 is the control lane: handshake, sessions, resume, pings. Lanes 1 … n
// carry channels: every frame about a channel travels on that channel's lane,
// LaneOf, in both directions, so that joins, leaves, catch-up and live frames
// have one order. Frames about a user (read state, presence, lists of channels)
// take the lane of the user.
//
// # Conversation
//
// What each side may count on. Package edge and package cell/gateway are
// written against these clauses.
//
//	C1 A session id names one opening of a socket at one gateway. When the edge
//	   resumes a socket, at the same gateway too, it sends Close for the old id
//	   and Open with a new one; nothing about the old id counts any more.
//	C2 Open and what resumes it (ResumeGroup for places that several sessions
//	   share, then each session's Resume, the last with Last) go out on the
//	   control lane in one turn, without waiting for Opened. Cursors of
//	   "@user" come in Resume.
//	C3 Opened carries the client's hello. The edge reads urev and the channels'
//	   revs from it: that is where a session that starts now is, until a Join or
//	   SessionFrame says more. So the first Join of each such channel is at the
//	   hello's rev, or SessionFrames bring the session from there to the Join's.
//	C4 Rehomed: catch-up ends silently. ResumeExpected without Rehomed: each
//	   channel's catch-up ends with the client's "resumed" event, as a
//	   SessionFrame with the channel, From 0 and To = rev. The edge also opens a
//	   session so whose link died before all its channels were live: its client
//	   still waits for those events. The hello is dropped then.
//	C5 The edge sends requests of a session only after Opened. It holds each until
//	   its Answer, and sends it again elsewhere with the same key if the link
//	   ends. Answer with kind moved leaves it held: Moved for the workspace is to
//	   follow on the control lane.
//	C6 A Join is at the group's present rev, and each session it names has had
//	   everything of the channel up to there. A session that is not there is
//	   resumed anew. A GroupFrame with From = the group's rev + 1 is delivered,
//	   one with To at or below it is dropped, any other resumes all members anew.
//	C7 Leave ends a session's following for good: the edge forgets its cursor of
//	   the channel. A gateway that only wants to catch a session up again sends
//	   SessionFrames after it, and a Join.
//	C8 A cursor may name a channel that the user is not in, or that is none. A
//	   SessionFrame with the channel, From 0 and To 0 says so, at the place of its
//	   catch-up: the edge forgets the cursor and waits for no "resumed". It carries
//	   an "error" event for a client that asked, unless a change of "@user" has
//	   told it of the loss.
//	C9 Moved asks the edge to take all sessions of the workspace elsewhere; with
//	   an epoch above the one it knows at once, else after a pause that grows.
//	   Refused with a kind that may pass (moved, unavailable, exhausted …) is tried
//	   again like that; with any other the socket is closed.
//	C10 After Draining the edge takes all its sessions away within three quarters
//	   of the time; then the gateway may close the link.
package frame

import (
	"hash/fnv"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Version is the protocol this build speaks. A peer with another is refused in
// the handshake, with both versions in the message.
const Version = 1

// Lanes is how many lanes a link has beside the control lane.
const Lanes = 16

// Control is the lane of everything that is not about one channel or user.
const Control = 0

// Limits of the codec; a frame beyond them closes the link.
const (
	// BytesMax bounds one frame: the largest payload is a message of 40,000
	// characters escaped in JSON, twice over for its envelope's safety.
	BytesMax = 1 << 20
	// SessionsMax bounds the sessions named in one frame; more go in several.
	SessionsMax = 4096
	// CursorsMax bounds the cursors in one frame; more go in several.
	CursorsMax = 4096
)

// GroupID names a group on one link: the sessions at this edge that follow a
// channel through this gateway. Given out by the gateway; never reused on a link.
type GroupID uint64

// LaneOf is the lane of a channel's (or, by its id, a user's) frames: 1 … Lanes.
func LaneOf(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // a hash's Write never fails
	return 1 + int(h.Sum32()%Lanes)
}

// Frame is one of the frame types below.
type Frame interface{ isFrame() }

// From the edge, on the control lane.
type (
	// Hello is the first frame of the edge.
	Hello struct {
		Version     uint64
		Edge        topology.EdgeID
		Region      topology.RegionID
		Incarnation topology.Incarnation
	}
	// Open asks for a session. Rehomed says that the client has had its hello
	// from another gateway: catch-up comes by Resume and ResumeGroup, and so it
	// does when ResumeExpected says that the client announced a resume frame.
	// With neither, the session starts at now.
	Open struct {
		Session        topology.SessionID
		Workspace      topology.WorkspaceID
		User           topology.UserID
		Epoch          topology.Epoch
		ResumeExpected bool
		Rehomed        bool
	}
	// Resume gives a session's cursors. Last ends them; the session's catch-up
	// begins then.
	Resume struct {
		Session topology.SessionID
		Cursors []Cursor
		Last    bool
	}
	// ResumeGroup resumes many sessions of one channel that are at the same rev.
	// It precedes these sessions' Resume with Last.
	ResumeGroup struct {
		Workspace topology.WorkspaceID
		Channel   topology.ChannelID
		Rev       topology.Rev
		Sessions  []topology.SessionID
	}
	// Close ends a session: its socket is gone.
	Close struct {
		Session topology.SessionID
	}
	// Activity tells that a session's user is there (Active) or idle.
	Activity struct {
		Session topology.SessionID
		Active  bool
	}
)

// From the edge, on a channel's lane.
type (
	// Post is a client's message. Req is the edge's number for it, per session
	// and rising; Answer carries it back. Key is never empty: the edge adds one.
	Post struct {
		Session    topology.SessionID
		Req        uint64
		Channel    topology.ChannelID
		Key        string
		ThreadRoot topology.MessageID
		Text       string
	}
	// MarkRead moves the user's read state in a channel.
	MarkRead struct {
		Session topology.SessionID
		Req     uint64
		Channel topology.ChannelID
		Message topology.MessageID
	}
	// Typing says that the user types in a channel. It has no answer.
	Typing struct {
		Session topology.SessionID
		Channel topology.ChannelID
	}
)

// From the gateway, on the control lane.
type (
	// Welcome answers Hello.
	Welcome struct {
		Version     uint64
		Gateway     topology.GatewayID
		Cell        topology.CellID
		Incarnation topology.Incarnation
	}
	// Opened says that a session is served; Payload is the client's hello event,
	// which the edge drops for a rehomed session.
	Opened struct {
		Session topology.SessionID
		Payload []byte
	}
	// Refused says that a session is not served, or no longer: Kind says why.
	Refused struct {
		Session topology.SessionID
		Kind    problem.Kind
		Detail  string
		RetryMS uint64
	}
	// Draining says that the gateway will stop: the edge moves its sessions to
	// another gateway within AfterMS, spread over it.
	Draining struct {
		AfterMS uint64
	}
	// Moved says that the workspace is not open here at the epoch the edge named;
	// Epoch is the highest this cell knows, Cell its owner if known.
	Moved struct {
		Workspace topology.WorkspaceID
		Epoch     topology.Epoch
		Cell      topology.CellID
	}
)

// From the gateway, on a channel's or user's lane.
type (
	// GroupOpen makes a group, at Rev: the first frame after it has Rev+1.
	GroupOpen struct {
		Group     GroupID
		Workspace topology.WorkspaceID
		Channel   topology.ChannelID
		Rev       topology.Rev
	}
	// Join adds sessions to a group that is at Rev: they have had all up to Rev.
	Join struct {
		Group    GroupID
		Rev      topology.Rev
		Sessions []topology.SessionID
	}
	// Leave takes sessions out of a group: nothing after Rev reaches them.
	Leave struct {
		Group    GroupID
		Rev      topology.Rev
		Sessions []topology.SessionID
	}
	// GroupFrame is an event for all sessions of a group: the changes From … To.
	// From = To = 0 marks an ephemeral event (typing), which moves no rev. The
	// payload is the client's event, never decoded on the way.
	GroupFrame struct {
		Group    GroupID
		From, To topology.Rev
		Payload  []byte
	}
	// GroupClose ends a group that has no sessions.
	GroupClose struct {
		Group GroupID
	}
	// SessionFrame is an event for one session. With a Channel and To, it is
	// catch-up: the session's cursor there is To afterwards. Channel UserCursor
	// ("@user") counts urevs. With a Channel and neither From nor To, the session
	// is not in it (C8). Without a Channel it is a state (read state, presence),
	// which has no cursor.
	SessionFrame struct {
		Session  topology.SessionID
		Channel  topology.ChannelID
		From, To topology.Rev
		Payload  []byte
	}
	// Answer answers a Post or MarkRead: Payload is the ack or error event but
	// for its id, which the edge puts in.
	Answer struct {
		Session topology.SessionID
		Req     uint64
		Body    AnswerBody
	}
)

// Both ways, on the control lane.
type (
	// Ping proves that the peer's reader lives: the peer answers with Pong.
	Ping struct{ N uint64 }
	// Pong answers Ping with its N.
	Pong struct{ N uint64 }
)

// AnswerBody is the outcome of a client's request.
type AnswerBody struct {
	Kind    problem.Kind // "" = done
	Detail  string
	Field   string
	RetryMS uint64
	Channel topology.ChannelID
	Message topology.MessageID // of a post
	TS      int64              // µs, of a post
	Seq     topology.Seq       // of a post
	Rev     topology.Rev       // of a post
}

// Cursor is the last rev that a session was given of a channel.
type Cursor struct {
	Channel topology.ChannelID
	Rev     topology.Rev
}

func (Hello) isFrame()        {}
func (Open) isFrame()         {}
func (Resume) isFrame()       {}
func (ResumeGroup) isFrame()  {}
func (Close) isFrame()        {}
func (Activity) isFrame()     {}
func (Post) isFrame()         {}
func (MarkRead) isFrame()     {}
func (Typing) isFrame()       {}
func (Welcome) isFrame()      {}
func (Opened) isFrame()       {}
func (Refused) isFrame()      {}
func (Draining) isFrame()     {}
func (Moved) isFrame()        {}
func (GroupOpen) isFrame()    {}
func (Join) isFrame()         {}
func (Leave) isFrame()        {}
func (GroupFrame) isFrame()   {}
func (GroupClose) isFrame()   {}
func (SessionFrame) isFrame() {}
func (Answer) isFrame()       {}
func (Ping) isFrame()         {}
func (Pong) isFrame()         {}
