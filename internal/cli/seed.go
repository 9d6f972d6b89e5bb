package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// seeded is what seed has made, for those who use it.
type seeded struct {
	Workspace topology.WorkspaceID `json:"workspace"`
	Users     []seededUser         `json:"users"`
	Channels  []seededChannel      `json:"channels"`
}

type seededUser struct {
	ID    topology.UserID `json:"id"`
	Name  string          `json:"name"`
	Token string          `json:"token"`
}

type seededChannel struct {
	ID      topology.ChannelID `json:"id"`
	Name    string             `json:"name"`
	Members []topology.UserID  `json:"members"`
}

type seedPlan struct {
	workspace, prefix        string
	users, channels, members int
	ttl                      time.Duration
}

func seedCommand() *cobra.Command {
	p := seedPlan{}
	cmd := &cobra.Command{
		Use: "seed", Short: "Make users with tokens, channels and memberships, for tests and trials", Args: exactly(),
		Long: "seed makes users PREFIX-user-1 …, channels PREFIX-1 …, and puts users into channels, evenly. What exists is found again.",
	}
	f := cmd.Flags()
	f.StringVar(&p.workspace, "workspace", "", "slug or id of the workspace (required)")
	f.IntVar(&p.users, "users", 10, "how many users, 1 to 100,000")
	f.IntVar(&p.channels, "channels", 1, "how many channels, 0 to 10,000")
	f.IntVar(&p.members, "members-per-channel", 5, "how many members each channel has, at most --users")
	f.StringVar(&p.prefix, "prefix", "seed", "what their names begin with")
	f.DurationVar(&p.ttl, "ttl", 30*24*time.Hour, "how long the tokens are good")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := p.validate(); err != nil {
			return err
		}
		s, err := sessionOf(cmd)
		if err != nil {
			return err
		}
		c, ws, err := s.admin(cmd.Context(), p.workspace)
		if err != nil {
			return err
		}
		defer c.Close()
		control, err := s.control()
		if err != nil {
			return err
		}
		out, err := p.run(cmd, c, control)
		if err != nil {
			return err
		}
		out.Workspace = topology.WorkspaceID(ws.GetId())
		t := table{head: []string{"CHANNEL", "ID", "MEMBERS"}}
		for _, ch := range out.Channels {
			t.add(ch.Name, string(ch.ID), strconv.Itoa(len(ch.Members)))
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%d users and %d channels; their tokens: -o json\n", len(out.Users), len(out.Channels))
		return showJSON(cmd, out, t)
	}
	return cmd
}

func (p seedPlan) validate() error {
	switch {
	case p.workspace == "":
		return usage("--workspace: is missing")
	case p.users < 1 || p.users > 100_000:
		return usage("--users: must be 1 to 100,000")
	case p.channels < 0 || p.channels > 10_000:
		return usage("--channels: must be 0 to 10,000")
	case p.members < 0 || p.members > p.users:
		return usage("--members-per-channel: must be at most --users (%d)", p.users)
	}
	return nil
}

// Side by side: tokens are Raft entries, which share commits; channels share syncs.
const (
	tokensAtOnce   = 32
	channelsAtOnce = 8
)

func (p seedPlan) run(cmd *cobra.Command, c *client.Client, control controlv1connect.ControlServiceClient) (seeded, error) {
	out := seeded{Users: []seededUser{}, Channels: []seededChannel{}}
	ctx := cmd.Context()
	bar := newProgress(cmd.ErrOrStderr(), "users", int64(p.users))
	defer bar.stop()
	for from := 0; from < p.users; from += chat.BulkMax {
		var batch []chat.NewUser
		for i := from; i < min(from+chat.BulkMax, p.users); i++ {
			batch = append(batch, chat.NewUser{Name: fmt.Sprintf("%s-user-%d", p.prefix, i+1)})
		}
		made, err := c.PutUsers(ctx, batch)
		if err != nil {
			return out, err
		}
		for _, u := range made {
			out.Users = append(out.Users, seededUser{ID: u.ID, Name: u.Name})
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(tokensAtOnce)
	for i := range out.Users {
		g.Go(func() (err error) {
			out.Users[i].Token, err = issue(gctx, control, p.workspace, string(out.Users[i].ID), "member", p.ttl)
			bar.add(1)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return out, err
	}
	bar.stop()
	bar = newProgress(cmd.ErrOrStderr(), "channels", int64(p.channels))
	defer bar.stop()
	out.Channels = make([]seededChannel, p.channels)
	g, gctx = errgroup.WithContext(ctx)
	g.SetLimit(channelsAtOnce)
	for i := range out.Channels {
		g.Go(func() (err error) {
			out.Channels[i], err = p.channel(gctx, c, i, out.Users)
			bar.add(1)
			return err
		})
	}
	return out, g.Wait()
}

// channel makes one channel; its members are a stretch of the users, each channel's
// beginning where the one's before ended, so that all are in about equally many.
func (p seedPlan) channel(ctx context.Context, c *client.Client, i int, users []seededUser) (seededChannel, error) {
	name := fmt.Sprintf("%s-%d", p.prefix, i+1)
	ch, err := c.AdminCreateChannel(ctx, chat.AdminChannelRequest{Name: name})
	if problem.Is(err, problem.Conflict) {
		ch, err = c.AdminChannel(ctx, name)
	}
	if err != nil {
		return seededChannel{}, err
	}
	out := seededChannel{ID: ch.ID, Name: name, Members: make([]topology.UserID, p.members)}
	for n := range p.members {
		out.Members[n] = users[(i*p.members+n)%len(users)].ID
	}
	for batch := range slices.Chunk(out.Members, chat.BulkMax) {
		if _, err := c.AddMembers(ctx, ch.ID, batch); err != nil {
			return out, err
		}
	}
	return out, nil
}
