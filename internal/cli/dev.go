package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"parley/internal/devcluster"
	"parley/internal/topology"
)

func devCommand() *cobra.Command {
	c := devcluster.Default()
	cmd := &cobra.Command{
		Use: "dev", Short: "Run regions, cells, edges and a control plane in this process", Args: exactly(),
		Long: "dev runs a whole Parley on this machine, for development and trials: the same roles as in production,\n" +
			"on embedded stores, speaking TLS and QUIC over loopback. A second start on the same --data finds everything again.",
	}
	f := cmd.Flags()
	regions := f.StringSlice("regions", regionNames(c.Regions), "regions, comma-separated")
	f.IntVar(&c.Cells, "cells", c.Cells, "cells per region")
	f.IntVar(&c.Edges, "edges", c.Edges, "edges per region")
	f.IntVar(&c.Gateways, "gateways", c.Gateways, "gateways per cell")
	f.IntVar(&c.Servers, "servers", c.Servers, "channel servers per cell")
	f.StringVar(&c.Data, "data", c.Data, "directory for all data")
	f.IntVar(&c.PortBase, "port-base", c.PortBase, "first port: edges, then control plane, then the rest; 0 takes free ones; they are kept until another number is given")
	f.BoolVar(&c.TLS, "tls", c.TLS, "clients speak TLS, too (with the development CA in DATA/ca/ca.pem)")
	f.BoolVar(&c.Admin, "admin", c.Admin, "each role serves health, metrics and profiles on a port of its own (in dev.json)")
	ephemeral := f.Bool("ephemeral", false, "use a new directory and remove it in the end")
	level := f.String("log", "warn", "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c.Regions = nil
		for _, r := range *regions {
			c.Regions = append(c.Regions, topology.RegionID(r))
		}
		c.PortBaseGiven = f.Changed("port-base")
		if *ephemeral {
			dir, err := os.MkdirTemp("", "parley-dev-")
			if err != nil {
				return err
			}
			defer func() { _ = os.RemoveAll(dir) }() // what can't be removed is the system's to clean
			c.Data = filepath.Join(dir, "data")
		}
		log, at, err := newLog(cmd.ErrOrStderr(), *level, "text")
		if err != nil {
			return err
		}
		// Parts that stop complain about those that have; nobody needs to know.
		defer context.AfterFunc(cmd.Context(), func() { at.Set(max(at.Level(), slog.LevelError)) })()
		thrifty(cmd.Context())
		return devcluster.Run(cmd.Context(), c, log, func(info devcluster.Info) { info.Print(cmd.OutOrStdout(), c.Data) })
	}
	return cmd
}

func regionNames(rs []topology.RegionID) []string {
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = string(r)
	}
	return out
}

func newLog(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar, error) {
	at := new(slog.LevelVar)
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, usage("--log: must be debug, info, warn or error, not %q", level)
	}
	o := &slog.HandlerOptions{Level: at}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), at, nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), at, nil
	default:
		return nil, nil, usage("--log-format: must be text or json, not %q", format)
	}
}
