package api

import (
	"context"
	"net/http"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"parley/cell/finder"
	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Search finds messages; see package finder.
type Search interface {
	Find(ctx context.Context, a finder.Asker, r finder.Request) (finder.Page, error)
}

// Rebuild makes a workspace's search index again, a step at a time; see package
// rebuild.
type Rebuild interface {
	Step(ctx context.Context, p topology.Place, cursor string) (chat.RebuildResponse, error)
}

type searchIn struct {
	Q       string             `query:"q" doc:"words (all of them), \"phrases\", -word, from:name, in:channel, before:2026-03-01, after:2026-03"`
	Channel topology.ChannelID `query:"channel_id" doc:"only in this channel"`
	Before  string             `query:"before" doc:"only older than this message_id, day or time"`
	Sort    string             `query:"sort" enum:"newest,relevant" default:"newest"`
	Limit   int                `query:"limit" minimum:"1" maximum:"100" default:"20"`
	Cursor  string             `query:"cursor" doc:"next_cursor of the page before"`
}

type rebuildIn struct {
	Body chat.RebuildRequest
}

func (a *API) registerSearch(doc huma.API) {
	if a.search == nil {
		return
	}
	route(a, doc, http.MethodGet, "/api/v1/search", "search", "Find messages in the channels that the caller may read", http.StatusOK, 0, a.find)
	route(a, doc, http.MethodPost, "/api/v1/admin/search/rebuild", "admin-rebuild-search", "Make the search index again from the messages, a step at a time", http.StatusOK, chat.BodyBytesMax, a.rebuildSearch)
}

func (a *API) find(ctx context.Context, in *searchIn) (*body[chat.SearchPage], error) {
	c := callerOf(ctx)
	r := finder.Request{Text: in.Q, Channel: in.Channel, Before: in.Before, Limit: in.Limit, Cursor: in.Cursor}
	if in.Sort == "relevant" {
		r.Order = search.Relevant
	}
	found, err := a.search.Find(ctx, finder.Asker{Place: c.Place, User: c.User, Admin: c.Admin}, r)
	if err != nil {
		return nil, err
	}
	out := chat.SearchPage{
		Messages: make([]chat.FoundMessage, len(found.Found)), HasMore: found.Next != "", NextCursor: found.Next, Degraded: found.Degraded,
	}
	for i, m := range found.Found {
		out.Messages[i] = chat.FoundMessage{Message: shown(m.Channel, m.Message), Highlights: highlights(m.Text, m.Where)}
	}
	if found.CoveredFrom != 0 {
		ts := chat.Timestamp(found.CoveredFrom)
		out.CoveredFrom = &ts
	}
	return answer(out), nil
}

// highlights are spans of bytes, counted in characters.
func highlights(text string, where []search.Span) []chat.Highlight {
	out := make([]chat.Highlight, 0, min(len(where), chat.HighlightsMax))
	at, n := 0, 0
	to := func(byteAt int) int {
		n += utf8.RuneCountInString(text[at:byteAt])
		at = byteAt
		return n
	}
	for _, s := range where[:min(len(where), chat.HighlightsMax)] {
		start := to(s.Start)
		out = append(out, chat.Highlight{Start: start, End: to(s.End)})
	}
	return out
}

func (a *API) rebuildSearch(ctx context.Context, in *rebuildIn) (*body[chat.RebuildResponse], error) {
	c, err := requireAdmin(ctx)
	if err != nil {
		return nil, err
	}
	if a.rebuild == nil {
		return nil, problem.New(problem.Unsupported, "this cell has no search index to rebuild")
	}
	done, err := a.rebuild.Step(ctx, c.Place, in.Body.Cursor)
	if err != nil {
		return nil, err
	}
	return answer(done), nil
}
