package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"parley/internal/importer"
	"parley/internal/slack"
)

func importCommand() *cobra.Command {
	return group("import", "Bring in conversations from elsewhere",
		transfer("slack FILE", "Import a Slack workspace export; run it again if it was cut off",
			"imported", (*importer.Importer).Run),
		transfer("check FILE", "Compare what the API gives, page by page, with an export that was imported",
			"compared", (*importer.Importer).Check),
	)
}

func transfer(use, short, done string, do func(*importer.Importer, context.Context) ([]importer.Result, error)) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: exactly("FILE")}
	workspace := cmd.Flags().String("workspace", "", "slug or id of the workspace (required)")
	prefix := cmd.Flags().String("prefix", "", "what the imported channels' names begin with")
	dry := cmd.Flags().Bool("dry-run", false, "only read and check the file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *workspace == "" && !*dry {
			return usage("--workspace: is missing")
		}
		began := time.Now()
		export, err := slack.Open(args[0], time.Now())
		if err != nil {
			return err
		}
		if err := importer.Fits(export, *prefix); err != nil {
			return err
		}
		for _, what := range slices.Sorted(maps.Keys(export.Skipped)) {
			fmt.Fprintf(cmd.ErrOrStderr(), "not conversations, and left out: %d × %s\n", export.Skipped[what], what)
		}
		for _, what := range slices.Sorted(maps.Keys(export.Changed)) {
			fmt.Fprintf(cmd.ErrOrStderr(), "taken otherwise than they stand in the file: %d × %s\n", export.Changed[what], what)
		}
		if *dry {
			fmt.Fprintf(cmd.ErrOrStderr(), "the file is good: %d users, %d channels\n", len(export.Users), len(export.Channels))
			return nil
		}
		s, err := sessionOf(cmd)
		if err != nil {
			return err
		}
		c, _, err := s.admin(cmd.Context(), *workspace)
		if err != nil {
			return err
		}
		defer c.Close()
		im := importer.New(c, export, *prefix)
		bar := watchProgress(cmd.ErrOrStderr(), "messages "+done, im.Progress().Total, im.Progress().Done)
		results, err := do(im, cmd.Context())
		bar.stop()
		if err != nil {
			return err
		}
		return showResults(cmd, results, done, time.Since(began))
	}
	return cmd
}

func showResults(cmd *cobra.Command, results []importer.Result, done string, took time.Duration) error {
	t := table{head: []string{"CHANNEL", "ID", "MESSAGES", "THREADS", "REPLIES", "MEMBERS"}}
	var sum importer.Result
	for _, r := range results {
		t.add(r.Channel, string(r.ID), strconv.Itoa(r.Messages), strconv.Itoa(r.Threads), strconv.Itoa(r.Replies), strconv.Itoa(r.Members))
		sum.Messages += r.Messages
		sum.Threads += r.Threads
		sum.Replies += r.Replies
	}
	t.add("all", "", strconv.Itoa(sum.Messages), strconv.Itoa(sum.Threads), strconv.Itoa(sum.Replies), "")
	fmt.Fprintf(cmd.ErrOrStderr(), "%d messages %s in %s\n", sum.Messages, done, took.Round(100*time.Millisecond))
	return showJSON(cmd, results, t)
}
