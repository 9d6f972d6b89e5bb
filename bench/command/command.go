// Package command is `parley bench`: it runs workloads and prints their table.
package command

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"parley/bench/floor/hub"
	"parley/bench/replay"
	"parley/bench/report"
	"parley/bench/workload"
	"parley/internal/problem"
)

// Command is the bench command. The root above it may have an --output flag,
// table or json, and must run this program when it is started with the same path
// of commands: the floor hub is a process of its own.
func Command() *cobra.Command {
	e := &workload.Env{}
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure this Parley beside programs that do only the raw operation",
		Long: "bench starts a cluster and, beside it, a floor: a program that does only what can't be left out.\n" +
			"Both get the same load in turns, and the ratio is what counts. Any message lost, doubled or out of order fails the run.",
	}
	f := cmd.PersistentFlags()
	f.IntVar(&e.Runs, "runs", 5, "runs of Parley and of the floor, in turns")
	f.DurationVar(&e.Warm, "warm", time.Second, "before each run, unmeasured")
	f.DurationVar(&e.For, "for", 5*time.Second, "of each run")
	f.BoolVar(&e.Floor, "floor", true, "measure the floor, too")
	f.DurationVar(&e.Profile, "profile", 0, "profile Parley's CPU for so long in an extra run (needs the go tool)")
	f.StringVar(&e.Profiles, "profiles", "", "keep the profiles in this directory")
	f.StringVar(&e.Parley, "parley", "", "the binary to measure (default: this one)")
	f.StringVar(&e.Dir, "dir", "", "where clusters keep their data; its disk is part of what is measured (default: $TMPDIR)")
	cmd.AddCommand(fanout(e), typical(e), idle(e), hop(e), wireBytes(e), routes(e), whole(e), engines(e), replayed(e), floorHub())
	return cmd
}

type run = func(context.Context, *workload.Env) ([]workload.Row, error)

func fanout(e *workload.Env) *cobra.Command {
	w := workload.Fanout{}
	cmd := one(e, "fanout", "One channel that everybody follows: deliveries a second", func(ctx context.Context, e *workload.Env) ([]workload.Row, error) { return w.Run(ctx, e) })
	cmd.Flags().IntVar(&w.Sockets, "sockets", 1000, "sockets, 1 to 50,000")
	cmd.Flags().IntVar(&w.InFlight, "in-flight", 16, "posts in flight")
	return cmd
}

func typical(e *workload.Env) *cobra.Command {
	w := workload.TypicalSize()
	cmd := one(e, "typical", "Many channels, durable: posts a second below 200 ms", func(ctx context.Context, e *workload.Env) ([]workload.Row, error) { return w.Run(ctx, e) })
	cmd.Flags().IntVar(&w.Sockets, "sockets", w.Sockets, "sockets over all channels")
	cmd.Flags().IntVar(&w.Channels, "channels", w.Channels, "channels")
	cmd.Flags().IntVar(&w.Members, "members", w.Members, "members of each channel")
	cmd.Flags().IntVar(&w.Online, "online", w.Online, "of them with a socket")
	return cmd
}

func idle(e *workload.Env) *cobra.Command {
	w := workload.Idle{}
	cmd := one(e, "idle", "Sockets that say nothing: memory of each", func(ctx context.Context, e *workload.Env) ([]workload.Row, error) { return w.Run(ctx, e) })
	cmd.Flags().IntVar(&w.Sockets, "sockets", 5000, "sockets, a multiple of 100")
	cmd.Flags().IntVar(&w.Channels, "channels", 10, "channels that each follows")
	return cmd
}

func hop(e *workload.Env) *cobra.Command {
	w := workload.LinkSize()
	cmd := one(e, "link", "A message's way over a link, beside a raw QUIC stream", func(ctx context.Context, e *workload.Env) ([]workload.Row, error) { return w.Run(ctx, e) })
	cmd.Flags().IntSliceVar(&w.Rates, "rates", w.Rates, "messages a second")
	return cmd
}

func wireBytes(e *workload.Env) *cobra.Command {
	w := workload.BytesSize()
	cmd := one(e, "bytes", "One post to everybody at two edges: bytes on each link", func(ctx context.Context, e *workload.Env) ([]workload.Row, error) { return w.Run(ctx, e) })
	cmd.Flags().IntVar(&w.Members, "members", w.Members, "members, all online")
	return cmd
}

func routes(e *workload.Env) *cobra.Command {
	w := workload.RoutesSize()
	cmd := one(e, "routes", "The route table: lookups, memory, and the way of a change", func(ctx context.Context, e *workload.Env) ([]workload.Row, error) { return w.Run(ctx, e) })
	cmd.Flags().IntVar(&w.Table, "workspaces", w.Table, "workspaces in the table")
	cmd.Flags().IntVar(&w.Published, "published", w.Published, "workspaces in etcd while changes are timed")
	return cmd
}

// one is a command that runs a workload and prints its rows.
func one(e *workload.Env, use, short string, do run) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		line, err := prepare(cmd, e)
		if err != nil {
			return err
		}
		rows, err := do(cmd.Context(), e)
		line.end()
		if err != nil {
			return err
		}
		if o := cmd.Flags().Lookup("output"); o != nil && o.Value.String() == "json" {
			err = report.JSON(cmd.OutOrStdout(), rows)
		} else {
			err = report.Table(cmd.OutOrStdout(), rows)
		}
		if err != nil {
			return err
		}
		return report.Faults(rows)
	}
	return cmd
}

