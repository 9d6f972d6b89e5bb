package cli

import (
	"fmt"
	"net"
	"slices"

	"github.com/spf13/cobra"

	"parley/internal/pki"
	"parley/internal/topology"
)

// pkiCommand makes the certificates that roles know each other by, for who has
// no authority of their own.
func pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "pki", Short: "Make the certificates that roles know each other by", Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(pkiIssueCommand())
	return cmd
}

func pkiIssueCommand() *cobra.Command {
	var id pki.Identity
	var role, region, cell string
	cmd := &cobra.Command{
		Use: "issue --ca DIR --role ROLE --name NAME --out DIR", Short: "Issue a role's certificate", Args: exactly(),
		Long: "issue writes ca.pem, cert.pem and key.pem of one role. The authority in --ca is made at its first use; keep its ca-key.pem safe.\n" +
			"Roles are control, gateway (a cell's process), cell (one without gateways), edge and etcd.",
	}
	f := cmd.Flags()
	ca := f.String("ca", "", "directory of the authority")
	out := f.String("out", "", "directory to write to")
	hosts := f.StringSlice("host", []string{"localhost", "127.0.0.1"}, "names and addresses that it is reached at, comma-separated")
	f.StringVar(&role, "role", "", "control, gateway, cell, edge or etcd")
	f.StringVar(&id.Name, "name", "", "the node's name: its id in its config")
	f.StringVar(&region, "region", "", "the region it is in, if it is in one")
	f.StringVar(&cell, "cell", "", "the cell it belongs to, if it does")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		id.Role, id.Region, id.Cell = pki.Role(role), topology.RegionID(region), topology.CellID(cell)
		switch {
		case *ca == "" || *out == "" || id.Name == "":
			return usage("--ca, --out and --name are needed; see `%s --help`", cmd.CommandPath())
		case !slices.Contains([]pki.Role{pki.RoleControl, pki.RoleGateway, pki.RoleCell, pki.RoleEdge, pki.RoleEtcd}, id.Role):
			return usage("--role: must be control, gateway, cell, edge or etcd, not %q", role)
		}
		for _, h := range *hosts {
			if _, _, err := net.SplitHostPort(h); err == nil {
				return usage("--host: %q must be a name or an address without a port", h)
			}
		}
		a, err := pki.OpenAuthority(*ca)
		if err != nil {
			return err
		}
		b, err := a.Issue(id, *hosts)
		if err != nil {
			return err
		}
		if err := b.Write(*out); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: ca.pem, cert.pem, key.pem\n", *out)
		return nil
	}
	return cmd
}
