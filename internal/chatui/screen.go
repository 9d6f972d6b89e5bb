package chatui

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"charm.land/bubbles/v2/textinput"
	"charm.land/bubbles/v2/viewport"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/wire/chat"
)

// typingEvery is how often typing is told: a typing event counts for longer.
const typingEvery = 3 * time.Second

// linesMax bounds what can be scrolled back to.
const linesMax = 2000

type styles struct{ title, who, mine, dim, bad lipgloss.Style }

func newStyles() styles {
	return styles{
		title: lipgloss.NewStyle().Bold(true).Reverse(true).Padding(0, 1),
		who:   lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("6")),
		mine:  lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("2")),
		dim:   lipgloss.NewStyle().Faint(true),
		bad:   lipgloss.NewStyle().Foreground(lipgloss.Color("1")),
	}
}

// screen is bubbletea's model: a pane of lines over an input line.
type screen struct {
	ctx    context.Context //nolint:containedctx // bubbletea calls Update without one
	room   *room
	style  styles
	pane   viewport.Model
	input  textinput.Model
	lines  []string
	typing string
	typed  time.Time
	status string
}

type (
	eventMsg  client.Event
	postedMsg struct {
		lines []line
		err   error
	}
	quietMsg struct{ who string }
)

// Screen runs on a terminal until the user leaves (Ctrl-C or Esc) or ctx ends.
func Screen(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	r, old, err := open(ctx, g, cfg)
	if err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	m := &screen{ctx: ctx, room: r, style: newStyles(), pane: viewport.New(), input: textinput.New()}
	m.pane.SoftWrap = true
	m.input.Placeholder = "write to #" + r.channel.Name
	m.input.CharLimit = chat.TextRunesMax
	for _, l := range old {
		m.add(l)
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	g.Go(func() error {
		defer p.Quit() // the token was refused
		for e := range r.stream.Events() {
			p.Send(eventMsg(e))
		}
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

// Init starts the cursor.
func (m *screen) Init() tea.Cmd { return m.input.Focus() }

// Update takes keys, sizes and events.
//
//nolint:ireturn // bubbletea asks for it
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.pane.SetWidth(msg.Width)
		m.pane.SetHeight(max(msg.Height-3, 1))
		m.input.SetWidth(msg.Width - 4)
		m.pane.GotoBottom()
		return m, nil
	case tea.KeyPressMsg:
		return m.key(msg)
	case eventMsg:
		return m, m.event(client.Event(msg))
	case postedMsg:
		m.status = ""
		for _, l := range msg.lines {
			m.add(l)
		}
		if msg.err != nil {
			m.status = m.style.bad.Render("not done: " + problem.Show(msg.err))
		}
		return m, nil
	case quietMsg:
		if m.typing == msg.who {
			m.typing = ""
		}
		return m, nil
	}
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(msg)
	return m, cmd
}

//nolint:ireturn // as Update
func (m *screen) key(k tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	switch k.String() {
	case "ctrl+c", "esc":
		return m, tea.Quit
	case "pgup":
		m.pane.PageUp()
		return m, nil
	case "pgdown":
		m.pane.PageDown()
		return m, nil
	case "enter":
		text := strings.TrimSpace(m.input.Value())
		if text == "" {
			return m, nil
		}
		m.input.Reset()
		return m, func() tea.Msg {
			lines, err := m.room.say(m.ctx, text)
			return postedMsg{lines, err}
		}
	}
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(k)
	if m.input.Value() != "" && time.Since(m.typed) > typingEvery {
		m.typed = time.Now()
		cmd = tea.Batch(cmd, func() tea.Msg { m.room.typing(); return nil })
	}
	return m, cmd
}

func (m *screen) event(e client.Event) tea.Cmd {
	l, ok := m.room.take(e)
	if !ok {
		return nil
	}
	if e.Type == chat.TypeTyping {
		m.typing = l.Text
		return tea.Tick(chat.TypingTTL, func(time.Time) tea.Msg { return quietMsg{l.Text} })
	}
	if strings.HasPrefix(m.typing, l.Who+" ") {
		m.typing = ""
	}
	m.add(l)
	return nil
}

func (m *screen) add(l line) {
	follow := m.pane.AtBottom()
	m.lines = append(m.lines, m.style.render(l))
	if len(m.lines) > linesMax {
		m.lines = m.lines[len(m.lines)-linesMax:]
	}
	m.pane.SetContentLines(m.lines)
	if follow {
		m.pane.GotoBottom()
	}
}

func (s styles) render(l line) string {
	if l.Who == "" {
		return s.dim.Render("      · " + l.Text)
	}
	who := s.who
	if l.Mine {
		who = s.mine
	}
	return s.dim.Render(l.When) + " " + who.Render(l.Who) + " " + l.Text
}

// View draws title, pane, status and input.
func (m *screen) View() tea.View {
	status := m.status
	if status == "" {
		status = m.style.dim.Render(m.typing)
	}
	v := tea.NewView(strings.Join([]string{m.style.title.Render(m.room.title()), m.pane.View(), status, m.input.View()}, "\n"))
	v.AltScreen = true
	return v
}
