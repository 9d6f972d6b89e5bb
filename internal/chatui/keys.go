package chatui

import (
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"parley/internal/problem"
)

// key takes a key: those that steer, and those that are typed.
func (m *screen) key(k tea.KeyPressMsg) tea.Cmd {
	p := m.pane()
	switch k.String() {
	case "ctrl+c":
		return m.quit()
	case "esc":
		m.status = ""
		switch {
		case p.selected != nil:
			p.selected = nil
		case m.at.thread != nil:
			m.closeThread()
		default:
			p.scroll(-p.up)
		}
	case "up":
		p.choose(-1)
	case "down":
		p.choose(1)
	case "pgup":
		p.scroll(p.height - 1)
	case "pgdown":
		p.scroll(1 - p.height)
	case "ctrl+n":
		return m.beside(1)
	case "ctrl+p":
		return m.beside(-1)
	case "enter":
		return m.enterKey()
	default:
		return m.typed(k)
	}
	return nil
}

func (m *screen) typed(k tea.KeyPressMsg) tea.Cmd {
	m.leaving = false
	var cmd tea.Cmd
	m.input, cmd = m.input.Update(k)
	if v := m.input.Value(); v == "" || v[0] == '/' || time.Since(m.told) < typingEvery {
		return cmd
	}
	m.told = time.Now()
	ch := m.at.channel.ID
	return tea.Batch(cmd, func() tea.Msg { m.s.typing(ch); return nil })
}

// quit leaves, but says once that messages would be lost.
func (m *screen) quit() tea.Cmd {
	if n := len(m.out.pending()); n > 0 && !m.leaving {
		m.leaving = true
		m.complain(problem.New(problem.Unavailable, "%d not sent yet: Ctrl-C again leaves all the same", n))
		return nil
	}
	return tea.Quit
}

// beside goes to the next channel of the list, or the one before.
func (m *screen) beside(step int) tea.Cmd {
	n := len(m.list.places)
	if n == 0 {
		return nil
	}
	at := max(m.list.index(m.at.channel.ID), 0)
	return m.goTo(m.list.places[(at+step+n)%n].channel)
}

// enterKey sends what is typed; with nothing typed it opens the selected message.
func (m *screen) enterKey() tea.Cmd {
	p := m.pane()
	typed := strings.TrimSpace(m.input.Value())
	if typed == "" {
		if p.selected == nil || m.at.thread != nil {
			return nil
		}
		return m.openThreadOf(p.selected.msg)
	}
	m.status = ""
	name, arg, post := command(typed)
	if name != "" {
		m.input.Reset()
		return m.command(name, arg)
	}
	if !m.out.add(m.target(), post) {
		m.complain(problem.New(problem.Exhausted, "%d messages wait already: this one stays here", outboxMax))
		return nil
	}
	m.input.Reset()
	p.selected = nil
	p.scroll(-p.up)
	return nil
}

func (m *screen) command(name, arg string) tea.Cmd {
	p := m.pane()
	switch name {
	case "/quit":
		return m.quit()
	case "/join", "/channel":
		return m.enter(name, arg)
	case "/thread":
		return m.threadCommand()
	}
	p.selected = nil // what a command says comes at the end
	p.scroll(-p.up)
	if name == "/help" {
		for _, l := range slices.Concat(strings.Split(helpText, "\n"), strings.Split(helpKeys, "\n")) {
			p.note(l, false)
		}
		return nil
	}
	return func() tea.Msg {
		lines, err := m.s.answer(m.ctx, name, arg)
		return answerMsg{p, name + " " + arg, lines, err}
	}
}

func (m *screen) threadCommand() tea.Cmd {
	p := m.at.pane
	if p.selected != nil {
		return m.openThreadOf(p.selected.msg)
	}
	if newest, ok := p.newest(); ok {
		m.openThread(newest)
		return nil
	}
	p.note("there is no message here yet", true)
	return nil
}
