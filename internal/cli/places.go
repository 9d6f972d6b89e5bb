package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/problem"
)

// withControl is a command's run with a client of the control plane.
func withControl(do func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := sessionOf(cmd)
		if err != nil {
			return err
		}
		c, err := s.control()
		if err != nil {
			return err
		}
		return do(cmd, c, args)
	}
}

// group is a command that only holds others.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	g.AddCommand(cmds...)
	return g
}

// addMutation adds the flags that every change takes.
func addMutation(cmd *cobra.Command) *controlv1.Mutation {
	m := &controlv1.Mutation{}
	cmd.Flags().BoolVar(&m.DryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().Uint64Var(&m.ExpectedVersion, "if-version", 0, "refuse unless the object is at this version (0 = any)")
	return m
}

// did says how a change went, on standard error.
func did(cmd *cobra.Command, d *controlv1.Done, what string) {
	if d.GetAuditId() == "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "dry run:", what)
		return
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s (audit %s)\n", what, d.GetAuditId())
}

// all pages through a list.
func all[T any](list func(page *controlv1.Page) ([]T, string, error)) ([]T, error) {
	const size = 1000
	var out []T
	for token := ""; ; {
		rows, next, err := list(&controlv1.Page{Size: size, Token: token})
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
		if token = next; token == "" {
			return out, nil
		}
	}
}

func regionCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the regions", Args: exactly(), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		rows, err := all(func(p *controlv1.Page) ([]*controlv1.Region, string, error) {
			r, err := c.ListRegions(cmd.Context(), connect.NewRequest(&controlv1.ListRegionsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			return r.Msg.GetRegions(), r.Msg.GetNextPageToken(), nil
		})
		if err != nil {
			return err
		}
		return show(cmd, &controlv1.ListRegionsResponse{Regions: rows}, regionTable(rows...))
	})}
	get := &cobra.Command{Use: "show REGION", Short: "Show a region", Args: exactly("REGION"), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.GetRegion(cmd.Context(), connect.NewRequest(&controlv1.GetRegionRequest{Id: args[0]}))
		if err != nil {
			return err
		}
		return show(cmd, r.Msg.GetRegion(), regionTable(r.Msg.GetRegion()))
	})}
	create := &cobra.Command{Use: "create REGION", Short: "Add a region", Args: exactly("REGION")}
	etcd := create.Flags().StringSlice("etcd", nil, "host:port of the region's etcd members (required)")
	m := addMutation(create)
	create.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.CreateRegion(cmd.Context(), connect.NewRequest(&controlv1.CreateRegionRequest{
			Region: &controlv1.Region{Id: args[0], EtcdEndpoints: *etcd}, Mutation: m,
		}))
		if err != nil {
			return err
		}
		did(cmd, r.Msg.GetDone(), "region "+args[0]+" created")
		return show(cmd, r.Msg, regionTable(r.Msg.GetRegion()))
	})
	return group("region", "Regions", list, get, create)
}

func regionTable(rows ...*controlv1.Region) table {
	t := table{head: []string{"REGION", "ETCD", "CREATED", "VERSION"}}
	for _, r := range rows {
		t.add(r.GetId(), strings.Join(r.GetEtcdEndpoints(), ","), when(r.GetCreatedUs()), strconv.FormatUint(r.GetVersion(), 10))
	}
	return t
}

