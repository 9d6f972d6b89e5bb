package chatui

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// searchShown is how many messages /search shows.
const searchShown = 20

// helpText is what /help says everywhere; helpKeys what it adds on a screen.
const (
	helpText = `/channels lists your channels and what is unread
/search WORDS finds messages ("phrases", -word, from:name, in:channel, before:2026-03-01)
/help shows this; a message that begins with / is typed with two of them`
	helpKeys = `/join NAME or /channel NAME goes to a channel; so do Ctrl-N and Ctrl-P
/thread opens the thread of the selected message, or of the newest
↑ ↓ select a message, Enter opens its thread, Esc leaves it
PgUp PgDn scroll; older messages are loaded at the top
/quit or Ctrl-C leaves`
)

// command splits what was typed if it is a command; else post is the message.
func command(typed string) (name, arg, post string) {
	rest, ok := strings.CutPrefix(typed, "/")
	if !ok || strings.HasPrefix(rest, "/") {
		return "", "", rest
	}
	name, arg, _ = strings.Cut(rest, " ")
	return "/" + name, strings.TrimSpace(arg), ""
}

// answer is what a command that only shows something has to say.
func (s *session) answer(ctx context.Context, name, arg string) ([]string, error) {
	switch name {
	case "/help":
		return strings.Split(helpText, "\n"), nil
	case "/search":
		return s.search(ctx, arg)
	case "/channels":
		return s.listing(ctx)
	default:
		return nil, problem.New(problem.Invalid, "there is no command %s here: /help shows those there are", printable(name))
	}
}

func (s *session) search(ctx context.Context, words string) ([]string, error) {
	if words == "" {
		return nil, problem.New(problem.Invalid, "/search needs words to look for")
	}
	page, err := asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.SearchPage, error) {
		return c.Search(ctx, client.SearchQuery{Text: words, Limit: searchShown})
	})
	if err != nil {
		return nil, err
	}
	places := map[topology.ChannelID]string{}
	err = s.channels(ctx, func(ch chat.Channel) bool { places[ch.ID] = "#" + ch.Name; return false })
	if err != nil {
		return nil, err
	}
	slices.Reverse(page.Messages) // the newest nearest to the cursor, as everywhere
	var lines []string
	for _, m := range page.Messages {
		lines = append(lines, fmt.Sprintf("%s %s %s: %s", m.TS.Time().Local().Format("2006-01-02 15:04"), places[m.ChannelID], s.name(m.UserID), printable(m.Text)))
	}
	end := fmt.Sprintf("%d found for %s", len(page.Messages), printable(words))
	if page.HasMore {
		end += ", and more"
	}
	if page.Degraded {
		end += "; the search index is away, so only the newest messages were looked at"
	}
	return append(lines, end), nil
}

func (s *session) listing(ctx context.Context) ([]string, error) {
	list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	state, err := s.unread(ctx)
	if err != nil {
		return nil, err
	}
	list.read(state)
	var lines []string
	for _, p := range list.places {
		lines = append(lines, strings.TrimSpace("#"+p.channel.Name+" "+p.count()))
	}
	return lines, nil
}
