// Package replay brings a community's conversations into a cell on real engines, as
// an import and again through people's sockets, and then asks the cell's stores
// whether they agree.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"parley/bench/cluster"
	"parley/bench/site"
	"parley/internal/engineset"
	"parley/internal/problem"
)

// Config says what to replay, and on what.
type Config struct {
	Parley  string // the binary
	Etcd    string
	Engines string        // tools/engines/engines
	Dir     string        // for data, histories and logs; kept
	File    string        // a Slack export
	People  int           // who say it; each has a socket
	For     time.Duration // of the replay at most; 0 = to the end of the export
	Import  bool          // import it first
	History bool          // write down and check what every client saw: some 5 KB a message
	Out     io.Writer
}

// Shape of who talk: channels as many as a large workspace's busy ones, each with so
// few listeners that it is the cell that works, not they.
const (
	channels      = 24
	listeners     = 8
	set           = "cell-1"
	quick         = "PARLEY_ENGINES_JIT=full"
	seedMax       = 5 * time.Minute
	progressEvery = 10 * time.Second
)

type replay struct {
	Config
	site *site.Site
}

// Run starts the cell, replays, and checks. The engines are taken down again.
func Run(ctx context.Context, c Config) (err error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	r := &replay{Config: c}
	r.site, err = site.Start(ctx, site.Config{
		Binary: c.Parley, Etcd: c.Etcd, Dir: c.Dir, Engines: []engineset.Set{{Script: c.Engines, Name: set, Env: []string{quick}}},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.site.Stop()) }()
	fmt.Fprintf(c.Out, "the cell serves after %s\n", r.site.Took.Round(100*time.Millisecond))
	steps := []func(context.Context) error{r.bringIn, r.say, r.settle, r.check}
	if !c.Import {
		steps = steps[1:]
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// bringIn imports the export.
func (r *replay) bringIn(ctx context.Context) error {
	return r.step(ctx, "import", "import", "slack", r.File, "--workspace", site.Workspace(0), "--prefix", "archive-")
}

// say has people say all of it again.
func (r *replay) say(ctx context.Context) error {
	out, err := r.site.CLI(ctx, seedMax, append([]string{"seed", "--workspace", site.Workspace(0), "-o", "json"},
		cluster.Seed{Prefix: "replay", Users: r.People, Channels: channels, Members: min(listeners, r.People)}.Args()...)...)
	if err != nil {
		return err
	}
	people := filepath.Join(r.Dir, "people.json")
	if err := os.WriteFile(people, out, 0o600); err != nil {
		return err
	}
	args := []string{"bench", "replay", r.File, "--people", people, "--flat-out", "--for", r.For.String()}
	if !r.History {
		return r.step(ctx, "replay", args...)
	}
	history := filepath.Join(r.Dir, "history.jsonl")
	if err := r.step(ctx, "replay", append(args, "--history", history)...); err != nil {
		return err
	}
	err = r.step(ctx, "histories", "check", history)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == unsure {
		return nil // of checks that need a fault, or a second cell, there is nothing to look at
	}
	return err
}

// unsure is `parley check`'s status when some checks had nothing to look at, and no
// other found a fault.
const unsure = 6

// settle waits until all workers have caught up.
func (r *replay) settle(ctx context.Context) error {
	began, last := time.Now(), time.Time{}
	err := r.site.Settle(ctx, func(behind float64) {
		if time.Since(last) >= progressEvery {
			last = time.Now()
			fmt.Fprintf(r.Out, "%.0f changes and events wait for workers\n", behind)
		}
	})
	if err == nil {
		fmt.Fprintf(r.Out, "workers have caught up after %s\n", time.Since(began).Round(100*time.Millisecond))
	}
	return err
}

// check compares the stores.
func (r *replay) check(ctx context.Context) error {
	return r.step(ctx, "stores", "check", "stores", "--config", r.site.CellConfig(0))
}

// step runs a command of parley's; what it says is shown.
func (r *replay) step(ctx context.Context, name string, args ...string) error {
	began := time.Now()
	cmd := exec.CommandContext(ctx, r.Parley, args...) //nolint:gosec // the operator names it
	cmd.Env = append(os.Environ(), r.site.Environ()...)
	log, err := os.OpenFile(filepath.Join(r.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = r.Out, log
	err = errors.Join(cmd.Run(), log.Close())
	took := time.Since(began).Round(100 * time.Millisecond)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return problem.Wrap(exit, problem.Internal, "parley %s ended with status %d after %s: %s", strings.Join(args, " "), exit.ExitCode(), took, tail(log.Name()))
	}
	if err == nil {
		fmt.Fprintf(r.Out, "%s: %s\n", name, took)
	}
	return err
}

const tailBytes = 2 << 10

// tail is the end of a log.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-tailBytes):])
}
