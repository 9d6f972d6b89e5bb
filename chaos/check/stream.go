package check

import (
	"slices"

	"parley/chaos/history"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// resetAfter is how far behind a cursor may be before a reset is in order.
const resetAfter = 10_000

// stream: per client and channel, from the first hello on, every rev once and in
// order, over however many sockets; to the head, if the last one was open in the
// end.
func stream(r *Run, _ Options, f *finding) {
	r.each(func(p *person) {
		c := consumer{r: r, p: p, f: f, at: map[topology.ChannelID]topology.Rev{}}
		for _, l := range p.lines {
			if l.AtUS > r.end {
				break
			}
			c.take(l)
		}
		c.tail()
	})
}

// consumer follows what one client was given.
type consumer struct {
	r      *Run
	p      *person
	f      *finding
	at     map[topology.ChannelID]topology.Rev
	socket uint64 // 0 = none is open
	resume bool
	began  bool
	last   *Line
}

func (c *consumer) take(l *Line) {
	switch l.Kind { //nolint:exhaustive // the rest is no stream
	case history.Open:
		c.socket, c.resume = l.Socket, l.Resumed
	case history.Close:
		c.socket = 0
	case history.Resume:
		for ch, rev := range l.Cursors {
			if seen, ok := c.at[ch]; ok && rev > seen {
				c.f.violate("%s resumed channel %s at rev %d (%s), having been given %d", c.p.name, ch, rev, l.at(), seen)
			}
			c.at[ch] = rev
		}
	case history.Frame:
		c.last = l
		c.frame(l)
	}
}

func (c *consumer) frame(l *Line) {
	e := l.Event
	switch {
	case e.Type == chat.TypeHello && !c.resume:
		c.at[chat.UserCursor] = topology.Rev(e.URev)
		for _, ch := range e.Hello {
			c.at[ch.ID] = ch.Rev
		}
		c.began = true
	case e.Type == chat.TypeMessage, e.Type == chat.TypeChannel && e.Rev != 0:
		c.next(l, e.ChannelID, e.Rev)
		if e.Event == chat.MemberLeft && slices.Contains(e.UserIDs, c.p.user) { // its "lost" may have come before
			delete(c.at, e.ChannelID)
		}
	case e.Type == chat.TypeChannel && e.URev != 0:
		c.next(l, chat.UserCursor, topology.Rev(e.URev))
		if e.Event == chat.ChannelLost {
			delete(c.at, e.ChannelID)
		}
	case e.Type == chat.TypeResumed:
		c.f.examined++
		if seen, ok := c.at[e.ChannelID]; ok && seen != e.Rev && e.ChannelID != chat.UserCursor {
			c.f.violate("%s was told that channel %s is resumed to rev %d (%s), having been given %d", c.p.name, e.ChannelID, e.Rev, l.at(), seen)
		}
	case e.Type == chat.TypeReset:
		if seen, ok := c.at[e.ChannelID]; ok && e.Rev < seen+resetAfter {
			c.f.violate("%s was reset from rev %d to %d of channel %s (%s), though it was not far behind", c.p.name, seen, e.Rev, e.ChannelID, l.at())
		}
		c.at[e.ChannelID] = e.Rev
	}
}

// next is one rev given.
func (c *consumer) next(l *Line, ch topology.ChannelID, rev topology.Rev) {
	c.f.examined++
	seen, known := c.at[ch]
	switch {
	case known && rev <= seen:
		c.f.violate("%s was given rev %d of %s again (%s), after %d", c.p.name, rev, ch, l.at(), seen)
	case known && rev > seen+1:
		c.f.violate("%s was given rev %d of %s (%s) after %d: %d are missing", c.p.name, rev, ch, l.at(), seen, rev-seen-1)
	}
	c.at[ch] = rev
}

// tail: who was there in the end has everything.
func (c *consumer) tail() {
	if c.socket == 0 || !c.began {
		return
	}
	for ch, rev := range c.at {
		final := c.r.channels[ch]
		if ch == chat.UserCursor || final == nil || final.head == nil {
			continue
		}
		c.f.examined++
		if rev < final.head.Rev {
			c.f.violate("%s was given channel %s up to rev %d only; its head is %d (%s)", c.p.name, ch, rev, final.head.Rev, final.head.at())
		}
	}
}
