package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"parley/internal/roles"
	"parley/internal/settings"
)

// config is what the configs of the roles have in common.
type config interface{ Validate() error }

// checked is a config that names servers, and can ask them.
type checked interface {
	Check(ctx context.Context) error
}

// role is one role's command.
type role[C config] struct {
	use, short, example string
	defaults            C
	run                 func(ctx context.Context, ready func(), c C, log *slog.Logger) error
}

func controlCommand() *cobra.Command {
	return role[roles.Control]{
		use: "control", short: "Run a node of the control plane", defaults: roles.DefaultControl(), run: roles.RunControl,
		example: "id: control-1\ndir: /var/lib/parley/control\ncert_dir: /etc/parley/control-1\nraft_addr: 10.0.0.1:8402\napi_addr: 10.0.0.1:8403\n" +
			"admin: 127.0.0.1:9400\npeers:\n  - {id: control-1, raft_addr: 10.0.0.1:8402, api_url: https://10.0.0.1:8403}\n  - …",
	}.command()
}

func edgeCommand() *cobra.Command {
	return role[roles.Edge]{
		use: "edge", short: "Run an edge", defaults: roles.DefaultEdge(), run: roles.RunEdge,
		example: "id: eu-edge-1\nregion: eu\ndir: /var/lib/parley/edge\ncert_dir: /etc/parley/eu-edge-1\nlisten: 0.0.0.0:443\nurl: https://eu.chat.example\n" +
			"etcd: [10.0.1.1:2379, 10.0.1.2:2379, 10.0.1.3:2379]\nadmin: 127.0.0.1:9400",
	}.command()
}

// cellCommand runs a cell; the operators' commands about cells are below it.
func cellCommand() *cobra.Command {
	cmd := role[roles.Cell]{
		use: "cell", short: "Run a cell, or look after cells", defaults: roles.DefaultCell(), run: roles.RunCell,
		example: "id: eu-1\nregion: eu\ndir: /var/lib/parley/eu-1\ncert_dir: /etc/parley/eu-1\netcd: [10.0.1.1:2379, 10.0.1.2:2379, 10.0.1.3:2379]\n" +
			"servers: [eu-1-cs-1, eu-1-cs-2]\nadmin: 127.0.0.1:9400\ngateways:\n  - {id: eu-1-gw-1, link_addr: 10.0.2.1:8500, api_addr: 10.0.2.1:8501}\n  - …",
	}.command()
	cmd.AddCommand(cellCommands()...)
	return cmd
}

func (r role[C]) command() *cobra.Command {
	c := r.defaults
	cmd := &cobra.Command{
		Use: r.use + " --config FILE", Short: r.short, Args: noCommand,
		Long: r.short + ".\n\nSettings come from flags, above the environment (PARLEY_…), above the file, above the defaults.\n\nA file:\n\n" + r.example,
	}
	f := cmd.Flags()
	file := f.String("config", "", "YAML file ($PARLEY_CONFIG)")
	check := f.Bool("check-config", false, "only check the config and the servers it names, and say everything that is wrong")
	level := f.String("log", "info", "debug, info, warn or error")
	format := f.String("log-format", "json", "text or json")
	settings.AddFlags(f, &c)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		name := *file
		if name == "" {
			name = os.Getenv("PARLEY_CONFIG")
		}
		if name == "" && !anyChanged(cmd) {
			return cmd.Help()
		}
		log, _, err := newLog(cmd.ErrOrStderr(), *level, *format)
		if err != nil {
			return err
		}
		if err := settings.Load(name, &c, f, os.Getenv); err != nil {
			return err
		}
		if err := c.Validate(); err != nil {
			return err
		}
		if *check {
			if with, ok := any(c).(checked); ok {
				if err := with.Check(cmd.Context()); err != nil {
					return err
				}
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the config is good")
			return nil
		}
		thrifty(cmd.Context())
		return r.run(cmd.Context(), func() { log.Info("ready", "role", r.use) }, c, log)
	}
	return cmd
}

func anyChanged(cmd *cobra.Command) bool {
	n := cmd.LocalNonPersistentFlags().NFlag()
	return n > 0 || cmd.Flags().NFlag() > 0
}
