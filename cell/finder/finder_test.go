package finder_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/finder"
	"parley/cell/history"
	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
)

var place = topology.Place{Workspace: "W1", Generation: 1}

// cell is a directory and messages: channel C is public, P is ann's.
type cell struct {
	messages map[topology.MessageID]history.Message
}

func (c *cell) Channel(_ context.Context, _ topology.Place, ch topology.ChannelID) (directory.Channel, error) {
	switch ch {
	case "C", "P":
		return directory.Channel{ID: ch, Private: ch == "P"}, nil
	case "I":
		return directory.Channel{ID: ch, Importing: true}, nil
	}
	return directory.Channel{}, problem.New(problem.NotFound, "none")
}

func (c *cell) Member(_ context.Context, _ topology.Place, _ topology.ChannelID, u topology.UserID) (directory.Membership, bool, error) {
	return directory.Membership{}, u == "ann", nil
}

func (c *cell) ChannelByName(context.Context, topology.Place, string) (directory.Channel, error) {
	return directory.Channel{}, problem.New(problem.NotFound, "none")
}

func (c *cell) ListChannels(context.Context, topology.Place, topology.UserID, bool, string, int) ([]directory.Channel, error) {
	return nil, nil
}

func (c *cell) ChannelsOf(context.Context, topology.Place, topology.UserID) ([]directory.Membership, error) {
	return []directory.Membership{{Channel: "C"}}, nil
}

func (c *cell) UsersByName(context.Context, topology.Place, []string) (map[string]topology.UserID, error) {
	return nil, nil
}

func (c *cell) Get(_ context.Context, _ topology.ChannelRef, id topology.MessageID) (history.Message, error) {
	if m, ok := c.messages[id]; ok {
		return m, nil
	}
	return history.Message{}, problem.New(problem.NotFound, "none")
}

func (c *cell) Thread(context.Context, topology.ChannelRef, topology.MessageID, topology.Seq, int) ([]history.Message, error) {
	return nil, nil
}

func (c *cell) Heads(context.Context, []topology.ChannelRef) ([]channel.Head, error) {
	return nil, problem.New(problem.Unavailable, "no owner")
}

func (c *cell) Changes(context.Context, topology.ChannelRef, topology.Rev, int) ([]channel.Event, error) {
	return nil, problem.New(problem.Unavailable, "no owner")
}

// proposing is an index that proposes what it is told to, newest first.
type proposing struct {
	hits  []search.Hit
	asked int
}

func (p *proposing) Put(context.Context, []search.Doc) error { return nil }

func (p *proposing) Sweep(context.Context, topology.Place, time.Time, int) (int, error) {
	return 0, nil
}

func (p *proposing) Find(_ context.Context, q search.Query) (out []search.Hit, err error) {
	p.asked++
	for _, h := range p.hits {
		if len(out) < q.Limit && (q.After == nil || search.Newest.Less(*q.After, h.Point)) {
			out = append(out, h)
		}
	}
	return out, nil
}

// propose makes n messages, of which those with a word match, and proposes all.
func propose(n int, text func(i int) string) (*cell, *proposing) {
	c, p := &cell{messages: map[topology.MessageID]history.Message{}}, &proposing{}
	for i := n - 1; i >= 0; i-- {
		id := topology.MessageID(fmt.Sprintf("m%04d", i))
		at := search.Point{TS: int64(i + 1), ID: id}
		p.hits = append(p.hits, search.Hit{Point: at, Channel: "C", Seq: topology.Seq(i + 1)})
		if s := text(i); s != "" {
			c.messages[id] = history.Message{Change: change.Change{ID: id, TS: at.TS, Text: s, Author: "ann"}}
		}
	}
	return c, p
}

