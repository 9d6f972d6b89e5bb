package cli

import (
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"parley/internal/chatui"
	"parley/internal/devcluster"
)

func chatCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "chat", Short: "Chat in a channel, in this terminal", Args: exactly(),
		Long: "chat shows a channel and posts what you type. Where standard input or output is no terminal, it posts lines and prints lines.\n" +
			"Who you are: --user-token, or --workspace and --user of a dev.json.",
	}
	f := cmd.Flags()
	token := f.String("user-token", "", "your token ($PARLEY_USER_TOKEN)")
	workspace := f.String("workspace", "", "slug or id of the workspace (default: the first of dev.json)")
	user := f.String("user", "", "name or id of the user (default: the first)")
	region := f.String("region", "", "whose edge to use first (default: the first)")
	channel := f.String("channel", "", "name or id of the channel (default: the first you are in)")
	plain := f.Bool("plain", false, "lines in, lines out, also on a terminal")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
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
		edges, err := s.at(*token, *region)
		if err != nil {
			return err
		}
		cfg := chatui.Config{Clients: edges, Channel: *channel, Log: slog.New(slog.DiscardHandler)}
		if *plain || !isTerminal(cmd.InOrStdin()) || !isTerminal(cmd.OutOrStdout()) {
			return chatui.Plain(cmd.Context(), cfg, cmd.InOrStdin(), cmd.OutOrStdout())
		}
		return chatui.Screen(cmd.Context(), cfg, cmd.InOrStdin(), cmd.OutOrStdout())
	}
	return cmd
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// devToken finds a user's token in a dev.json.
func devToken(info devcluster.Info, workspace, user string) (string, error) {
	for _, ws := range info.Workspaces {
		if workspace != "" && workspace != ws.Slug && workspace != string(ws.ID) {
			continue
		}
		var names []string
		for _, u := range ws.Users {
			if user == "" || user == u.Name || user == string(u.ID) {
				return u.Token, nil
			}
			names = append(names, u.Name)
		}
		return "", usage("--user: workspace %s has no user %q here; there are %s", ws.Slug, user, strings.Join(names, ", "))
	}
	if len(info.Workspaces) == 0 {
		return "", usage("--user-token: who are you? Give a token, or start `parley dev`")
	}
	return "", usage("--workspace: no workspace %q in dev.json", workspace)
}
