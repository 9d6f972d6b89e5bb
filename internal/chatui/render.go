package chatui

import (
	"fmt"
	"strings"

	"charm.land/lipgloss/v2"

	"parley/internal/topology"
)

// rowsMax is how many rows a message has in its channel; its thread shows all.
const rowsMax = 30

type styles struct{ title, who, mine, dim, bad, here lipgloss.Style }

func newStyles() styles {
	return styles{
		title: lipgloss.NewStyle().Bold(true).Reverse(true).Padding(0, 1),
		who:   lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("6")),
		mine:  lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("2")),
		dim:   lipgloss.NewStyle().Faint(true),
		bad:   lipgloss.NewStyle().Foreground(lipgloss.Color("1")),
		here:  lipgloss.NewStyle().Reverse(true),
	}
}

// drawer draws items for one reader.
type drawer struct {
	styles
	me   topology.UserID
	name func(topology.UserID) string
}

// draw wraps an item; each row begins with a space for the mark of the selected one.
func (d drawer) draw(it *item, width int) []string {
	width = max(width-1, 1)
	switch {
	case it.msg.MessageID == "":
		style := d.dim
		if it.bad {
			style = d.bad
		}
		return wrap(style.Render("      · "+tabless(it.notice)), width)
	case it.brief:
		return []string{" " + fit(d.dim.Render("    ↳ "+d.name(it.msg.UserID)+": "+oneLine(it.msg.Text)), width)}
	}
	who := d.who
	if it.msg.UserID == d.me {
		who = d.mine
	}
	rows := wrap(d.dim.Render(clock(it.msg.TS))+" "+who.Render(d.name(it.msg.UserID))+" "+tabless(printable(it.msg.Text)), width)
	if more := len(rows) - rowsMax; more > 0 && !it.whole {
		rows = append(rows[:rowsMax:rowsMax], " "+fit(d.dim.Render(fmt.Sprintf("      … %d more lines: its thread shows them", more)), width))
	}
	if it.msg.ReplyCount > 0 {
		rows = append(rows, " "+fit(d.dim.Render("      "+replies(it.msg.ReplyCount)), width))
	}
	return rows
}

func wrap(s string, width int) []string {
	rows := strings.Split(lipgloss.Wrap(s, width, ""), "\n")
	for n, r := range rows {
		rows[n] = " " + r
	}
	return rows
}

func replies(n uint64) string {
	if n == 1 {
		return "[1 reply]"
	}
	return fmt.Sprintf("[%d replies]", n)
}

// tabless is s with spaces for tabs, whose width a terminal alone knows.
func tabless(s string) string { return strings.ReplaceAll(s, "\t", "    ") }

// oneLine is the start of a text in one row.
func oneLine(s string) string {
	const runes = 200
	s, _, _ = strings.Cut(s, "\n")
	if r := []rune(s); len(r) > runes {
		s = string(r[:runes]) + "…"
	}
	return tabless(printable(s))
}

// fit cuts a row to a width.
func fit(s string, width int) string {
	return lipgloss.NewStyle().Inline(true).MaxWidth(width).Render(s)
}

// pad cuts or fills a row to a width.
func pad(s string, width int) string {
	s = fit(s, width)
	return s + strings.Repeat(" ", max(0, width-lipgloss.Width(s)))
}
