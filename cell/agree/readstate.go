package agree

import (
	"context"
	"slices"

	"parley/cell/change"
	"parley/cell/readstate"
	"parley/internal/topology"
)

// counted is who is mentioned how often in a channel, as its log says.
type counted struct {
	direct map[topology.UserID]uint64 // by others, in changes that do not mention everybody
	all    uint64                     // changes that mention everybody
	allBy  map[topology.UserID]uint64 // those, by author
	top    []digest
	before topology.Seq
}

// add counts a change that is, or replies to, the message of seq. Roots older than the
// log are left out.
func (n *counted) add(ch *change.Change, seq topology.Seq) {
	if seq <= n.before {
		return
	}
	if slices.Contains(ch.Mentions, change.MentionAll) {
		n.all++
		n.allBy[ch.Author]++
		return
	}
	for _, u := range ch.Mentions {
		if u != ch.Author {
			n.direct[u]++
		}
	}
}

// of is what the badge of a user would count who has read nothing.
func (n *counted) of(u topology.UserID) uint64 {
	return min(n.direct[u]+n.all-n.allBy[u], readstate.MentionsMax)
}

// mentioned is a workspace's channels.
type mentioned map[topology.ChannelID]*counted

func (m mentioned) of(ch topology.ChannelID) *counted {
	n := &counted{direct: map[topology.UserID]uint64{}, allBy: map[topology.UserID]uint64{}}
	m[ch] = n
	return n
}

// readStates compares the marks and mentions of everybody.
func (c *comparison) readStates(ctx context.Context, p topology.Place, m mentioned) error {
	for after := topology.UserID(""); ; {
		us, err := c.Directory.Users(ctx, p, after, page)
		if err != nil || len(us) == 0 {
			return err
		}
		for _, u := range us {
			if err := c.readState(ctx, readstate.User{Place: p, ID: u.ID}, m); err != nil {
				return err
			}
			after = u.ID
		}
	}
}

func (c *comparison) readState(ctx context.Context, u readstate.User, m mentioned) error {
	c.report.Users++
	marks, err := c.Marks.Marks(ctx, u)
	if err != nil {
		return err
	}
	for ch, mark := range marks {
		c.report.Marks++
		n := m[ch]
		switch {
		case n == nil:
			c.report.add(InReadState, ch, "user %s has a mark in a channel that is not there", u.ID)
		case mark.Seq > n.before+topology.Seq(len(n.top)):
			c.report.add(InReadState, ch, "user %s has read up to seq %d, the log ends at %d", u.ID, mark.Seq, n.before+topology.Seq(len(n.top)))
		case mark.Seq > n.before && n.top[mark.Seq-n.before-1].id != mark.Message:
			c.report.add(InReadState, ch, "user %s's mark at seq %d names message %s", u.ID, mark.Seq, mark.Message)
		}
	}
	in, err := c.Directory.ChannelsOf(ctx, u.Place, u.ID)
	if err != nil || len(in) == 0 {
		return err
	}
	above := make(map[topology.ChannelID]topology.Seq, len(in))
	for _, ms := range in {
		if n := m[ms.Channel]; n != nil {
			above[ms.Channel] = n.before // what is older than the log can't be counted
		}
	}
	counts, err := c.Marks.Mentions(ctx, u, above)
	if err != nil {
		return err
	}
	for ch := range above {
		c.report.Mentions += counts[ch]
		if want := m[ch].of(u.ID); counts[ch] != want {
			c.report.add(InReadState, ch, "user %s is mentioned %d times, in the log %d times", u.ID, counts[ch], want)
		}
	}
	return nil
}
