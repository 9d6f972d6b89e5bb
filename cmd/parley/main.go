// Command parley is all of Parley: every role, the development cluster, and the
// tools of operators and users. `parley --help` lists it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	bench "parley/bench/command"
	chaos "parley/chaos/command"
	"parley/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	measure := bench.Command()
	measure.AddCommand(chaos.Replay())
	code := cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, measure, chaos.Chaos(), chaos.Check())
	stop()
	os.Exit(code)
}
