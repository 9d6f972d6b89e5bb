package chatui

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

const (
	// askMax bounds a question to one edge, as long as there is another to ask.
	askMax = 8 * time.Second
	// helloMax bounds the wait for a first socket.
	helloMax = 30 * time.Second
	// usersPage is how many people are asked for at once.
	usersPage = 1000
	// historyPage is how many old messages are asked for at once.
	historyPage = 50
)

// session is one user at the edges. It may be used from any goroutine once it is open.
type session struct {
	edges  []*client.Client
	at     atomic.Int32 // the edge that answered last
	stream *client.Stream
	link   *link
	me     chat.User
	names  map[topology.UserID]string // as they were at the start
}

// open finds out who the user is, finds the channel, joins it if need be, and
// connects: g runs the stream. The stream is connected before a page is read, so
// that nothing falls between.
func open(ctx context.Context, g *errgroup.Group, cfg Config) (*session, chat.Channel, error) {
	s := &session{edges: cfg.Clients, link: &link{news: make(chan bool, 1)}, names: map[topology.UserID]string{}}
	var ch chat.Channel
	var err error
	if s.stream, err = client.NewStream(cfg.Clients, nil, cfg.Log); err != nil {
		return nil, ch, err
	}
	s.stream.Observe(s.link)
	s.me, err = asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.User, error) { return c.Me(ctx) })
	if err != nil {
		return nil, ch, err
	}
	if err := s.loadNames(ctx); err != nil {
		return nil, ch, err
	}
	if ch, err = s.enter(ctx, cfg.Channel); err != nil {
		return nil, ch, err
	}
	g.Go(func() error { return s.stream.Run(ctx) })
	t := time.NewTimer(helloMax)
	defer t.Stop()
	select {
	case _, ok := <-s.stream.Events(): // the hello
		if !ok {
			return nil, ch, ctx.Err() // the group has the reason
		}
		return s, ch, nil
	case <-t.C:
		return nil, ch, problem.New(problem.Unavailable, "no edge opened a socket within %v", helloMax)
	case <-ctx.Done():
		return nil, ch, ctx.Err()
	}
}

// asked asks the edge that answered last, and if it is away, the next ones.
func asked[T any](ctx context.Context, s *session, ask func(context.Context, *client.Client) (T, error)) (T, error) {
	var v T
	var err error
	first := int(s.at.Load())
	for n := range s.edges {
		at := (first + n) % len(s.edges)
		own, cancel := context.WithTimeout(ctx, askMax)
		v, err = ask(own, s.edges[at])
		cancel()
		if err == nil {
			s.at.Store(int32(at)) //nolint:gosec // an index of a list of edges
		}
		if !away(err) || ctx.Err() != nil {
			break
		}
	}
	return v, err
}

// away reports whether an error means that another try or edge may do better.
func away(err error) bool {
	return problem.Is(err, problem.Unavailable) || problem.Is(err, problem.Unknown) || problem.Is(err, problem.Exhausted)
}

func (s *session) loadNames(ctx context.Context) error {
	for after := ""; ; {
		page, err := asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.UserPage, error) {
			return c.Users(ctx, after, usersPage)
		})
		if err != nil {
			return err
		}
		for _, u := range page.Users {
			s.names[u.ID] = u.Name
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

// channels goes through the channels that the user may see until f says enough.
func (s *session) channels(ctx context.Context, f func(chat.Channel) (enough bool)) error {
	for after := ""; ; {
		page, err := asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.ChannelPage, error) {
			return c.Channels(ctx, after, chat.PageMax)
		})
		if err != nil || slices.ContainsFunc(page.Channels, f) {
			return err
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

// enter finds a channel by name or id ("" = the user's first) and joins it if the
// user is not in it.
func (s *session) enter(ctx context.Context, name string) (chat.Channel, error) {
	name = strings.TrimPrefix(name, "#")
	var found chat.Channel
	err := s.channels(ctx, func(ch chat.Channel) bool {
		if ch.Name == name || string(ch.ID) == name || (name == "" && ch.IsMember) {
			found = ch
		}
		return found.ID != ""
	})
	if err != nil {
		return found, err
	}
	if found.ID == "" {
		return found, problem.New(problem.NotFound, "there is no channel %q that you may see", name)
	}
	if !found.IsMember {
		_, err = asked(ctx, s, func(ctx context.Context, c *client.Client) (topology.Rev, error) { return c.Join(ctx, found.ID) })
		found.IsMember = true
	}
	return found, err
}

// before is a page of a channel's history, newest first; "" = its end.
func (s *session) before(ctx context.Context, ch topology.ChannelID, m topology.MessageID) (chat.MessagePage, error) {
	return asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.MessagePage, error) {
		return c.Before(ctx, ch, m, historyPage)
	})
}

func (s *session) unread(ctx context.Context) (chat.UnreadResponse, error) {
	return asked(ctx, s, func(ctx context.Context, c *client.Client) (chat.UnreadResponse, error) { return c.Unread(ctx) })
}

// typing tells the others, as far as that is possible now.
func (s *session) typing(ch topology.ChannelID) {
	_ = s.stream.Send(chat.ClientFrame{Type: chat.TypeTypingStart, ChannelID: ch}) // never worth an error
}

func (s *session) name(u topology.UserID) string {
	if n, ok := s.names[u]; ok {
		return printable(n)
	}
	return string(u)
}

// changed says what a channel event was.
func (s *session) changed(c chat.ChannelEvent) string {
	who := make([]string, 0, len(c.UserIDs))
	for _, u := range c.UserIDs {
		who = append(who, s.name(u))
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

// link tells whether there is a socket that has said something: the newest state,
// and only that. The stream's goroutine alone tells.
type link struct {
	up   bool
	news chan bool
}

func (l *link) tell(up bool) {
	if l.up == up {
		return
	}
	l.up = up
	select {
	case <-l.news:
	default:
	}
	l.news <- up // room was made
}

// Opened is no news: an edge that hangs opens sockets, too.
func (*link) Opened(uint64, string, bool) {}

// Resumed needs no telling.
func (*link) Resumed(uint64, map[topology.ChannelID]topology.Rev) {}

// Came tells that there is a socket.
func (l *link) Came(uint64, []byte) { l.tell(true) }

// Closed tells that there is none.
func (l *link) Closed(uint64, error) { l.tell(false) }

// Failed tells that there is none yet.
func (l *link) Failed(string, error) { l.tell(false) }
