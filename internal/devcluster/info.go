package devcluster

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Info is dev.json: what is where, and how to log in.
type Info struct {
	Edges         []EdgeInfo      `json:"edges"`
	Control       []string        `json:"control"`
	CA            string          `json:"ca"` // file: the authority to trust for https
	OperatorToken string          `json:"operator_token"`
	Admin         []AdminInfo     `json:"admin,omitempty"` // with --admin
	Workspaces    []WorkspaceInfo `json:"workspaces"`
}

// EdgeInfo is a way in.
type EdgeInfo struct {
	Region topology.RegionID `json:"region"`
	URL    string            `json:"url"`
}

// AdminInfo is where a role tells how it is.
type AdminInfo struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// WorkspaceInfo is a demo workspace.
type WorkspaceInfo struct {
	ID       topology.WorkspaceID `json:"id"`
	Slug     string               `json:"slug"`
	Cell     topology.CellID      `json:"cell"`
	Channels []ChannelInfo        `json:"channels"`
	Users    []UserInfo           `json:"users"`
}

// ChannelInfo is a channel of a demo workspace.
type ChannelInfo struct {
	ID   topology.ChannelID `json:"id"`
	Name string             `json:"name"`
}

// UserInfo is a person of a demo workspace with a token to log in.
type UserInfo struct {
	ID    topology.UserID `json:"id"`
	Name  string          `json:"name"`
	Token string          `json:"token"`
}

// InfoFile is the name of dev.json in the data directory.
const InfoFile = "dev.json"

// InfoFileNormal is where the commands look for a dev.json that nobody named.
const InfoFileNormal = "data/" + InfoFile

// LoadInfo reads a dev.json.
func LoadInfo(file string) (Info, error) {
	var info Info
	b, err := os.ReadFile(file)
	if err != nil {
		return info, problem.Wrap(err, problem.NotFound, "%s can't be read: does `parley dev` run?", file)
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, problem.Wrap(err, problem.Invalid, "%s is no dev.json: %v", file, err)
	}
	return info, nil
}

func (i Info) write(file string) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(file, append(b, '\n'), 0o600)
}

// Print tells a newcomer what is where and what to type next.
func (i Info) Print(w io.Writer, dataDir string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "\nParley is up.")
	for _, e := range i.Edges {
		fmt.Fprintf(t, "  edge %s\t%s\tsockets at /connect\n", e.Region, e.URL)
	}
	for _, u := range i.Control {
		fmt.Fprintf(t, "  control\t%s\tfor parley region, cell, workspace, raft, audit\n", u)
	}
	for _, ws := range i.Workspaces {
		fmt.Fprintf(t, "  workspace %s\tin cell %s\tchannels:", ws.Slug, ws.Cell)
		for _, c := range ws.Channels {
			fmt.Fprintf(t, " #%s", c.Name)
		}
		fmt.Fprint(t, "  users:")
		for _, u := range ws.Users {
			fmt.Fprintf(t, " %s", u.Name)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // a terminal that is gone needs no greeting
	fmt.Fprintf(w, "Tokens and ids are in %s/%s. Talk, in two terminals:\n", dataDir, InfoFile)
	if len(i.Workspaces) > 0 && len(i.Workspaces[0].Users) > 1 {
		ws := i.Workspaces[0]
		at := ""
		if file := filepath.Join(dataDir, InfoFile); file != InfoFileNormal {
			at = " --dev-file " + file
		}
		for n, u := range ws.Users[:2] {
			region := i.Edges[n%len(i.Edges)].Region
			fmt.Fprintf(w, "  bin/parley chat --workspace %s --user %s --region %s%s\n", ws.Slug, u.Name, region, at)
		}
	}
	fmt.Fprintln(w, "Ctrl-C ends it.")
}
