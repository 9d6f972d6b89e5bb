// Package chatui is chat in a terminal. On a terminal it takes the screen: a list
// of channels with what is unread, the messages of one of them or of a thread,
// and a line to type in. Elsewhere it reads lines and prints lines.
package chatui

import (
	"log/slog"
	"strings"
	"unicode"

	"parley/client"
	"parley/internal/wire/chat"
)

// Config says who talks where.
type Config struct {
	Clients []*client.Client // edges in order of preference, all with the user's token
	Channel string           // name or id; "" = the first of the user's channels
	Log     *slog.Logger
}

// line is something to print.
type line struct {
	When, Who, Text string // Who "" = a notice
}

// clock is a message's time as it is shown.
func clock(t chat.Timestamp) string { return t.Time().Local().Format("15:04") }

// printable is s without what would steer the reader's terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' || !unicode.IsControl(c) {
			return c
		}
		return unicode.ReplacementChar
	}, s)
}
