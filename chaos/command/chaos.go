package command

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"parley/chaos/drill"
	"parley/chaos/swarm"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/slack"
)

// Chaos is `parley chaos`.
func Chaos() *cobra.Command {
	cmd := &cobra.Command{
		Use: "chaos", Short: "Break a cluster of real processes under load, and check that it keeps its promises",
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list := &cobra.Command{Use: "list", Short: "List the drills", Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		for _, d := range drill.Drills() {
			fmt.Fprintf(cmd.OutOrStdout(), "%-23s %s\n", d.Name, d.Title)
		}
	}}
	cmd.AddCommand(list, chaosRun())
	return cmd
}

// errRed says that a drill went wrong; its line has said what.
var errRed = problem.New(problem.Internal, "not every drill is green")

func chaosRun() *cobra.Command { //nolint:gocognit // flags, and what follows from them, in a row
	var c drill.Config
	var replayed, table, commit string
	cmd := &cobra.Command{
		Use: "run [DRILL…]", Short: "Run drills",
		Long: "run starts a cluster in --dir, runs all drills, those of the short form, or those named, and checks every client's history\n" +
			"after each. It needs a build with -tags failpoints, and etcd: `make e2e` sees to both.",
	}
	f := cmd.Flags()
	f.BoolVar(&c.Short, "short", false, "only the drills of the short form, with shorter waits")
	f.StringVar(&c.Dir, "dir", "", "directory for data, logs and histories (default: a new one)")
	f.StringVar(&c.Etcd, "etcd", "bin/etcd", "the etcd to run")
	f.StringVar(&c.Engines, "engines", "", "tools/engines/engines: the cells store in its sets cell-1 and cell-2, which must be up and empty (default: embedded stores)")
	f.StringVar(&replayed, "replay", "", "Slack export whose conversations the swarm has (default: made up)")
	f.Float64Var(&c.Speed, "speed", 1, "how many times faster than the script")
	f.DurationVar(&c.Away, "away", 0, "how long an engine is away, in the engines' drills (default: 15 s to a minute, as each says)")
	f.StringVar(&table, "table", "", "file for the table of results")
	f.StringVar(&commit, "commit", "an unnamed commit", "what the table says was run")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if !failpoint.Enabled {
			return problem.New(problem.Unsupported, "this build can't be broken: build it with -tags failpoints, or run `make e2e`")
		}
		if c.Binary, err = os.Executable(); err != nil {
			return err
		}
		if c.Etcd, err = filepath.Abs(c.Etcd); err != nil {
			return err
		}
		if c.Dir == "" {
			if c.Dir, err = os.MkdirTemp("", "parley-chaos-"); err != nil {
				return err
			}
		}
		c.Only, c.Out, c.Log = args, cmd.OutOrStdout(), slog.New(slog.DiscardHandler)
		if c.Script, err = scriptOf(replayed); err != nil {
			return err
		}
		results, err := drill.Run(cmd.Context(), c)
		if table != "" && len(results) > 0 {
			if err := write(table, results, c, commit); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "data, logs and histories are in %s\n", c.Dir)
		for _, r := range results {
			if !r.OK() {
				return errRed
			}
		}
		return nil
	}
	return cmd
}

// The table goes between these two lines of a page that has them; a page without is
// the table's alone.
const tableBegins, tableEnds = "<!-- drills: written by make -->\n", "<!-- end of drills -->\n"

func write(file string, results []drill.Result, c drill.Config, commit string) error {
	command := "make e2e"
	if c.Engines != "" {
		command = "make e2e-engines"
	}
	var out bytes.Buffer
	page, err := os.ReadFile(file)
	before, rest, ok := bytes.Cut(page, []byte(tableBegins))
	earlier, after, whole := bytes.Cut(rest, []byte(tableEnds))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case !ok || !whole:
		err = drill.WritePage(&out, results, command, commit)
	default:
		out.Write(before)
		out.WriteString(tableBegins)
		err = drill.WriteTable(&out, string(earlier), results, command, commit)
		out.WriteString(tableEnds)
		out.Write(after)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644) //nolint:gosec // a page of the docs
}

// chatterLines at 50 a second are ten minutes of talk, then begun anew.
const (
	chatterLines = 30_000
	chatterPerS  = 50
)

func scriptOf(file string) (swarm.Script, error) {
	if file == "" {
		return swarm.Chatter(1, chatterLines, chatterPerS), nil
	}
	export, err := slack.Open(file, time.Now())
	if err != nil {
		return nil, err
	}
	return swarm.Replay(export), nil
}
