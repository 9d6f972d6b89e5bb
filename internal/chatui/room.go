// Package chatui is chat in a terminal: one channel, its newest messages, what
// comes in, and a line to type in. On a terminal it takes the screen; elsewhere
// it reads lines and prints lines.
package chatui

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Config says who talks where.
type Config struct {
	Clients []*client.Client // edges in order of preference, all with the user's token
	Channel string           // name or id; "" = the first of the user's channels
	Log     *slog.Logger
}

// historyShown is how many old messages a room opens with.
const historyShown = 50

// usersPage is how many people are asked for at once.
const usersPage = 1000

// room is one channel as one user sees it. Its methods are called from one
// goroutine, say and typing excepted.
type room struct {
	api      *client.Client
	stream   *client.Stream
	me       chat.User
	channel  chat.Channel
	names    map[topology.UserID]string
	messages map[topology.MessageID]bool // those shown: history and live overlap at the start
}

// line is something to show.
type line struct {
	When, Who, Text string // Who "" = a notice
	Mine            bool
}

// open finds the channel, connects (g runs the stream), and loads names and the
// newest messages.
func open(ctx context.Context, g *errgroup.Group, cfg Config) (*room, []line, error) {
	r := &room{api: cfg.Clients[0], names: map[topology.UserID]string{}, messages: map[topology.MessageID]bool{}}
	var err error
	if r.me, err = r.api.Me(ctx); err != nil {
		return nil, nil, err
	}
	if err := r.loadNames(ctx); err != nil {
		return nil, nil, err
	}
	if r.channel, err = r.find(ctx, cfg.Channel); err != nil {
		return nil, nil, err
	}
	if !r.channel.IsMember {
		if _, err := r.api.Join(ctx, r.channel.ID); err != nil {
			return nil, nil, err
		}
	}
	// The stream is connected before the page is read, so that nothing falls between.
	if r.stream, err = client.NewStream(cfg.Clients, nil, cfg.Log); err != nil {
		return nil, nil, err
	}
	g.Go(func() error { return r.stream.Run(ctx) })
	select {
	case <-r.stream.Events(): // the hello
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	page, err := r.api.Before(ctx, r.channel.ID, "", historyShown)
	if err != nil {
		return nil, nil, err
	}
	slices.Reverse(page.Messages)
	var lines []line
	for _, m := range page.Messages {
		lines = append(lines, r.message(m))
	}
	return r, lines, nil
}

func (r *room) loadNames(ctx context.Context) error {
	for after := ""; ; {
		page, err := r.api.Users(ctx, after, usersPage)
		if err != nil {
			return err
		}
		for _, u := range page.Users {
			r.names[u.ID] = u.Name
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (r *room) find(ctx context.Context, name string) (chat.Channel, error) {
	name = strings.TrimPrefix(name, "#")
	for after := ""; ; {
		page, err := r.api.Channels(ctx, after, chat.PageMax)
		if err != nil {
			return chat.Channel{}, err
		}
		for _, ch := range page.Channels {
			if ch.Name == name || string(ch.ID) == name || (name == "" && ch.IsMember) {
				return ch, nil
			}
		}
		if after = page.Next; after == "" {
			return chat.Channel{}, problem.New(problem.NotFound, "there is no channel %q that you may see", name)
		}
	}
}

// take turns an event into what is to be shown; ok is false if nothing is.
func (r *room) take(e client.Event) (line, bool) {
	if e.ChannelID != r.channel.ID {
		return line{}, false
	}
	switch e.Type {
	case chat.TypeMessage:
		var m chat.MessageEvent
		if json.Unmarshal(e.Raw, &m) != nil || r.messages[m.Message.MessageID] {
			return line{}, false
		}
		return r.message(m.Message), true
	case chat.TypeTyping:
		var t chat.TypingEvent
		if json.Unmarshal(e.Raw, &t) != nil || t.UserID == r.me.ID {
			return line{}, false
		}
		return line{Text: r.name(t.UserID) + " is typing"}, true
	case chat.TypeChannel:
		var c chat.ChannelEvent
		if json.Unmarshal(e.Raw, &c) != nil {
			return line{}, false
		}
		return line{Text: r.change(c)}, true
	case chat.TypeReset:
		return line{Text: "you were away for long: older messages are in the history"}, true
	}
	return line{}, false
}

func (r *room) change(c chat.ChannelEvent) string {
	who := make([]string, 0, len(c.UserIDs))
	for _, u := range c.UserIDs {
		who = append(who, r.name(u))
	}
	switch c.Event {
	case chat.MemberJoined:
		return strings.Join(who, ", ") + " joined"
	case chat.MemberLeft:
		return strings.Join(who, ", ") + " left"
	default:
		return "the channel changed: " + c.Event
	}
}

func (r *room) message(m chat.Message) line {
	r.messages[m.MessageID] = true
	text := printable(m.Text)
	if m.ThreadRoot != nil {
		text = "↳ " + text
	}
	if m.ReplyCount > 0 {
		text += fmt.Sprintf("  [%d replies]", m.ReplyCount)
	}
	return line{When: m.TS.Time().Local().Format("15:04"), Who: r.name(m.UserID), Text: text, Mine: m.UserID == r.me.ID}
}

func (r *room) name(u topology.UserID) string {
	if n, ok := r.names[u]; ok {
		return printable(n)
	}
	return string(u)
}

// printable is s without what would steer the reader's terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' || !unicode.IsControl(c) {
			return c
		}
		return unicode.ReplacementChar
	}, s)
}

// typing tells the others, as far as that is possible now.
func (r *room) typing() {
	_ = r.stream.Send(chat.ClientFrame{Type: chat.TypeTypingStart, ChannelID: r.channel.ID}) // never worth an error
}

// searchShown is how many messages /search shows.
const searchShown = 20

// searched are the lines that answer a typed "/search words"; ok is false if that
// was not what was typed.
func (r *room) searched(ctx context.Context, typed string) (lines []line, ok bool, err error) {
	words, ok := strings.CutPrefix(typed, "/search ")
	if !ok {
		return nil, false, nil
	}
	page, err := r.api.Search(ctx, client.SearchQuery{Text: words, Limit: searchShown})
	if problem.Is(err, problem.Invalid) {
		return []line{{Text: problem.Show(err)}}, true, nil
	}
	if err != nil {
		return nil, true, err
	}
	slices.Reverse(page.Messages) // the newest nearest to the cursor, as everywhere
	for _, m := range page.Messages {
		lines = append(lines, line{Text: fmt.Sprintf("%s %s %s: %s", m.TS.Time().Local().Format("2006-01-02 15:04"), r.place(m.ChannelID), r.name(m.UserID), printable(m.Text))})
	}
	end := fmt.Sprintf("%d found for %s", len(page.Messages), printable(words))
	if page.HasMore {
		end += ", and more"
	}
	if page.Degraded {
		end += "; the search index is away, so only the newest messages were looked at"
	}
	return append(lines, line{Text: end}), true, nil
}

// place is a channel as results show it.
func (r *room) place(ch topology.ChannelID) string {
	if ch == r.channel.ID {
		return "#" + r.channel.Name
	}
	return string(ch)
}

// say posts what was typed, or answers it.
func (r *room) say(ctx context.Context, typed string) ([]line, error) {
	if lines, ok, err := r.searched(ctx, typed); ok {
		return lines, err
	}
	_, err := r.api.Post(ctx, r.channel.ID, chat.PostRequest{Text: typed})
	return nil, err
}

func (r *room) title() string {
	return fmt.Sprintf("#%s · %d members · you are %s", r.channel.Name, r.channel.MemberCount, r.me.Name)
}
