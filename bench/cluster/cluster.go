// Package cluster runs a whole Parley as a child process, with people and
// channels in it, to be measured.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"parley/bench/process"
	"parley/internal/devcluster"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Config is a cluster's: one region, one cell.
type Config struct {
	Binary string // of parley
	Dir    string // for its data; it must not be there yet
	Edges  int    // 0 = 1
}

// Cluster is a running Parley.
type Cluster struct {
	*process.Process
	cfg  Config
	info devcluster.Info
}

// Limits of calls to the cluster.
const (
	seedMax    = 5 * time.Minute
	profileMax = 2 * time.Minute
	callMax    = 10 * time.Second
)

// Start runs the cluster and waits until it serves.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	args := []string{
		"dev", "--data", cfg.Dir, "--regions", "eu", "--cells", "1", "--edges", strconv.Itoa(max(cfg.Edges, 1)), "--port-base", "0", "--log", "error",
	}
	// Nothing but the profiles and metrics depends on the admin listener.
	help, err := exec.CommandContext(ctx, cfg.Binary, "dev", "--help").CombinedOutput() //nolint:gosec // the operator names it
	switch {
	case err != nil:
		return nil, problem.Wrap(err, problem.Unavailable, "%s is no parley: %s; make build makes one", cfg.Binary, help)
	case bytes.Contains(help, []byte("--admin-base")):
		args = append(args, "--admin-base", "0")
	case bytes.Contains(help, []byte("--admin ")):
		args = append(args, "--admin")
	}
	c := &Cluster{cfg: cfg}
	c.Process, err = process.Start(ctx, process.Config{
		Name: "parley dev", Path: cfg.Binary, Args: args, Ready: func(line string) bool { return strings.HasPrefix(line, "Ctrl-C") },
	})
	if err != nil {
		return nil, err
	}
	if c.info, err = devcluster.LoadInfo(c.infoFile()); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) infoFile() string { return filepath.Join(c.cfg.Dir, devcluster.InfoFile) }

// Edges are the edges' host:port.
func (c *Cluster) Edges() ([]string, error) {
	out := make([]string, 0, len(c.info.Edges))
	for _, e := range c.info.Edges {
		u, err := url.Parse(e.URL)
		if err != nil {
			return nil, problem.Wrap(err, problem.Invalid, "edge address %q", e.URL)
		}
		out = append(out, u.Host)
	}
	return out, nil
}

// People are users with tokens, and the channels that they are in.
type People struct {
	Users []struct {
		ID    topology.UserID `json:"id"`
		Token string          `json:"token"`
	} `json:"users"`
	Channels []struct {
		ID      topology.ChannelID `json:"id"`
		Members []topology.UserID  `json:"members"`
	} `json:"channels"`
}

// Seed is how many of them to make; the prefix keeps one seed's from another's.
type Seed struct {
	Prefix                   string
	Users, Channels, Members int
}

// Args are what `parley seed` is told.
func (s Seed) Args() []string {
	return []string{
		"--prefix", s.Prefix, "--users", strconv.Itoa(s.Users), "--channels", strconv.Itoa(s.Channels), "--members-per-channel", strconv.Itoa(s.Members),
	}
}

// Seed makes people and channels. Each channel's members are the next stretch of
// the users.
func (c *Cluster) Seed(ctx context.Context, s Seed) (People, error) {
	ctx, cancel := context.WithTimeout(ctx, seedMax)
	defer cancel()
	if len(c.info.Workspaces) == 0 {
		return People{}, problem.New(problem.Internal, "the cluster has no workspace")
	}
	args := append([]string{"seed", "--dev-file", c.infoFile(), "--workspace", c.info.Workspaces[0].Slug, "-o", "json"}, s.Args()...)
	cmd := exec.CommandContext(ctx, c.cfg.Binary, args...) //nolint:gosec // the operator names it
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return People{}, problem.Wrap(err, problem.Unavailable, "parley seed: %s", strings.TrimSpace(errs.String()))
	}
	var p People
	if err := json.Unmarshal(out, &p); err != nil {
		return People{}, problem.Wrap(err, problem.Internal, "parley seed said something else: %.200s", out)
	}
	return p, nil
}

// admin is the first admin listener, "" without one. All roles of a development
// cluster are one process, so one profile has them all.
func (c *Cluster) admin() string {
	if len(c.info.Admin) == 0 {
		return ""
	}
	return c.info.Admin[0].URL
}

// Profile writes the next d of CPU profile to a file; false says that this
// parley has no admin listener.
func (c *Cluster) Profile(ctx context.Context, d time.Duration, file string) (bool, error) {
	if c.admin() == "" {
		return false, nil
	}
	seconds := strconv.Itoa(max(int(d.Seconds()), 1))
	b, err := get(ctx, profileMax, c.admin()+"/debug/pprof/profile?seconds="+seconds)
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return false, problem.Wrap(err, problem.Unavailable, "%s can't be written", file)
	}
	return true, nil
}

// Collect has the cluster's garbage collected twice, where it can be asked to:
// the second time what finalizers held is free, too.
func (c *Cluster) Collect(ctx context.Context) error {
	for range 2 {
		if c.admin() == "" {
			return nil
		}
		if _, err := get(ctx, callMax, c.admin()+"/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
	}
	return nil
}

func get(ctx context.Context, most time.Duration, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	web := &http.Client{}
	res, err := web.Do(req)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the admin listener does not answer")
	}
	defer func() { _ = res.Body.Close() }() // it was read
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = problem.New(problem.Unavailable, "%s answers %s: %.200s", url, res.Status, b)
	}
	return b, err
}

// LinkPorts are the UDP ports on which the gateways take links.
func (c *Cluster) LinkPorts() ([]uint16, error) {
	b, err := os.ReadFile(filepath.Join(c.cfg.Dir, "ports.json"))
	var all map[string]uint16
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "the cluster's ports can't be read")
	}
	var out []uint16
	for name, port := range all {
		if strings.HasSuffix(name, "/link") {
			out = append(out, port)
		}
	}
	return out, nil
}