// cellCommands are the operators' commands about cells.
func cellCommands() []*cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the cells with their load", Args: exactly(), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		rows, err := all(func(p *controlv1.Page) ([]*controlv1.Cell, string, error) {
			r, err := c.ListCells(cmd.Context(), connect.NewRequest(&controlv1.ListCellsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			return r.Msg.GetCells(), r.Msg.GetNextPageToken(), nil
		})
		if err != nil {
			return err
		}
		return show(cmd, &controlv1.ListCellsResponse{Cells: rows}, cellTable(rows...))
	})}
	get := &cobra.Command{Use: "show CELL", Short: "Show a cell", Args: exactly("CELL"), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.GetCell(cmd.Context(), connect.NewRequest(&controlv1.GetCellRequest{Id: args[0]}))
		if err != nil {
			return err
		}
		return show(cmd, r.Msg.GetCell(), cellTable(r.Msg.GetCell()))
	})}
	create := &cobra.Command{Use: "create CELL", Short: "Add a cell to a region", Args: exactly("CELL")}
	region := create.Flags().String("region", "", "the cell's region (required)")
	capacity := &controlv1.Capacity{}
	create.Flags().Int64Var(&capacity.Workspaces, "max-workspaces", 0, "how many workspaces it was built for (0 = no limit)")
	create.Flags().Int64Var(&capacity.Connections, "max-connections", 0, "how many connections it was built for (0 = no limit)")
	create.Flags().Float64Var(&capacity.PostsPerS, "max-posts-per-s", 0, "how many posts a second it was built for (0 = no limit)")
	m := addMutation(create)
	create.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.CreateCell(cmd.Context(), connect.NewRequest(&controlv1.CreateCellRequest{
			Cell: &controlv1.Cell{Id: args[0], Region: *region, Capacity: capacity}, Mutation: m,
		}))
		if err != nil {
			return err
		}
		did(cmd, r.Msg.GetDone(), "cell "+args[0]+" created")
		return show(cmd, r.Msg, cellTable(r.Msg.GetCell()))
	})
	return []*cobra.Command{
		list, get, create,
		cellState("cordon CELL", "Keep new workspaces away from a cell", "cordoned"),
		cellState("uncordon CELL", "Let new workspaces into a cell again", "active"),
		group("search", "The search index", rebuildCommand()),
	}
}

func cellState(use, short, to string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: exactly("CELL")}
	m := addMutation(cmd)
	cmd.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.SetCellState(cmd.Context(), connect.NewRequest(&controlv1.SetCellStateRequest{Id: args[0], State: to, Mutation: m}))
		if err != nil {
			return err
		}
		did(cmd, r.Msg.GetDone(), "cell "+args[0]+" is "+to)
		return show(cmd, r.Msg, cellTable(r.Msg.GetCell()))
	})
	return cmd
}

func cellTable(rows ...*controlv1.Cell) table {
	t := table{head: []string{"CELL", "REGION", "STATE", "WORKSPACES", "BUILT FOR", "CONNECTIONS", "POSTS/S", "REPORTED", "VERSION"}}
	for _, c := range rows {
		conns, posts, at := "-", "-", "silent"
		if l := c.GetLoad(); l != nil {
			conns, posts, at = strconv.FormatInt(l.GetConnections(), 10), fmt.Sprintf("%.1f", l.GetPostsPerS()), when(l.GetReportedUs())
		}
		t.add(c.GetId(), c.GetRegion(), c.GetState(), strconv.FormatInt(c.GetWorkspaces(), 10), limit(c.GetCapacity().GetWorkspaces()), conns, posts, at, strconv.FormatUint(c.GetVersion(), 10))
	}
	return t
}

func workspaceCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the workspaces", Args: exactly(), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		rows, err := all(func(p *controlv1.Page) ([]*controlv1.Workspace, string, error) {
			r, err := c.ListWorkspaces(cmd.Context(), connect.NewRequest(&controlv1.ListWorkspacesRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			return r.Msg.GetWorkspaces(), r.Msg.GetNextPageToken(), nil
		})
		if err != nil {
			return err
		}
		return show(cmd, &controlv1.ListWorkspacesResponse{Workspaces: rows}, workspaceTable(rows...))
	})}
	get := &cobra.Command{Use: "show WORKSPACE", Short: "Show a workspace, by id or slug", Args: exactly("WORKSPACE"), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.GetWorkspace(cmd.Context(), connect.NewRequest(&controlv1.GetWorkspaceRequest{Workspace: args[0]}))
		if err != nil {
			return err
		}
		return show(cmd, r.Msg.GetWorkspace(), workspaceTable(r.Msg.GetWorkspace()))
	})}
	why := &cobra.Command{Use: "why WORKSPACE", Short: "Tell every cell's verdict about a workspace", Args: exactly("WORKSPACE"), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.ExplainPlacement(cmd.Context(), connect.NewRequest(&controlv1.ExplainPlacementRequest{Workspace: args[0]}))
		if err != nil {
			return err
		}
		return show(cmd, r.Msg, verdictTable(r.Msg.GetWorkspace().GetCell(), r.Msg.GetVerdicts()))
	})}
	return group("workspace", "Workspaces and where they are placed", list, get, workspaceCreate(), why, workspaceToken())
}

func workspaceCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Create a workspace and place it", Args: exactly()}
	w := &controlv1.Workspace{}
	f := cmd.Flags()
	f.StringVar(&w.Slug, "slug", "", "short name: lower-case letters, digits and - (required)")
	f.StringVar(&w.Name, "name", "", "name that people see (default: the slug)")
	f.StringVar(&w.HomeRegion, "region", "", "home region (required)")
	f.StringSliceVar(&w.Residency, "residency", nil, "regions its data may be in (default: any)")
	f.StringVar(&w.Pin, "pin", "", "the cell it has to be in")
	f.StringVar(&w.AntiAffinity, "anti-affinity", "", "never in a cell with another workspace of this group")
	wait := f.Duration("wait", 30*time.Second, "how long to wait until its cell serves it (0 = not at all)")
	m := addMutation(cmd)
	cmd.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		r, err := c.CreateWorkspace(cmd.Context(), connect.NewRequest(&controlv1.CreateWorkspaceRequest{Workspace: w, Mutation: m}))
		if err != nil {
			return err
		}
		made := r.Msg.GetWorkspace()
		did(cmd, r.Msg.GetDone(), fmt.Sprintf("workspace %s placed in %s", made.GetSlug(), made.GetCell()))
		if !m.GetDryRun() && *wait > 0 {
			if made, err = waitActive(cmd.Context(), c, made.GetId(), *wait); err != nil {
				return err
			}
			r.Msg.Workspace = made
		}
		return show(cmd, r.Msg, workspaceTable(made))
	})
	return cmd
}

// lookEvery is how often a wait looks.
const lookEvery = 100 * time.Millisecond

// waitActive waits until a workspace's cell serves it.
func waitActive(ctx context.Context, c controlv1connect.ControlServiceClient, id string, most time.Duration) (*controlv1.Workspace, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		r, err := c.GetWorkspace(ctx, connect.NewRequest(&controlv1.GetWorkspaceRequest{Workspace: id}))
		if err == nil && r.Msg.GetWorkspace().GetState() == "active" {
			return r.Msg.GetWorkspace(), nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, problem.New(problem.Unavailable, "workspace %s is placed, but its cell has not opened it within %s; it goes on by itself: parley workspace show %s", id, most, id)
		}
	}
}

func workspaceTable(rows ...*controlv1.Workspace) table {
	t := table{head: []string{"ID", "SLUG", "NAME", "HOME", "CELL", "EPOCH", "STATE", "PIN", "CREATED", "VERSION"}}
	for _, w := range rows {
		t.add(w.GetId(), w.GetSlug(), w.GetName(), w.GetHomeRegion(), w.GetCell(), strconv.FormatUint(w.GetEpoch(), 10), w.GetState(),
			orDash(w.GetPin()), when(w.GetCreatedUs()), strconv.FormatUint(w.GetVersion(), 10))
	}
	return t
}

func verdictTable(now string, vs []*controlv1.Verdict) table {
	t := table{head: []string{"CELL", "VERDICT", "SCORE", "REASONS"}}
	for _, v := range vs {
		verdict := "no"
		if v.GetAllowed() {
			verdict = "allowed"
		}
		if v.GetChosen() {
			verdict = "best"
		}
		if v.GetCell() == now {
			verdict += ", it is here"
		}
		t.add(v.GetCell(), verdict, fmt.Sprintf("%.3f", v.GetScore()), orDash(strings.Join(v.GetReasons(), "; ")))
	}
	return t
}

func workspaceToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token WORKSPACE", Short: "Sign a token for a user of a workspace, or for a tool of its admins", Args: exactly("WORKSPACE")}
	user := cmd.Flags().String("user", "", "the user's id (may be empty for --role admin)")
	role := cmd.Flags().String("role", "member", "member or admin")
	ttl := cmd.Flags().Duration("ttl", 24*time.Hour, "how long it is good")
	cmd.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.IssueToken(cmd.Context(), connect.NewRequest(&controlv1.IssueTokenRequest{
			Workspace: args[0], UserId: *user, Role: *role, TtlSeconds: int64(ttl.Seconds()),
		}))
		if err != nil {
			return err
		}
		return show(cmd, r.Msg, table{rows: [][]string{{r.Msg.GetToken()}}})
	})
	return cmd
}
