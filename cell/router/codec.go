package router

import (
	"encoding/binary"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Bounds of what is decoded: a router may be a server that others reach, too.
const (
	idBytesMax      = 64
	usersMax        = 100_000
	payloadBytesMax = 4 << 20
	headsMax        = 1 << 20
)

// codecVersion is the first byte of every payload on the bus.
const codecVersion = 1

// Encode is the event as it is published.
func (e Event) Encode() []byte {
	b := make([]byte, 0, 160+len(e.Payload)+28*(len(e.Joined)+len(e.Left)))
	b = append(b, codecVersion)
	b = appendRef(b, e.Channel)
	b = binary.AppendUvarint(b, uint64(e.Token))
	b = binary.AppendUvarint(b, uint64(e.From))
	b = binary.AppendUvarint(b, uint64(e.To))
	b = appendUsers(b, e.Joined)
	b = appendUsers(b, e.Left)
	return appendString(b, e.Payload)
}

// DecodeEvent reads an event. Its payload is part of b.
func DecodeEvent(b []byte) (Event, error) {
	d := decoder{rest: b}
	d.version()
	e := Event{
		Channel: d.ref(), Token: topology.Token(d.number()), From: topology.Rev(d.number()), To: topology.Rev(d.number()),
		Joined: d.users(), Left: d.users(), Payload: d.bytes(payloadBytesMax),
	}
	return e, d.end("event")
}

// EncodeBeacons is beacons as they are published.
func EncodeBeacons(bs []Beacon) []byte {
	b := []byte{codecVersion}
	b = binary.AppendUvarint(b, uint64(len(bs)))
	for _, x := range bs {
		b = binary.AppendUvarint(b, uint64(x.Shard))
		b = binary.AppendUvarint(b, uint64(x.Token))
		b = appendString(b, []byte(x.Owner))
		b = binary.AppendUvarint(b, x.Number)
		b = binary.AppendUvarint(b, uint64(len(x.Changed)))
		for _, h := range x.Changed {
			b = appendRef(b, h.Channel)
			b = binary.AppendUvarint(b, uint64(h.Rev))
			b = binary.AppendUvarint(b, uint64(h.Seq))
		}
	}
	return b
}

// DecodeBeacons reads beacons.
func DecodeBeacons(b []byte) ([]Beacon, error) {
	d := decoder{rest: b}
	d.version()
	n := d.count(topology.Shards)
	out := make([]Beacon, 0, n)
	for range n {
		x := Beacon{
			Shard: topology.Shard(d.count(topology.Shards - 1)), //nolint:gosec // below Shards
			Token: topology.Token(d.number()),
			Owner: topology.ServerID(d.bytes(idBytesMax)), Number: d.number(),
		}
		for range d.count(headsMax) {
			if d.bad {
				break
			}
			x.Changed = append(x.Changed, Head{Channel: d.ref(), Rev: topology.Rev(d.number()), Seq: topology.Seq(d.number())})
		}
		out = append(out, x)
	}
	if err := d.end("beacons"); err != nil {
		return nil, err
	}
	return out, nil
}

// NoticeKind says what a notice is about.
type NoticeKind uint8

// The kinds of notices.
const (
	NoticeURev      NoticeKind = 1 // the user's list of channels changed
	NoticeReadState NoticeKind = 2 // the user read on in Channel
)

// Notice tells a user's gateways to look: it carries no state itself, so that a
// lost one costs time only.
type Notice struct {
	Kind    NoticeKind
	Channel topology.ChannelID
}

// Encode is the notice as it is published.
func (n Notice) Encode() []byte {
	return appendString([]byte{codecVersion, byte(n.Kind)}, []byte(n.Channel))
}

// DecodeNotice reads a notice.
func DecodeNotice(b []byte) (Notice, error) {
	d := decoder{rest: b}
	d.version()
	n := Notice{Kind: NoticeKind(d.byte()), Channel: topology.ChannelID(d.bytes(idBytesMax))}
	return n, d.end("notice")
}

func appendString(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendRef(b []byte, r topology.ChannelRef) []byte {
	b = appendString(b, []byte(r.Workspace))
	b = binary.AppendUvarint(b, uint64(r.Generation))
	return appendString(b, []byte(r.Channel))
}

func appendUsers(b []byte, us []topology.UserID) []byte {
	b = binary.AppendUvarint(b, uint64(len(us)))
	for _, u := range us {
		b = appendString(b, []byte(u))
	}
	return b
}

// decoder reads fields off a payload; after the first fault it reads nothing.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	v := d.rest[0]
	d.rest = d.rest[1:]
	return v
}

func (d *decoder) version() {
	if d.byte() != codecVersion {
		d.bad = true
	}
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || d.bad {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count is a number that is at most limit.
func (d *decoder) count(limit uint64) int {
	v := d.number()
	if v > limit {
		d.bad = true
		return 0
	}
	return int(v) //nolint:gosec // it is at most limit
}

func (d *decoder) bytes(limit uint64) []byte {
	n := d.count(limit)
	if n > len(d.rest) {
		d.bad = true
	}
	if d.bad {
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) ref() topology.ChannelRef {
	return topology.ChannelRef{
		Place:   topology.Place{Workspace: topology.WorkspaceID(d.bytes(idBytesMax)), Generation: topology.Generation(d.number())},
		Channel: topology.ChannelID(d.bytes(idBytesMax)),
	}
}

func (d *decoder) users() []topology.UserID {
	n := d.count(usersMax)
	if n == 0 || n > len(d.rest) { // each takes a byte at least
		d.bad = d.bad || n > len(d.rest)
		return nil
	}
	out := make([]topology.UserID, 0, n)
	for range n {
		out = append(out, topology.UserID(d.bytes(idBytesMax)))
	}
	return out
}

func (d *decoder) end(what string) error {
	if d.bad || len(d.rest) > 0 {
		return problem.New(problem.Invalid, "the %s on the router can't be decoded", what)
	}
	return nil
}
