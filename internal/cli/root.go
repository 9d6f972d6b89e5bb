// Package cli is parley's command line. Results go to standard output, everything
// else to standard error; -o json is for scripts.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"parley/controlplane"
	"parley/internal/problem"
)

// Exit codes. Scripts depend on them.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2 // a flag or an argument
	ExitNotFound    = 3
	ExitConflict    = 4 // it exists, or is not as was expected
	ExitUnavailable = 5 // nobody answered: try again
)

// Run runs a command line and returns its exit code. The tests are commands that
// measure, break and check; this package knows none of them.
func Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer, tests ...*cobra.Command) int {
	root := newRoot()
	for _, c := range tests {
		c.GroupID = "test"
		root.AddCommand(c)
	}
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	strictCompletion(root)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(errs, "error:", explain(err))
	}
	if err != nil && ctx.Err() != nil {
		fmt.Fprintln(errs, "interrupted")
	}
	return exitCode(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "parley",
		Short:         "Team chat that does not go down",
		Long:          "parley runs Parley's roles and is the tool of its operators.\n\nStart with `parley dev`, then `parley chat` in two terminals.",
		SilenceErrors: true, SilenceUsage: true,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v\nSee `%s --help`.", err, cmd.CommandPath())
	})
	addSessionFlags(root)
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "talk", Title: "Talk and bring in:"}, &cobra.Group{ID: "operate", Title: "Operate:"}, &cobra.Group{ID: "test", Title: "Measure, break and check:"})
	in := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in("run", devCommand(), controlCommand(), cellCommand(), edgeCommand(), pkiCommand())
	in("talk", chatCommand(), searchCommand(), seedCommand(), importCommand())
	in("operate", regionCommand(), workspaceCommand(), raftCommand(), tokenCommand(), auditCommand(), statusCommand())
	return root
}

// usageError is a fault of the command line itself.
type usageError struct{ msg string }

func (e usageError) Error() string { return e.msg }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// exactly is cobra.ExactArgs with our exit code, and names for what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			want := "no arguments"
			if len(names) > 0 {
				want = strings.Join(names, " ")
			}
			return usage("%s takes %s: %d given; see `%s --help`", cmd.CommandPath(), want, len(args), cmd.CommandPath())
		}
		return nil
	}
}

// noCommand refuses what is no command of a group.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	maybe := ""
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		maybe = " Did you mean " + strings.Join(like, " or ") + "?"
	}
	return usage("%s has no command %q.%s See `%s --help`.", cmd.CommandPath(), args[0], maybe, cmd.CommandPath())
}

// strictCompletion makes cobra's own command answer faults as the others do.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	c, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	c.Args, c.RunE = noCommand, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, shell := range c.Commands() {
		shell.Args = exactly()
	}
}

func exitCode(err error) int {
	var u usageError
	var own interface{ ExitCode() int }
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &u):
		return ExitUsage
	case errors.As(err, &own):
		return own.ExitCode()
	}
	switch controlplane.KindOf(err) {
	case problem.NotFound:
		return ExitNotFound
	case problem.Conflict, problem.Precond:
		return ExitConflict
	case problem.Unavailable, problem.Unknown:
		return ExitUnavailable
	case problem.Invalid:
		return ExitUsage
	default:
		return ExitFailure
	}
}
