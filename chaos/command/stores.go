package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"parley/cell/agree"
	"parley/internal/roles"
	"parley/internal/settings"
)

// checkStores is `parley check stores`.
func checkStores() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "stores --config FILE", Short: "Compare what a cell's stores say of each other",
		Long: "stores reads every channel's log and compares it with history, threads, the event log, the search index, marks and mentions.\n" +
			"It changes nothing. Nobody should write meanwhile; a cell on embedded stores must be stopped.\n\n" +
			"Exit codes: 0 they agree, 1 they do not.",
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&file, "config", "", "the cell's config (required)")
	_ = cmd.MarkFlagRequired("config") // it is there: the line above
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := roles.DefaultCell()
		if err := settings.Load(file, &c, cmd.Flags(), os.Getenv); err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		r, err := roles.CompareStores(cmd.Context(), c, log, func(n agree.Counts) {
			fmt.Fprintf(cmd.ErrOrStderr(), "\r%d channels, %d changes compared", n.Channels, n.Changes)
		})
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if err := tellStores(cmd, r); err != nil {
			return err
		}
		if r.Differ > 0 {
			return Exit{1, errors.New("the stores do not agree")}
		}
		return nil
	}
	return cmd
}

func tellStores(cmd *cobra.Command, r agree.Report) error {
	if format, err := cmd.Flags().GetString("output"); err == nil && format == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WORKSPACES\tCHANNELS\tCHANGES\tMESSAGES\tREPLIES\tEVENTS\tDOCUMENTS\tUSERS\tMARKS\tMENTIONS\tDIFFERENCES")
	fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", r.Workspaces, r.Channels, r.Changes, r.Messages, r.Replies, r.Events, r.Documents, r.Users, r.Marks, r.Mentions, r.Differ)
	for _, d := range r.Differences {
		fmt.Fprintf(w, "%s\t%s\t%s\n", d.Store, d.Channel, d.What)
	}
	return w.Flush()
}
