package load

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"parley/internal/wire/chat"
)

// channel is one that sockets follow.
type channel struct {
	id      string
	prefix  string // of its message events
	sockets []*conn
	poster  int // index of the socket that posts next
	head    uint64
	base    uint64    // rev of flights[0]
	flights []*flight // by rev; nil: finished, or not ours
}

// flight is a post on its way (L1).
type flight struct {
	number uint64
	sent   int64 // ns since the load's start
	left   int   // copies that are not here yet
	acked  bool
}

const messagePrefix = `{"type":"message","channel_id":"`

// post sends the next post: channels take turns, and the sockets in a channel.
func (l *Load) post() {
	ch := l.order[l.turn%uint64(len(l.order))]
	l.turn++
	c := ch.sockets[ch.poster%len(ch.sockets)]
	ch.poster++
	n := l.next
	l.next++
	body := make([]byte, 0, len(l.filler)+200)
	body = append(body, `{"type":"post","id":"`...)
	body = strconv.AppendUint(body, n, 10)
	body = append(body, `","channel_id":"`...)
	body = append(body, ch.id...)
	body = append(body, `","text":"`...)
	body = append(body, l.filler...)
	body = append(body, `","client_msg_id":"`...)
	body = append(body, l.key(n)...)
	body = append(body, `"}`...)
	l.flights[n] = &flight{number: n, sent: int64(time.Since(l.start)), left: len(ch.sockets)}
	l.write(c, masked(nil, opText, body))
}

// event takes one server event.
func (l *Load) event(c *conn, b []byte, now int64) {
	if ch, rev, ok := l.message(c, b); ok {
		l.sum.Delivered++
		l.advance(c, ch, rev, b, now)
		return
	}
	var e struct {
		chat.Envelope
		Channels []chat.HelloChannel `json:"channels"`
		Beat     int                 `json:"heartbeat_s"`
	}
	if json.Unmarshal(b, &e) != nil {
		l.sum.Lost++ // whatever it was, it did not arrive
		return
	}
	switch {
	case e.Type == chat.TypeHello:
		l.hello(c, e.Channels, e.Beat)
	case e.Type == chat.TypeAck:
		l.acked(e.ID, now)
	case e.Type == chat.TypeError && e.ID != "":
		l.refused(e.ID)
	case e.Rev > 0:
		if ch := l.channels[string(e.ChannelID)]; ch != nil {
			l.advance(c, ch, uint64(e.Rev), b, now)
		}
	}
}

// message reads a message event as far as its rev, which stands behind its type
// and channel. Another order of fields is read the slow way.
func (l *Load) message(c *conn, b []byte) (*channel, uint64, bool) {
	for i := range c.follows {
		p := c.follows[i].ch.prefix
		if len(b) > len(p) && string(b[:len(p)]) == p {
			rev := uint64(0)
			for _, d := range b[len(p):] {
				if d < '0' || d > '9' {
					break
				}
				rev = rev*10 + uint64(d-'0')
			}
			if i > 0 { // a channel that talks will talk again
				c.follows[0], c.follows[i] = c.follows[i], c.follows[0]
			}
			return c.follows[0].ch, rev, true
		}
	}
	if !bytes.HasPrefix(b, []byte(`{"type":"message"`)) {
		return nil, 0, false
	}
	var e chat.Envelope
	if json.Unmarshal(b, &e) != nil {
		return nil, 0, false
	}
	ch := l.channels[string(e.ChannelID)]
	return ch, uint64(e.Rev), ch != nil
}

func (l *Load) hello(c *conn, follows []chat.HelloChannel, beat int) {
	if c.greeted {
		l.sum.Doubled++
		return
	}
	c.greeted, c.beat = true, int64(max(beat, 1))
	l.greeted++
	c.follows = make([]place, 0, len(follows))
	for _, f := range follows {
		ch := l.channels[string(f.ID)]
		if ch == nil {
			ch = &channel{id: string(f.ID), prefix: messagePrefix + string(f.ID) + `","rev":`, head: uint64(f.Rev), base: uint64(f.Rev) + 1}
			l.channels[ch.id] = ch
			l.order = append(l.order, ch)
		}
		ch.sockets = append(ch.sockets, c)
		c.follows = append(c.follows, place{ch, uint64(f.Rev)})
	}
}

// advance moves a socket in a channel and holds its stream against L2.
func (l *Load) advance(c *conn, ch *channel, rev uint64, b []byte, now int64) {
	var at *place
	for i := range c.follows {
		if c.follows[i].ch == ch {
			at = &c.follows[i]
			break
		}
	}
	switch {
	case at == nil:
		l.sum.Disorder++ // of a channel that it does not follow
		return
	case rev == at.rev:
		l.sum.Doubled++
		return
	case rev < at.rev:
		l.sum.Disorder++
		return
	case rev > at.rev+1:
		l.sum.Lost += int64(min(rev-at.rev-1, 1<<30))
	}
	at.rev = rev
	if rev > ch.head {
		l.seen(ch, rev, b)
	}
	if rev < ch.base || rev-ch.base >= uint64(len(ch.flights)) {
		return
	}
	f := ch.flights[rev-ch.base]
	if f == nil {
		return
	}
	record(l.delivery, now-f.sent)
	f.left--
	l.finish(f)
	for len(ch.flights) > 0 && (ch.flights[0] == nil || ch.flights[0].left == 0) {
		ch.flights = ch.flights[1:]
		ch.base++
	}
}

// seen takes the first copy of a change: which post it is, if it is one of ours.
func (l *Load) seen(ch *channel, rev uint64, b []byte) {
	if len(ch.flights) == 0 {
		ch.base = rev
	}
	for ch.base+uint64(len(ch.flights)) < rev {
		ch.flights = append(ch.flights, nil)
	}
	ch.head = rev
	ch.flights = append(ch.flights, l.flights[l.number(b)])
}

// number is the post that an event is of; one beyond all if it is none of ours.
func (l *Load) number(b []byte) uint64 {
	const field = `"client_msg_id":"`
	if at := bytes.LastIndex(b, []byte(field)); at >= 0 {
		key, _, _ := bytes.Cut(b[at+len(field):], []byte{'"'})
		if rest, ours := bytes.CutPrefix(key, []byte(l.cfg.Name+"-")); ours {
			if n, err := strconv.ParseUint(string(rest), 10, 64); err == nil {
				return n
			}
		}
	}
	return l.next
}

func (l *Load) acked(id string, now int64) {
	n, err := strconv.ParseUint(id, 10, 64)
	f := l.flights[n]
	if err != nil || f == nil || f.acked {
		l.sum.Doubled++
		return
	}
	f.acked = true
	record(l.ack, now-f.sent)
	l.finish(f)
}

// refused ends a post that was answered with an error; another takes its place.
func (l *Load) refused(id string) {
	l.sum.Refused++
	if n, err := strconv.ParseUint(id, 10, 64); err == nil {
		delete(l.flights, n)
	}
	if l.refill {
		l.post()
	}
}

func (l *Load) finish(f *flight) {
	if f.left > 0 || !f.acked {
		return
	}
	delete(l.flights, f.number)
	l.sum.Posts++
	if l.refill {
		l.post()
	}
}

// giveUp counts what never finished (L3).
func (l *Load) giveUp() {
	for n, f := range l.flights {
		l.sum.Lost += int64(max(f.left, 1))
		delete(l.flights, n)
	}
	for _, ch := range l.order {
		ch.flights = nil
		ch.base = ch.head + 1
	}
}
