package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"parley/client"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func searchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "search QUERY", Short: "Find messages",
		Long: "search finds messages in the channels that you may read, replies too.\n\n" +
			"  deploy failed            both words, in any order\n  \"deploy failed\"          beside each other\n  deploy -staging          without a word\n" +
			"  from:ann in:#ops         by a user, in a channel\n  before:2026-03-01        older than a day, a month (2026-03) or a year\n  after:2026-03            newer than it\n\n" +
			"Quote the query for your shell. Who you are: --user-token, or --workspace and --user of a dev.json.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("%s takes QUERY: none given; see `%s --help`", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
	}
	f := cmd.Flags()
	token := f.String("user-token", "", "your token ($PARLEY_USER_TOKEN)")
	workspace := f.StringP("workspace", "W", "", "slug or id of the workspace (default: the first of dev.json)")
	user := f.StringP("user", "U", "", "name or id of the user (default: the first)")
	var q client.SearchQuery
	channel := f.String("channel-id", "", "only in this channel")
	f.StringVar(&q.Before, "before", "", "only older than this message_id, day or time")
	f.BoolVar(&q.Relevant, "relevant", false, "the best first, not the newest")
	f.IntVar(&q.Limit, "limit", 20, "how many, 1 to 100")
	f.StringVar(&q.Cursor, "cursor", "", "next_cursor of the page before")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := sessionOf(cmd)
		if err != nil {
			return err
		}
		if *token == "" {
			*token = os.Getenv("PARLEY_USER_TOKEN")
		}
		if *token == "" {
			if *token, err = devToken(s.info, *workspace, *user); err != nil {
				return err
			}
		}
		edges, err := s.at(*token, "")
		if err != nil {
			return err
		}
		q.Text, q.Channel = strings.Join(args, " "), topology.ChannelID(*channel)
		page, err := edges[0].Search(cmd.Context(), q)
		if err != nil {
			return err
		}
		return showFound(cmd, edges[0], page)
	}
	return cmd
}

// showFound prints what was found, and what there is to say of it.
func showFound(cmd *cobra.Command, c *client.Client, page chat.SearchPage) error {
	names := finders{c: c, channels: map[topology.ChannelID]string{}}
	if j, err := asJSON(cmd); err != nil || j {
		return showJSON(cmd, page, table{})
	}
	t := table{head: []string{"WHEN", "CHANNEL", "WHO", "TEXT", "MESSAGE"}}
	for _, m := range page.Messages {
		text := marked(m)
		if m.ThreadRoot != nil {
			text = "↳ " + text
		}
		t.add(when(int64(m.TS)), names.channel(cmd.Context(), m.ChannelID), names.user(cmd.Context(), m.UserID), text, string(m.MessageID))
	}
	if page.Degraded {
		from := "only the newest messages of your channels were looked at"
		if page.CoveredFrom != nil {
			from += ", back to " + page.CoveredFrom.String()
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "the search index is away:", from)
	}
	if page.HasMore {
		fmt.Fprintln(cmd.ErrOrStderr(), "there is more: --cursor", page.NextCursor)
	}
	return t.print(cmd)
}

// finders looks names up once.
type finders struct {
	c        *client.Client
	channels map[topology.ChannelID]string
	users    map[topology.UserID]string
}

func (f *finders) channel(ctx context.Context, id topology.ChannelID) string {
	if name, ok := f.channels[id]; ok {
		return name
	}
	name := string(id)
	if ch, err := f.c.Channel(ctx, id); err == nil {
		name = "#" + ch.Name
	}
	f.channels[id] = name
	return name
}

func (f *finders) user(ctx context.Context, id topology.UserID) string {
	if f.users == nil {
		f.users = map[topology.UserID]string{}
		for after := ""; ; {
			page, err := f.c.Users(ctx, after, chat.PageMax)
			if err != nil {
				break
			}
			for _, u := range page.Users {
				f.users[u.ID] = u.Name
			}
			if after = page.Next; after == "" {
				break
			}
		}
	}
	if name, ok := f.users[id]; ok {
		return name
	}
	return string(id)
}

// Widths of a text in a table: around the first word found, on one line.
const (
	textBefore = 30
	textAfter  = 70
)

// marked is the piece of a text around the first highlight, which is in brackets.
func marked(m chat.FoundMessage) string {
	r := []rune(m.Text)
	start, end := 0, 0
	if len(m.Highlights) > 0 {
		start, end = m.Highlights[0].Start, m.Highlights[0].End
	}
	if start < 0 || end < start || end > len(r) {
		start, end = 0, 0
	}
	from, to := max(0, start-textBefore), min(len(r), end+textAfter)
	out := string(r[from:start])
	if end > start {
		out += "[" + string(r[start:end]) + "]"
	}
	out += string(r[end:to])
	if from > 0 {
		out = "…" + out
	}
	if to < len(r) {
		out += "…"
	}
	return strings.Join(strings.Fields(strings.Map(visible, out)), " ")
}

// visible takes out what would steer the reader's terminal.
func visible(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// rebuildCommand is `parley cell search rebuild`.
func rebuildCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rebuild", Short: "Make a workspace's search index again from its messages", Args: exactly(),
		Long: "rebuild puts every message of a workspace into the search index again, and takes out what the workspace no longer has. " +
			"Search goes on meanwhile. It can be broken off at any time, and goes on with --cursor.",
	}
	workspace := cmd.Flags().String("workspace", "", "slug or id of the workspace (required)")
	cursor := cmd.Flags().String("cursor", "", "go on where a rebuild was broken off")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *workspace == "" {
			return usage("--workspace: which one?")
		}
		s, err := sessionOf(cmd)
		if err != nil {
			return err
		}
		c, ws, err := s.admin(cmd.Context(), *workspace)
		if err != nil {
			return err
		}
		for at := *cursor; ; {
			done, err := c.RebuildSearch(cmd.Context(), at)
			if err != nil {
				if at != "" {
					fmt.Fprintln(cmd.ErrOrStderr(), "broken off; go on with --cursor", at)
				}
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d channels, %d messages indexed, %d removed\n", ws.GetSlug(), done.Channels, done.Messages, done.Removed)
			if at = done.Cursor; done.Done {
				return showJSON(cmd, done, table{})
			}
		}
	}
	return cmd
}
