package importer

import (
	"context"
	"fmt"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/slack"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Check reads the channels back, page by page, as any client would, and compares
// everything with the file: order, authors, times, texts, threads. It changes
// nothing. An error that is ErrDiffers names the first difference.
func (im *Importer) Check(ctx context.Context) ([]Result, error) {
	names, err := userNames(ctx, im.client)
	if err != nil {
		return nil, err
	}
	im.users = make(map[string]topology.UserID, len(im.export.Users))
	for _, u := range im.export.Users {
		id, ok := names[u.Name]
		if !ok {
			return nil, differs("user %q of the file is not in the workspace", u.Name)
		}
		im.users[u.ID] = id
	}
	return im.forEach(ctx, im.checkChannel)
}

func differs(format string, args ...any) error {
	return problem.Wrap(ErrDiffers, problem.Conflict, format, args...)
}

const usersPage = 1000

func userNames(ctx context.Context, c *client.Client) (map[string]topology.UserID, error) {
	out := map[string]topology.UserID{}
	for after := ""; ; {
		page, err := c.Users(ctx, after, usersPage)
		if err != nil {
			return nil, err
		}
		for _, u := range page.Users {
			out[u.Name] = u.ID
		}
		if after = page.Next; after == "" {
			return out, nil
		}
	}
}

func (im *Importer) checkChannel(ctx context.Context, ch *slack.Channel) (Result, error) {
	r := summary(im.prefix, ch)
	found, err := im.client.AdminChannel(ctx, r.Channel)
	if err != nil {
		return r, err
	}
	r.ID = found.ID
	if found.Importing {
		return r, differs("channel %s: its import is not finished", r.Channel)
	}
	if found.MemberCount < r.Members {
		return r, differs("channel %s: has %d members, the file %d", r.Channel, found.MemberCount, r.Members)
	}
	threads := make(map[int][]slack.Message)
	var top []int
	for i, m := range ch.Messages {
		if m.Root >= 0 {
			threads[m.Root] = append(threads[m.Root], m)
		} else {
			top = append(top, i)
		}
	}
	return r, im.checkTop(ctx, r, ch, top, threads)
}

// checkTop compares the channel's pages, then each thread it comes by.
func (im *Importer) checkTop(ctx context.Context, r Result, ch *slack.Channel, top []int, threads map[int][]slack.Message) error {
	n := 0
	for after := topology.MessageID("0"); ; {
		page, err := im.client.After(ctx, r.ID, after, chat.PageMax)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if n == len(top) {
				return nil // people have gone on talking since the import
			}
			if err := im.checkMessage(ctx, r, m, ch.Messages[top[n]], topology.Seq(n+1), threads[top[n]]); err != nil {
				return err
			}
			after = m.MessageID
			n++
		}
		if !page.HasMore {
			break
		}
	}
	if n < len(top) {
		return differs("channel %s: ends after %d of %d top-level messages", r.Channel, n, len(top))
	}
	return nil
}

// checkMessage compares a top-level message and the thread under it.
func (im *Importer) checkMessage(ctx context.Context, r Result, got chat.Message, want slack.Message, seq topology.Seq, replies []slack.Message) error {
	if err := im.same(r, got, want, seq, nil, replies); err != nil {
		return err
	}
	im.progress.done.Add(1 + int64(len(replies)))
	if len(replies) == 0 {
		return nil
	}
	return im.checkThread(ctx, r, got, replies)
}

func (im *Importer) checkThread(ctx context.Context, r Result, root chat.Message, want []slack.Message) error {
	n := 0
	for after := topology.MessageID(""); ; {
		page, err := im.client.Replies(ctx, r.ID, root.MessageID, after, chat.PageMax)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if n == len(want) {
				return nil // people have gone on talking since the import
			}
			if err := im.same(r, m, want[n], topology.Seq(n+1), &root.MessageID, nil); err != nil {
				return err
			}
			after = m.MessageID
			n++
		}
		if !page.HasMore {
			break
		}
	}
	if n < len(want) {
		return differs("channel %s: the thread of seq %d ends after %d of %d replies", r.Channel, root.Seq, n, len(want))
	}
	return nil
}

// same compares one message with the file's.
func (im *Importer) same(r Result, got chat.Message, want slack.Message, seq topology.Seq, root *topology.MessageID, replies []slack.Message) error {
	where := fmt.Sprintf("channel %s, seq %d", r.Channel, seq)
	if root != nil {
		where = fmt.Sprintf("channel %s, reply %d of %s", r.Channel, seq, *root)
	}
	switch {
	case got.Seq != seq:
		return differs("%s: has seq %d", where, got.Seq)
	case got.UserID != im.users[want.User]:
		return differs("%s: is by %s, in the file by %s (%s)", where, got.UserID, im.users[want.User], want.User)
	case got.TS != want.TS:
		return differs("%s: is of %s, in the file of %s", where, got.TS, want.TS)
	case got.Text != want.Text:
		return differs("%s: the text is another", where)
	case (got.ThreadRoot == nil) != (root == nil) || (root != nil && *got.ThreadRoot != *root):
		return differs("%s: is in another thread than in the file", where)
	case got.ReplyCount < uint64(len(replies)):
		return differs("%s: has %d replies, in the file %d", where, got.ReplyCount, len(replies))
	case len(replies) > 0 && (got.LastReplyTS == nil || *got.LastReplyTS < replies[len(replies)-1].TS):
		return differs("%s: its last reply is another than in the file", where)
	}
	return nil
}
