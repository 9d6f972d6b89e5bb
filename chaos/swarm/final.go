package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"parley/chaos/history"
	"parley/client"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Conclude writes down how everything stands when all is over: the history of
// every channel page by page, its head and members, and everybody's marks.
func (s *Swarm) Conclude(ctx context.Context) error {
	seen := map[topology.ChannelID]bool{}
	for _, p := range s.cfg.People {
		c, err := client.New(client.Config{URL: p.Edges[0], Token: p.Token, TLS: s.cfg.TLS, Dial: s.cfg.Dial})
		if err != nil {
			return err
		}
		err = s.conclude(ctx, c, p, seen)
		c.Close()
		if err != nil {
			return fmt.Errorf("final state, as %s: %w", p.Name, err)
		}
	}
	return nil
}

func (s *Swarm) conclude(ctx context.Context, c *client.Client, p Person, seen map[topology.ChannelID]bool) error {
	heads, err := headsOf(ctx, c)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	for ch, rev := range heads {
		if seen[ch] {
			continue
		}
		seen[ch] = true
		if err := s.channel(ctx, c, p, ch, rev); err != nil {
			return fmt.Errorf("channel %s: %w", ch, err)
		}
	}
	unread, err := c.Unread(ctx)
	if err != nil {
		return fmt.Errorf("unread: %w", err)
	}
	for _, u := range unread.Channels {
		if u.LastReadMessageID != nil {
			s.cfg.History.Add(history.Record{
				Kind: history.FinalMark, Workspace: p.Workspace, User: p.User, Channel: u.ChannelID, MessageID: *u.LastReadMessageID,
			})
		}
	}
	return nil
}

// headsOf is where the user's channels stand, by a new socket's hello.
func headsOf(ctx context.Context, c *client.Client) (map[topology.ChannelID]topology.Rev, error) {
	socket, err := c.Dial(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }() // all was read
	raw, _, err := socket.Read()
	if err != nil {
		return nil, err
	}
	var h chat.Hello
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, err
	}
	out := make(map[topology.ChannelID]topology.Rev, len(h.Channels))
	for _, ch := range h.Channels {
		out[ch.ID] = ch.Rev
	}
	return out, nil
}

func (s *Swarm) channel(ctx context.Context, c *client.Client, p Person, ch topology.ChannelID, rev topology.Rev) error {
	info, err := c.Channel(ctx, ch)
	if err != nil {
		return fmt.Errorf("its row: %w", err)
	}
	head := history.Record{Kind: history.FinalHead, Workspace: p.Workspace, Channel: ch, Rev: rev, Private: info.Private}
	if head.Members, err = members(ctx, c, ch); err != nil {
		return err
	}
	after := topology.MessageID("0")
	for {
		page, err := c.After(ctx, ch, after, chat.PageMax)
		if err != nil {
			return fmt.Errorf("its page after %s: %w", after, err)
		}
		for _, m := range page.Messages {
			head.Seq = m.Seq
			after = m.MessageID
			s.final(p, m)
			if m.ReplyCount > 0 {
				if err := s.thread(ctx, c, p, m); err != nil {
					return err
				}
			}
		}
		if !page.HasMore {
			break
		}
	}
	s.cfg.History.Add(head)
	return nil
}

func members(ctx context.Context, c *client.Client, ch topology.ChannelID) ([]topology.UserID, error) {
	var out []topology.UserID
	after := ""
	for {
		page, err := c.Members(ctx, ch, after, chat.BulkMax)
		if err != nil {
			return nil, err
		}
		out = append(out, page.UserIDs...)
		if page.Next == "" {
			slices.Sort(out)
			return out, nil
		}
		after = page.Next
	}
}

func (s *Swarm) thread(ctx context.Context, c *client.Client, p Person, root chat.Message) error {
	after := topology.MessageID("")
	for {
		page, err := c.Replies(ctx, root.ChannelID, root.MessageID, after, chat.PageMax)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			after = m.MessageID
			s.final(p, m)
		}
		if !page.HasMore || len(page.Messages) == 0 {
			return nil
		}
	}
}

func (s *Swarm) final(p Person, m chat.Message) {
	r := history.Record{
		Kind: history.Final, Workspace: p.Workspace, Channel: m.ChannelID, MessageID: m.MessageID, Seq: m.Seq, User: m.UserID, Text: m.Text,
		ClientMsgID: m.ClientMsgID, Replies: int(m.ReplyCount), //nolint:gosec // far below
	}
	if m.ThreadRoot != nil {
		r.Root = *m.ThreadRoot
	}
	s.cfg.History.Add(r)
}

// Settle waits until every person's socket is open, or ctx ends.
func (s *Swarm) Settle(ctx context.Context) error {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for int(s.open.Load()) < len(s.people) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d sockets are open: %w", s.open.Load(), len(s.people), ctx.Err())
		case <-t.C:
		}
	}
	return nil
}