func ask(t *testing.T, c *cell, p *proposing, r finder.Request) finder.Page {
	t.Helper()
	f := finder.New(finder.Config{}, finder.Deps{Index: p, Directory: c, Messages: c, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	page, err := f.Find(t.Context(), finder.Asker{Place: place, User: "bob"}, r)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// walk pages to the end.
func walk(t *testing.T, c *cell, p *proposing, r finder.Request) (ids []topology.MessageID) {
	t.Helper()
	for pages := 0; ; pages++ {
		page := ask(t, c, p, r)
		for _, m := range page.Found {
			ids = append(ids, m.ID)
		}
		if r.Cursor = page.Next; r.Cursor == "" {
			return ids
		}
		if pages > 1000 {
			t.Fatal("there is no end")
		}
	}
}

// What was edited, deleted or made unreadable since is left out, and pages go on
// over it, however much of it there is.
func TestFind_WhatIsStaleIsLeftOut(t *testing.T) {
	const n = 300
	for name, matches := range map[string]func(i int) bool{
		"all": func(int) bool { return true }, "none": func(int) bool { return false }, "every third": func(i int) bool { return i%3 == 0 },
		"the last": func(i int) bool { return i == 0 }, "the first": func(i int) bool { return i == n-1 },
	} {
		for _, order := range []search.Order{search.Newest, search.Relevant} {
			t.Run(fmt.Sprint(name, " ", order), func(t *testing.T) {
				var want []topology.MessageID
				c, p := propose(n, func(i int) string {
					switch {
					case matches(i):
						return "needle"
					case i%2 == 0:
						return "edited"
					default:
						return "" // deleted
					}
				})
				for i := n - 1; i >= 0; i-- {
					if matches(i) {
						want = append(want, topology.MessageID(fmt.Sprintf("m%04d", i)))
					}
				}
				if got := walk(t, c, p, finder.Request{Text: "needle", Limit: 7, Order: order}); !slices.Equal(got, want) {
					t.Errorf("%d found, want %d: %v", len(got), len(want), got)
				}
			})
		}
	}
}

func TestFind_OneAnswerAsksABoundedNumberOfTimes(t *testing.T) {
	c, p := propose(1000, func(int) string { return "edited" })
	page := ask(t, c, p, finder.Request{Text: "needle", Limit: 10})
	if p.asked > 5 || page.Next == "" || len(page.Found) != 0 {
		t.Errorf("asked %d times: %+v", p.asked, page)
	}
}

// An index that proposes what the asker may not see gets nothing shown.
func TestFind_TheIndexIsNotTrusted(t *testing.T) {
	c, p := propose(4, func(int) string { return "needle" })
	p.hits[0].Channel, p.hits[1].Channel, p.hits[2].Channel = "P", "I", "gone"
	if got := walk(t, c, p, finder.Request{Text: "needle", Limit: 10}); !slices.Equal(got, []topology.MessageID{"m0000"}) {
		t.Errorf("found %v", got)
	}
	if got := walk(t, c, p, finder.Request{Text: "needle from:me", Limit: 10}); len(got) != 0 {
		t.Errorf("another's messages: %v", got)
	}
	if got := walk(t, c, p, finder.Request{Text: "needle after:2020", Limit: 10}); len(got) != 0 {
		t.Errorf("older ones: %v", got)
	}
}

// Without index and owners the answer is empty, says so, and comes in time.
func TestFind_NothingAnswers(t *testing.T) {
	c, _ := propose(1, func(int) string { return "needle" })
	f := finder.New(finder.Config{}, finder.Deps{Index: hanging{}, Directory: c, Messages: c, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	for i := range 5 {
		began := time.Now()
		page, err := f.Find(t.Context(), finder.Asker{Place: place, User: "ann"}, finder.Request{Text: "needle", Limit: 10})
		if err != nil || !page.Degraded || len(page.Found) != 0 {
			t.Errorf("%+v, %v", page, err)
		}
		if took := time.Since(began); took > time.Second || i > 2 && took > 300*time.Millisecond {
			t.Errorf("answer %d took %v", i, took)
		}
	}
}

type hanging struct{ search.Index }

func (hanging) Find(ctx context.Context, _ search.Query) ([]search.Hit, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
