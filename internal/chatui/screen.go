package chatui

import (
	"context"
	"errors"
	"io"
	"time"

	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Screen runs on a terminal until the user leaves or ctx ends.
func Screen(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	m, err := newScreen(ctx, g, cfg)
	if err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	g.Go(func() error {
		defer p.Quit() // the token was refused
		m.pump(p.Send)
		return nil
	})
	_, err = p.Run()
	cancel()
	if failed := g.Wait(); failed != nil {
		return failed
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// screen is bubbletea's model. Update alone changes it; what takes time is done in
// commands, whose answers are messages.
type screen struct {
	ctx   context.Context //nolint:containedctx // bubbletea calls Update without one
	s     *session
	style styles
	draw  drawer
	input textinput.Model

	width, height int

	list    *channelList
	at      room
	drafts  map[target]string // typed and not sent, where it was typed
	out     outbox
	typing  typists
	told    time.Time // when others were told last that the user types
	offline bool
	status  string // what went wrong last
	leaving bool   // to leave was asked for while messages wait

	marking bool
	marked  topology.MessageID // the mark that was tried last
}

type (
	eventMsg  client.Event
	linkMsg   bool
	answerMsg struct { // a command's
		to    *pane
		typed string
		lines []string
		err   error
	}
	unreadMsg struct {
		state chat.UnreadResponse
		err   error
	}
	markedMsg struct {
		state chat.ReadState
		err   error
	}
)

func newScreen(ctx context.Context, g *errgroup.Group, cfg Config) (*screen, error) {
	s, ch, err := open(ctx, g, cfg)
	if err != nil {
		return nil, err
	}
	m := &screen{
		ctx: ctx, s: s, style: newStyles(), input: textinput.New(),
		drafts: map[target]string{}, typing: typists{},
	}
	m.draw = drawer{styles: m.style, me: s.me.ID, name: s.name}
	m.input.CharLimit = chat.TextRunesMax
	if m.list, err = s.list(ctx); err != nil {
		return nil, err
	}
	m.list.add(ch)
	m.at = room{channel: ch, pane: newPane(m.draw.draw)}
	return m, nil
}

// pump hands over what the stream says, until it ends.
func (m *screen) pump(send func(tea.Msg)) {
	for {
		select {
		case e, ok := <-m.s.stream.Events():
			if !ok {
				return
			}
			send(eventMsg(e))
		case up := <-m.s.link.news:
			send(linkMsg(up))
		}
	}
}

// Init starts the cursor and loads what is to be seen.
func (m *screen) Init() tea.Cmd {
	return tea.Batch(m.input.Focus(), m.goTo(m.at.channel), m.askUnread())
}

// Update takes keys, sizes, events and answers.
//
//nolint:ireturn // bubbletea asks for it
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
		m.size()
	case tea.KeyPressMsg:
		cmd = m.key(msg)
	case eventMsg:
		cmd = m.event(client.Event(msg))
	case linkMsg:
		m.offline = !bool(msg)
	case quietMsg:
		m.typing.quiet()
	default:
		cmd = m.answered(msg)
	}
	return m, tea.Batch(cmd, m.settle())
}

// answered takes what a command of ours found out; the rest is the input's.
func (m *screen) answered(msg tea.Msg) tea.Cmd {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case postedMsg:
		m.posted(msg)
	case pageMsg:
		m.loaded(msg)
	case repliesMsg:
		m.repliesLoaded(msg)
	case rootMsg:
		switch {
		case msg.err != nil:
			m.complain(msg.err)
		case msg.of == m.at.channel.ID:
			m.openThread(msg.msg)
		}
	case enteredMsg:
		if msg.err != nil {
			m.failed(msg.typed, msg.err)
			break
		}
		m.list.add(msg.channel)
		cmd = m.goTo(msg.channel)
	case answerMsg:
		for _, l := range msg.lines {
			msg.to.note(l, false)
		}
		if msg.err != nil {
			m.failed(msg.typed, msg.err)
		}
	case unreadMsg:
		if msg.err != nil {
			m.complain(msg.err)
			break
		}
		m.list.read(msg.state)
	case markedMsg:
		m.marking = false
		if msg.err == nil {
			m.list.set(msg.state)
		}
	default:
		m.input, cmd = m.input.Update(msg)
	}
	return cmd
}

// settle does what a change calls for: it posts what waits, loads what is scrolled
// to, and marks as read what is seen.
func (m *screen) settle() tea.Cmd {
	cmds := []tea.Cmd{m.out.next(m.ctx, m.s)}
	p := m.at.pane
	switch {
	case m.height == 0: // nobody sees anything yet
	case m.at.thread != nil:
		cmds = append(cmds, m.loadReplies())
	case p.loading:
	case p.cut && p.up == 0:
		cmds = append(cmds, m.reload())
	case p.older && !p.stalled && p.top():
		cmds = append(cmds, m.load(p.oldest()))
	default:
		cmds = append(cmds, m.markRead())
	}
	return tea.Batch(cmds...)
}

// markRead moves the user's mark to the newest message when that is seen.
func (m *screen) markRead() tea.Cmd {
	at := m.list.of(m.at.channel.ID)
	newest, ok := m.at.pane.newest()
	if !ok || at == nil || m.marking || m.at.pane.up > 0 || newest.MessageID <= max(at.marked, m.marked) {
		return nil
	}
	m.marking, m.marked = true, newest.MessageID
	at.unread, at.mentions = 0, 0
	return func() tea.Msg {
		state, err := asked(m.ctx, m.s, func(ctx context.Context, c *client.Client) (chat.ReadState, error) {
			return c.MarkRead(ctx, newest.ChannelID, newest.MessageID)
		})
		return markedMsg{state, err}
	}
}

func (m *screen) askUnread() tea.Cmd {
	return func() tea.Msg {
		state, err := m.s.unread(m.ctx)
		return unreadMsg{state, err}
	}
}

// failed tells why a command failed, and gives it back if it may work later.
func (m *screen) failed(typed string, err error) {
	if m.complain(err); away(err) && m.input.Value() == "" {
		m.input.SetValue(typed)
		m.input.CursorEnd()
	}
}

func (m *screen) complain(err error) { m.status = printable(problem.Show(err)) }
