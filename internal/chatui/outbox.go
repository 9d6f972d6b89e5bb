package chatui

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/oklog/ulid/v2"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

const (
	// postMax bounds one go at posting; one whose outcome is unknown is repeated
	// under the same key.
	postMax = time.Minute
	// outboxMax bounds the messages that wait.
	outboxMax = 32
)

// target is where what is typed goes: a channel, or a thread in it.
type target struct {
	channel topology.ChannelID
	root    topology.MessageID // "" = the channel
}

// outgoing is a message that has no answer yet.
type outgoing struct {
	target
	text, key string
	came      bool // it was seen in its channel, so it has been posted
}

// outbox is the messages on their way. They go one after the other: posted at
// once, they could change places.
type outbox struct {
	waiting []*outgoing
	busy    bool
}

type postedMsg struct {
	post   *outgoing
	posted chat.Posted
	err    error
}

// add takes a message, unless too many wait.
func (o *outbox) add(to target, text string) bool {
	if len(o.waiting) >= outboxMax {
		return false
	}
	o.waiting = append(o.waiting, &outgoing{target: to, text: text, key: ulid.Make().String()})
	return true
}

// pending is what has not been posted as far as is known.
func (o *outbox) pending() []*outgoing {
	if len(o.waiting) > 0 && o.waiting[0].came {
		return o.waiting[1:]
	}
	return o.waiting
}

// seen notes a message of the user's own that came in.
func (o *outbox) seen(m chat.Message) {
	if len(o.waiting) > 0 && m.ClientMsgID == o.waiting[0].key {
		o.waiting[0].came = true
	}
}

// next posts the first that waits, if none is under way.
func (o *outbox) next(ctx context.Context, s *session) tea.Cmd {
	if o.busy || len(o.waiting) == 0 {
		return nil
	}
	o.busy = true
	p := o.waiting[0]
	return func() tea.Msg {
		own, cancel := context.WithTimeout(ctx, postMax)
		defer cancel()
		r := chat.PostRequest{Text: p.text, ClientMsgID: p.key}
		if p.root != "" {
			r.ThreadRoot = &p.root
		}
		posted, err := s.stream.Post(own, p.channel, r)
		return postedMsg{p, posted, err}
	}
}

// posted takes the answer to a post.
func (m *screen) posted(a postedMsg) {
	m.out.busy = false
	if away(a.err) {
		m.complain(problem.Wrap(a.err, problem.KindOf(a.err), "not sent yet, trying again: %s", problem.Show(a.err)))
		return
	}
	m.out.waiting = m.out.waiting[1:]
	if a.err != nil {
		m.refused(a.post, a.err)
		return
	}
	if a.post.came || a.post.channel != m.at.channel.ID {
		return
	}
	made := chat.Message{
		MessageID: a.posted.MessageID, ChannelID: a.post.channel, Seq: a.posted.Seq, TS: a.posted.TS,
		UserID: m.s.me.ID, Text: a.post.text, ClientMsgID: a.post.key,
	}
	if a.post.root != "" {
		made.ThreadRoot = &a.post.root
	}
	m.show(made)
}

// refused gives a text back: into the input if that is empty, else onto the screen.
func (m *screen) refused(p *outgoing, err error) {
	m.complain(problem.Wrap(err, problem.KindOf(err), "not posted: %s", problem.Show(err)))
	switch {
	case p.target == m.target() && m.input.Value() == "":
		m.input.SetValue(p.text)
		m.input.CursorEnd()
	case p.target != m.target() && m.drafts[p.target] == "":
		m.drafts[p.target] = p.text
	default:
		m.pane().note("not posted: "+printable(p.text), true)
	}
}
