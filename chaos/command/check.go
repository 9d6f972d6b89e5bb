package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"parley/chaos/check"
	"parley/chaos/history"
	"parley/internal/problem"
)

// ExitInconclusive is the exit code of a check that could not be sure.
const ExitInconclusive = 6

// Exit is an error with an exit code of its own.
type Exit struct {
	Code int
	Err  error
}

// Error implements error.
func (e Exit) Error() string { return e.Err.Error() }

// ExitCode is the process's.
func (e Exit) ExitCode() int { return e.Code }

// Check is `parley check`.
func Check() *cobra.Command {
	var o check.Options
	cmd := &cobra.Command{
		Use: "check HISTORY…", Short: "Check histories: was everything kept, in order, once, and only for those who may see it?",
		Long: "check reads the histories of one run (of clients, of the final state, of the channel servers) and makes these checks:\n\n" +
			"  kept       acked once in the final history; refused never; unknown at most once\n" +
			"  order      one order without gaps, the same in every view, true to real time\n" +
			"  stream     per client and channel every change once, rising, up to the head\n" +
			"  published  nothing was shown that history lacks\n" +
			"  owner      one writer per channel and token; nothing acked that was not confirmed\n" +
			"  retry      one message per client_msg_id\n" +
			"  readstate  marks only rise\n" +
			"  leak       no byte reached anybody who may not see it\n" +
			"  walls      the control swarm in another cell felt nothing\n" +
			"  avail      the pauses of each fault, against its budget\n" +
			"  live       after healing everybody gets on\n" +
			"  registry   placements' epochs rise; one cell writes a workspace\n\n" +
			"Exit codes: 0 all is well, 1 a promise was broken, 6 there was too little to be sure.",
		Args: cobra.MinimumNArgs(1),
	}
	cmd.AddCommand(checkStores())
	f := cmd.Flags()
	f.StringVar(&o.Key, "key", history.DefaultKey, "key of the seals in the messages")
	f.IntVar(&o.MinPosts, "min-posts", 0, "posts that must be acked during a fault (default 20)")
	f.StringSliceVar(&o.Only, "only", nil, "names of checks, comma-separated (default: all)")
	f.BoolVar(&o.Quiet, "quiet", false, "nobody talks after the run was healed")
	f.DurationVar(&o.ControlMax, "control-max", 2*time.Second, "longest operation of the control swarm")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		for _, name := range o.Only {
			if !slices.Contains(check.Names(), name) {
				return problem.Field("--only", "there is no check %q; there are %s", name, strings.Join(check.Names(), ", "))
			}
		}
		run, err := check.Load(files...)
		if err != nil {
			return problem.Wrap(err, problem.Invalid, "%v", err)
		}
		return tell(cmd, run.Check(o))
	}
	return cmd
}

func tell(cmd *cobra.Command, r check.Report) error {
	if format, err := cmd.Flags().GetString("output"); err == nil && format == "json" {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(r); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CHECK\tVERDICT\tEXAMINED\tFIRST")
		for _, c := range r.Checks {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", c.Name, c.Verdict, c.Examined, c.First)
		}
		for name, p := range r.Pauses {
			fmt.Fprintf(w, "\n%s: %d clients went without for p50 %s, p99 %s, max %s", name, p.Clients, p.P50, p.P99, p.Max)
		}
		fmt.Fprintf(w, "\n%.4f %% of user-seconds were good\n", 100*r.Good)
		if err := w.Flush(); err != nil {
			return err
		}
	}
	switch r.Verdict() {
	case check.Violated:
		return Exit{1, errors.New("a promise was broken")}
	case check.Inconclusive:
		return Exit{ExitInconclusive, errors.New("there was too little to be sure")}
	default:
		return nil
	}
}
