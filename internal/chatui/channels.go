package chatui

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// place is one of the user's channels and how much of it is unread.
type place struct {
	channel          chat.Channel
	unread, mentions uint64
	marked           topology.MessageID // read up to here
}

// count is what is unread in words; "" = nothing.
func (p *place) count() string {
	switch {
	case p.mentions > 0:
		return fmt.Sprintf("%d @%d", p.unread, p.mentions)
	case p.unread > 0:
		return strconv.FormatUint(p.unread, 10)
	default:
		return ""
	}
}

// channelList is the user's channels by name.
type channelList struct {
	places []*place
	forMe  *regexp.Regexp
}

// list is the user's channels; what is unread in them is not known yet.
func (s *session) list(ctx context.Context) (*channelList, error) {
	me := regexp.QuoteMeta(s.me.Name)
	l := &channelList{forMe: regexp.MustCompile(
		`(?i)<@` + regexp.QuoteMeta(string(s.me.ID)) + `>|<!(channel|here|everyone)>|(^|[^\pL\pN_])@(` + me + `|channel|here|everyone)($|[^\pL\pN_])`)}
	err := s.channels(ctx, func(ch chat.Channel) bool {
		if ch.IsMember {
			l.add(ch)
		}
		return false
	})
	return l, err
}

func (l *channelList) add(ch chat.Channel) {
	if p := l.of(ch.ID); p != nil {
		p.channel = ch
		return
	}
	l.places = append(l.places, &place{channel: ch})
	slices.SortFunc(l.places, func(a, b *place) int { return strings.Compare(a.channel.Name, b.channel.Name) })
}

func (l *channelList) remove(ch topology.ChannelID) {
	l.places = slices.DeleteFunc(l.places, func(p *place) bool { return p.channel.ID == ch })
}

func (l *channelList) of(ch topology.ChannelID) *place {
	if i := l.index(ch); i >= 0 {
		return l.places[i]
	}
	return nil
}

func (l *channelList) index(ch topology.ChannelID) int {
	return slices.IndexFunc(l.places, func(p *place) bool { return p.channel.ID == ch })
}

// named finds a channel by name or id.
func (l *channelList) named(name string) (chat.Channel, bool) {
	name = strings.TrimPrefix(name, "#")
	for _, p := range l.places {
		if p.channel.Name == name || string(p.channel.ID) == name {
			return p.channel, true
		}
	}
	return chat.Channel{}, false
}

// read takes the state of all channels.
func (l *channelList) read(r chat.UnreadResponse) {
	for _, s := range r.Channels {
		l.set(s)
	}
}

func (l *channelList) set(s chat.ReadState) {
	p := l.of(s.ChannelID)
	if p == nil {
		return
	}
	p.unread, p.mentions = s.UnreadCount, s.MentionCount
	if s.LastReadMessageID != nil {
		p.marked = *s.LastReadMessageID
	}
}

// came counts a message as the edge does: one's own, until it is marked; a reply
// not, but a mention in it as long as its root is unread.
func (l *channelList) came(m chat.Message, mine bool) {
	p := l.of(m.ChannelID)
	if p == nil {
		return
	}
	if m.ThreadRoot == nil {
		p.unread++
	}
	unread := m.ThreadRoot == nil || *m.ThreadRoot > p.marked
	if !mine && unread && l.forMe.MatchString(m.Text) {
		p.mentions++
	}
}

// elsewhere is how much is unread in the other channels.
func (l *channelList) elsewhere(here topology.ChannelID) (n uint64) {
	for _, p := range l.places {
		if p.channel.ID != here {
			n += p.unread
		}
	}
	return n
}
