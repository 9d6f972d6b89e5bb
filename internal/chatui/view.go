package chatui

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
)

const (
	// listWidth is how wide the list of channels is, on a screen of at least wideMin.
	listWidth = 24
	wideMin   = 80
	// chrome is the rows around the pane: title, status, input, keys.
	chrome = 4
)

// size fits what is open to the screen.
func (m *screen) size() {
	panes := []*pane{m.at.pane}
	if m.at.thread != nil {
		panes = append(panes, m.at.thread.pane)
	}
	width := m.width
	if m.wide() {
		width -= listWidth + 1
	}
	for _, p := range panes {
		p.width, p.height = max(width, 2), max(m.height-chrome, 1)
	}
	m.input.SetWidth(max(m.width-4, 1))
}

func (m *screen) wide() bool { return m.width >= wideMin }

// View draws title, list and pane, status, input and keys.
func (m *screen) View() tea.View {
	rows, _ := m.pane().view()
	for len(rows) < m.pane().height {
		rows = append(rows, "")
	}
	if m.wide() {
		list := m.listRows(len(rows))
		for n := range rows {
			rows[n] = list[n] + m.style.dim.Render("│") + rows[n]
		}
	}
	all := make([]string, 0, len(rows)+chrome)
	all = append(all, m.style.title.Render(fit(m.title(), max(m.width-2, 1))))
	all = append(all, rows...)
	all = append(all, fit(m.statusRow(), max(m.width, 1)), m.input.View(), fit(m.style.dim.Render(m.keys()), max(m.width, 1)))
	v := tea.NewView(strings.Join(all, "\n"))
	v.AltScreen = true
	return v
}

func (m *screen) title() string {
	ch := m.at.channel
	if m.at.thread != nil {
		root := m.at.thread.root
		return fmt.Sprintf("#%s · thread of %s: %s", printable(ch.Name), m.s.name(root.UserID), oneLine(root.Text))
	}
	t := fmt.Sprintf("#%s · %d members · you are %s", printable(ch.Name), ch.MemberCount, m.s.name(m.s.me.ID))
	if ch.Topic != "" {
		t += " · " + oneLine(ch.Topic)
	}
	return t
}

// listRows is the list of channels around the open one.
func (m *screen) listRows(height int) []string {
	at := m.list.index(m.at.channel.ID)
	first := max(0, min(at-height/2, len(m.list.places)-height))
	rows := make([]string, height)
	for n := range rows {
		if first+n >= len(m.list.places) {
			rows[n] = strings.Repeat(" ", listWidth)
			continue
		}
		p := m.list.places[first+n]
		count := p.count()
		if first+n == at && m.at.thread == nil && m.at.pane.up == 0 {
			count = "" // it is being read: the mark is under way
		}
		row := pad(" #"+printable(p.channel.Name), listWidth-len(count)-1) + count + " "
		switch {
		case first+n == at:
			row = m.style.here.Render(row)
		case p.mentions > 0:
			row = m.style.bad.Bold(true).Render(row)
		case p.unread > 0:
			row = m.style.title.UnsetReverse().UnsetPadding().Render(row)
		}
		rows[n] = row
	}
	return rows
}

// statusRow is what is to be known now, the worst first.
func (m *screen) statusRow() string {
	var parts []string
	if m.offline {
		parts = append(parts, m.style.bad.Render("not connected; connecting again"))
	}
	if p := m.out.pending(); len(p) > 0 {
		what := "sending: " + oneLine(p[0].text)
		if len(p) > 1 {
			what = fmt.Sprintf("sending %d: %s …", len(p), oneLine(p[0].text))
		}
		parts = append(parts, m.style.dim.Render(what))
	}
	if m.status != "" {
		parts = append(parts, m.style.bad.Render(m.status))
	}
	if m.pane().loading {
		parts = append(parts, m.style.dim.Render("loading"))
	}
	if t := m.typing.say(m.s.name); t != "" {
		parts = append(parts, m.style.dim.Render(t))
	}
	if n := m.list.elsewhere(m.at.channel.ID); n > 0 && !m.wide() {
		parts = append(parts, fmt.Sprintf("%d unread elsewhere: /channels", n))
	}
	if m.pane().up > 0 {
		parts = append(parts, m.style.dim.Render("scrolled back; PgDn goes on"))
	}
	return strings.Join(parts, " · ")
}

// keys is the footer.
func (m *screen) keys() string {
	switch {
	case m.at.thread != nil:
		return "Enter answer · Esc back to the channel · /help · Ctrl-C leave · PgUp PgDn scroll"
	case m.pane().selected != nil:
		return "Enter open the thread · Esc back · /help · Ctrl-C leave · ↑↓ select"
	default:
		return "Enter send · Ctrl-N Ctrl-P channel · /help · Ctrl-C leave · ↑↓ select · PgUp PgDn scroll"
	}
}