// prepare completes what the flags say.
func prepare(cmd *cobra.Command, e *workload.Env) (*line, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "this program's own path is unknown")
	}
	if e.Parley == "" {
		e.Parley = self
	}
	e.Hub = []string{self, "bench", "hub"}
	l := newLine(cmd.ErrOrStderr())
	e.Say = l.say
	return l, e.Validate()
}

// whole runs everything and writes the report.
func whole(e *workload.Env) *cobra.Command {
	c := report.Config{}
	cmd := &cobra.Command{Use: "report", Short: "Run every workload and write the report", Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&c.Quick, "quick", false, "small and short: to see that everything works")
	cmd.Flags().StringVar(&c.Markdown, "write", "", "the page to write (default: standard output)")
	cmd.Flags().StringVar(&c.Gobench, "gobench", "", "write the runs in Go's benchmark format, too, for benchstat")
	cmd.Flags().StringSliceVar(&c.Only, "only", nil, "run only these workloads, comma-separated, by the names that the progress shows")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := prepare(cmd, e)
		if err != nil {
			return err
		}
		defer l.end()
		return report.Run(cmd.Context(), e, c, cmd.OutOrStdout())
	}
	return cmd
}

// engines measures cells on real engines.
func engines(e *workload.Env) *cobra.Command {
	c := report.Config{Engines: true}
	cmd := &cobra.Command{
		Use: "engines", Short: "Measure a cell on real engines beside the engines alone, and write the report", Args: cobra.NoArgs,
		Long: "engines starts the sets cell-1 and cell-2 of tools/engines, wiped, and takes them down again. It needs etcd and the source tree:\n`make bench-engines` sees to both.",
	}
	f := cmd.Flags()
	f.BoolVar(&c.Quick, "quick", false, "small and short: to see that everything works")
	f.StringVar(&c.Markdown, "write", "", "the page to write (default: standard output)")
	f.StringVar(&c.Gobench, "gobench", "", "write the runs in Go's benchmark format, too, for benchstat")
	f.StringSliceVar(&c.Only, "only", nil, "run only these, comma-separated: posts, drivers, lag, two-cells")
	f.StringVar(&c.Rows, "rows", "", "keep the rows in this file; those that are there and are not run again go into the page, too")
	tools(cmd, e)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := prepare(cmd, e)
		if err != nil {
			return err
		}
		defer l.end()
		return report.Run(cmd.Context(), e, c, cmd.OutOrStdout())
	}
	return cmd
}

// tools are what cells on engines need beside parley.
func tools(cmd *cobra.Command, e *workload.Env) {
	f := cmd.Flags()
	f.StringVar(&e.Etcd, "etcd", "bin/etcd", "the etcd to run")
	f.StringVar(&e.Engines, "engines", "tools/engines/engines", "the script that starts engines")
	f.StringVar(&e.Root, "root", ".", "the source tree, for the drivers' benchmarks")
}

// replayed is `parley bench replay-engines`.
func replayed(e *workload.Env) *cobra.Command {
	c := replay.Config{}
	cmd := &cobra.Command{
		Use: "replay-engines FILE.zip", Short: "Import and replay a community's conversations on a cell on real engines, and compare its stores", Args: cobra.ExactArgs(1),
		Long: "replay-engines starts the set cell-1 of tools/engines, wiped, and a cell on it; imports the export; has people say all of it again\n" +
			"through their sockets, as fast as the answers come; waits until workers have caught up; compares the stores.",
	}
	f := cmd.Flags()
	f.IntVar(&c.People, "people", 120, "how many say it")
	f.DurationVar(&c.For, "replay-for", 0, "how long the replay may take; 0 = to the end of the export")
	f.BoolVar(&c.Import, "import", true, "import it, too")
	f.BoolVar(&c.History, "history", false, "write down, and check, what every client saw (large)")
	tools(cmd, e)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		l, err := prepare(cmd, e)
		if err != nil {
			return err
		}
		l.end()
		if c.Dir = e.Dir; c.Dir == "" {
			if c.Dir, err = os.MkdirTemp("", "parley-replay-"); err != nil {
				return err
			}
		}
		c.Parley, c.Etcd, c.Engines, c.File, c.Out = e.Parley, e.Etcd, e.Engines, args[0], cmd.OutOrStdout()
		fmt.Fprintf(c.Out, "data, logs and histories go to %s\n", c.Dir)
		return replay.Run(cmd.Context(), c)
	}
	return cmd
}

func floorHub() *cobra.Command {
	c := hub.Config{}
	cmd := &cobra.Command{Use: "hub", Short: "Run the floor: a hub that only fans out", Args: cobra.NoArgs, Hidden: true}
	cmd.Flags().StringVar(&c.Addr, "listen", "127.0.0.1:0", "IPv4 address and port")
	cmd.Flags().StringVar(&c.Sync, "sync", "", "sync posts to this file before they are shown")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return hub.Run(cmd.Context(), c, func(addr string) { fmt.Fprintln(cmd.OutOrStdout(), "hub at "+addr) })
	}
	return cmd
}
