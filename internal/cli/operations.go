package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
)

func raftCommand() *cobra.Command {
	peers := &cobra.Command{Use: "list-peers", Short: "List the control plane's nodes", Args: exactly(), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		r, err := c.ListPeers(cmd.Context(), connect.NewRequest(&controlv1.ListPeersRequest{}))
		if err != nil {
			return err
		}
		t := table{head: []string{"NODE", "ADDRESS", "API", "ROLE"}}
		for _, p := range r.Msg.GetPeers() {
			role := "follower"
			if p.GetLeader() {
				role = "leader"
			}
			t.add(p.GetId(), p.GetAddress(), orDash(p.GetApiUrl()), role)
		}
		return show(cmd, r.Msg, t)
	})}
	transfer := &cobra.Command{Use: "transfer-leader", Short: "Hand leadership over", Args: exactly()}
	to := transfer.Flags().String("to", "", "the node that is to lead (default: whichever is furthest on)")
	transfer.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		r, err := c.TransferLeader(cmd.Context(), connect.NewRequest(&controlv1.TransferLeaderRequest{To: *to}))
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "leadership handed over")
		return show(cmd, r.Msg, table{})
	})
	return group("raft", "The control plane's own consensus", peers, transfer, group("snapshot", "Save and restore the state", snapshotSave(), snapshotRestore()))
}

func snapshotSave() *cobra.Command {
	return &cobra.Command{Use: "save FILE", Short: "Save the whole state to a file", Args: exactly("FILE"), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) (err error) {
		stream, err := c.SaveSnapshot(cmd.Context(), connect.NewRequest(&controlv1.SaveSnapshotRequest{}))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stream.Close()) }()
		// A file beside it, renamed when it is whole: a broken one looks like none.
		tmp := args[0] + ".part"
		f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return usage("%v", err)
		}
		defer func() {
			if err != nil {
				_ = os.Remove(tmp) // it is worth nothing
			}
		}()
		size := 0
		for stream.Receive() {
			n, err := f.Write(stream.Msg().GetData())
			if err != nil {
				return errors.Join(err, f.Close())
			}
			size += n
		}
		if err := errors.Join(stream.Err(), f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(tmp, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%d bytes saved to %s\n", size, args[0])
		return nil
	})}
}

func snapshotRestore() *cobra.Command {
	cmd := &cobra.Command{Use: "restore FILE", Short: "Take the whole control plane back to a saved state", Args: exactly("FILE")}
	sure := cmd.Flags().Bool("yes", false, "really: everything recorded since is forgotten")
	cmd.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		if !*sure {
			return usage("this forgets everything recorded since the snapshot; say --yes if that is meant")
		}
		f, err := os.Open(args[0])
		if err != nil {
			return usage("%v", err)
		}
		defer func() { _ = f.Close() }() // it was only read
		stream := c.RestoreSnapshot(cmd.Context())
		if err := sendAll(stream, f); err != nil {
			return err
		}
		r, err := stream.CloseAndReceive()
		if err != nil {
			return err
		}
		did(cmd, r.Msg.GetDone(), "restored")
		return show(cmd, r.Msg, table{})
	})
	return cmd
}

// sendAll sends a file in pieces. A server that ends the call early says why in
// its answer.
func sendAll(to *connect.ClientStreamForClient[controlv1.RestoreSnapshotRequest, controlv1.RestoreSnapshotResponse], f io.Reader) error {
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			switch sent := to.Send(&controlv1.RestoreSnapshotRequest{Data: buf[:n]}); {
			case errors.Is(sent, io.EOF):
				return nil
			case sent != nil:
				return sent
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func tokenCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the operator tokens", Args: exactly(), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		rows, err := all(func(p *controlv1.Page) ([]*controlv1.OperatorToken, string, error) {
			r, err := c.ListOperatorTokens(cmd.Context(), connect.NewRequest(&controlv1.ListOperatorTokensRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			return r.Msg.GetTokens(), r.Msg.GetNextPageToken(), nil
		})
		if err != nil {
			return err
		}
		t := table{head: []string{"ID", "NAME", "CREATED"}}
		for _, row := range rows {
			t.add(row.GetId(), row.GetName(), when(row.GetCreatedUs()))
		}
		return show(cmd, &controlv1.ListOperatorTokensResponse{Tokens: rows}, t)
	})}
	create := &cobra.Command{Use: "create NAME", Short: "Make an operator token; its secret is shown once", Args: exactly("NAME")}
	m := addMutation(create)
	create.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.CreateOperatorToken(cmd.Context(), connect.NewRequest(&controlv1.CreateOperatorTokenRequest{Name: args[0], Mutation: m}))
		if err != nil {
			return err
		}
		did(cmd, r.Msg.GetDone(), "operator token "+r.Msg.GetOperatorToken().GetId()+" created")
		return show(cmd, r.Msg, table{rows: [][]string{{r.Msg.GetSecret()}}})
	})
	revoke := &cobra.Command{Use: "revoke ID", Short: "Revoke an operator token", Args: exactly("ID")}
	rm := addMutation(revoke)
	revoke.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, args []string) error {
		r, err := c.RevokeOperatorToken(cmd.Context(), connect.NewRequest(&controlv1.RevokeOperatorTokenRequest{Id: args[0], Mutation: rm}))
		if err != nil {
			return err
		}
		did(cmd, r.Msg.GetDone(), "operator token "+args[0]+" revoked")
		return show(cmd, r.Msg, table{})
	})
	return group("token", "Operator tokens", list, create, revoke)
}

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Who did what, when, from where; newest first", Args: exactly()}
	most := cmd.Flags().Int32("limit", 50, "how many records, 1 to 1,000")
	cmd.RunE = withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		r, err := c.ListAudit(cmd.Context(), connect.NewRequest(&controlv1.ListAuditRequest{Page: &controlv1.Page{Size: *most}}))
		if err != nil {
			return err
		}
		t := table{head: []string{"WHEN", "WHO", "FROM", "ACTION", "OBJECT", "ID"}}
		for _, e := range r.Msg.GetEntries() {
			t.add(when(e.GetAtUs()), e.GetActor(), e.GetFrom(), e.GetAction(), e.GetObject(), e.GetId())
		}
		return show(cmd, r.Msg, t)
	})
	return cmd
}

func statusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "The control plane as the first node that answers sees it", Args: exactly(), RunE: withControl(func(cmd *cobra.Command, c controlv1connect.ControlServiceClient, _ []string) error {
		r, err := c.GetStatus(cmd.Context(), connect.NewRequest(&controlv1.GetStatusRequest{}))
		if err != nil {
			return err
		}
		var published []string
		for _, region := range slices.Sorted(maps.Keys(r.Msg.GetPublished())) {
			published = append(published, fmt.Sprintf("%s@%d", region, r.Msg.GetPublished()[region]))
		}
		t := table{head: []string{"NODE", "ROLE", "LEADER", "APPLIED", "PUBLISHED"}}
		t.add(r.Msg.GetNode(), r.Msg.GetRole(), orDash(r.Msg.GetLeader()), strconv.FormatUint(r.Msg.GetAppliedIndex(), 10), orDash(strings.Join(published, " ")))
		return show(cmd, r.Msg, t)
	})}
}
