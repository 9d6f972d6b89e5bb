// Package cli is parley's command line. Results go to standard output, everything
// else to standard error; -o json is for scripts.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

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

// Run runs a command line and returns its exit code.
func Run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
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
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v\nSee `%s --help`.", err, cmd.CommandPath())
	})
	addSessionFlags(root)
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "talk", Title: "Talk and bring in:"}, &cobra.Group{ID: "operate", Title: "Operate:"})
	in := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in("run", devCommand())
	in("talk", chatCommand(), seedCommand(), importCommand())
	in("operate", regionCommand(), cellCommand(), workspaceCommand(), raftCommand(), tokenCommand(), auditCommand(), statusCommand())
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
			return usage("%s takes %d arguments (%v), not %d", cmd.CommandPath(), len(names), names, len(args))
		}
		return nil
	}
}

func exitCode(err error) int {
	var u usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &u):
		return ExitUsage
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
