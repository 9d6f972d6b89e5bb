package chatui

import (
	"context"

	tea "charm.land/bubbletea/v2"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// room is what is open: a channel, and over it maybe one of its threads.
type room struct {
	channel chat.Channel
	pane    *pane
	thread  *thread
}

// thread is a message and its replies, oldest first.
type thread struct {
	root chat.Message
	pane *pane
	more bool               // there are replies to be loaded
	from topology.MessageID // after this one
}

type (
	// pageMsg is a page of a channel's history.
	pageMsg struct {
		pane *pane // whose it is: by now another may be open
		page chat.MessagePage
		err  error
	}
	// repliesMsg is a page of a thread.
	repliesMsg pageMsg
	// rootMsg is the root of a thread that is not in its channel's pane.
	rootMsg struct {
		of  topology.ChannelID
		msg chat.Message
		err error
	}
	// enteredMsg is a channel that was asked for by name.
	enteredMsg struct {
		typed   string
		channel chat.Channel
		err     error
	}
)

// target is where what is typed goes.
func (m *screen) target() target {
	t := target{channel: m.at.channel.ID}
	if m.at.thread != nil {
		t.root = m.at.thread.root.MessageID
	}
	return t
}

// pane is the one that is seen.
func (m *screen) pane() *pane {
	if m.at.thread != nil {
		return m.at.thread.pane
	}
	return m.at.pane
}

// leave keeps what is typed, goes elsewhere, and brings back what was typed there.
func (m *screen) leave(to room) {
	if m.drafts[m.target()] = m.input.Value(); m.input.Value() == "" {
		delete(m.drafts, m.target())
	}
	m.at = to
	m.typing.stop()
	m.input.SetValue(m.drafts[m.target()])
	m.input.CursorEnd()
	m.input.Placeholder = "write to #" + printable(m.at.channel.Name)
	if m.at.thread != nil {
		m.input.Placeholder = "answer " + m.s.name(m.at.thread.root.UserID)
	}
}

// goTo opens a channel with its newest messages.
func (m *screen) goTo(ch chat.Channel) tea.Cmd {
	m.status, m.marked = "", ""
	m.leave(room{channel: ch, pane: newPane(m.draw.draw)})
	m.size()
	return m.load("")
}

// reload opens again what is open, from its end.
func (m *screen) reload() tea.Cmd {
	m.at.pane = newPane(m.draw.draw)
	m.size()
	if m.at.thread != nil {
		m.openThread(m.at.thread.root)
	}
	return m.load("")
}

// enter goes to a channel by name, joining it if need be.
func (m *screen) enter(command, name string) tea.Cmd {
	if ch, ok := m.list.named(name); ok {
		return m.goTo(ch)
	}
	return func() tea.Msg {
		if name == "" {
			return enteredMsg{err: problem.New(problem.Invalid, "%s needs the name of a channel", command)}
		}
		ch, err := m.s.enter(m.ctx, name)
		return enteredMsg{command + " " + name, ch, err}
	}
}

// load asks for the messages before one of the open channel; "" = its end.
func (m *screen) load(before topology.MessageID) tea.Cmd {
	p, ch := m.at.pane, m.at.channel.ID
	p.loading = true
	return func() tea.Msg {
		page, err := m.s.before(m.ctx, ch, before)
		return pageMsg{p, page, err}
	}
}

func (m *screen) loaded(a pageMsg) {
	a.pane.loading = false
	if a.pane != m.at.pane {
		return
	}
	if a.err != nil {
		a.pane.older, a.pane.stalled = true, true
		m.complain(a.err)
		return
	}
	a.pane.older = a.page.HasMore
	for _, msg := range a.page.Messages {
		a.pane.put(&item{order: msg.Seq, msg: msg})
	}
	a.pane.dropLast()
}

// openThread opens the thread of a message.
func (m *screen) openThread(root chat.Message) {
	t := &thread{root: root, pane: newPane(m.draw.draw), more: true}
	t.pane.put(&item{msg: root, whole: true})
	m.leave(room{channel: m.at.channel, pane: m.at.pane, thread: t})
	m.size()
}

// openThreadOf opens the thread of an item of a channel: a reply's is its root's.
func (m *screen) openThreadOf(msg chat.Message) tea.Cmd {
	if msg.ThreadRoot == nil {
		m.openThread(msg)
		return nil
	}
	if it := m.at.pane.seen[*msg.ThreadRoot]; it != nil {
		m.openThread(it.msg)
		return nil
	}
	ch, id := m.at.channel.ID, *msg.ThreadRoot
	return func() tea.Msg {
		root, err := m.s.message(m.ctx, ch, id)
		return rootMsg{ch, root, err}
	}
}

func (m *screen) closeThread() {
	m.leave(room{channel: m.at.channel, pane: m.at.pane})
}

// loadReplies asks for the next replies of the open thread, until all are there.
func (m *screen) loadReplies() tea.Cmd {
	t := m.at.thread
	if !t.more || t.pane.loading || t.pane.stalled {
		return nil
	}
	p, ch, root, from := t.pane, m.at.channel.ID, t.root.MessageID, t.from
	p.loading = true
	return func() tea.Msg {
		page, err := m.s.replies(m.ctx, ch, root, from)
		return repliesMsg{p, page, err}
	}
}

func (m *screen) repliesLoaded(a repliesMsg) {
	a.pane.loading = false
	t := m.at.thread
	if t == nil || a.pane != t.pane {
		return
	}
	if a.err != nil {
		t.pane.stalled = true
		m.complain(a.err)
		return
	}
	for _, msg := range a.page.Messages {
		m.putReply(msg)
		t.from = msg.MessageID
	}
	t.more = a.page.HasMore && len(a.page.Messages) > 0
}

// putReply shows a reply in the open thread. A reply's seq counts the thread.
func (m *screen) putReply(msg chat.Message) {
	p, root := m.at.thread.pane, m.at.thread.root.MessageID
	p.put(&item{order: msg.Seq, msg: msg, whole: true})
	p.replied(root, uint64(msg.Seq))
	m.at.pane.replied(root, uint64(msg.Seq))
	p.dropFirst()
}

// show shows a new message of the open channel where it belongs.
func (m *screen) show(msg chat.Message) {
	p := m.at.pane
	if msg.ThreadRoot == nil {
		p.put(&item{order: msg.Seq, msg: msg})
		p.dropFirst()
		return
	}
	p.replied(*msg.ThreadRoot, uint64(msg.Seq))
	if m.at.thread != nil && m.at.thread.root.MessageID == *msg.ThreadRoot {
		m.putReply(msg)
		return
	}
	p.put(&item{order: p.last(), msg: msg, brief: true})
	p.dropFirst()
}

// message is one message of a channel.
func (s *session) message(ctx context.Context, ch topology.ChannelID, id topology.MessageID) (chat.Message, error) {
	return asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.Message, error) { return c.Message(ctx, ch, id) })
}

func (s *session) replies(ctx context.Context, ch topology.ChannelID, root, after topology.MessageID) (chat.MessagePage, error) {
	return asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.MessagePage, error) {
		return c.Replies(ctx, ch, root, after, chat.PageMax)
	})
}
