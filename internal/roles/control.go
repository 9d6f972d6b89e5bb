package roles

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"parley/controlplane"
	"parley/internal/admin"
	"parley/internal/lifecycle"
	"parley/internal/pki"
	"parley/internal/problem"
)

// Control is the config of a control-plane node.
type Control struct {
	Process  `yaml:",inline"`
	ID       string `yaml:"id" doc:"the node's name"`
	RaftAddr string `yaml:"raft_addr" doc:"host:port for Raft: to listen on, and how peers reach it"`
	APIAddr  string `yaml:"api_addr" doc:"host:port to listen on for the API"`
	// Peers are all voters, this one among them: what a first start begins with.
	Peers []Peer `yaml:"peers"`
	// BootstrapTokenFile holds the first operator's token, used on the very first
	// start of the cluster only.
	BootstrapTokenFile string        `yaml:"bootstrap_token_file" doc:"file with the first operator's token, for the very first start"`
	Election           time.Duration `yaml:"election" doc:"how long followers wait for a leader: 100 ms to 10 s"`
}

// Peer is a node of the control plane.
type Peer struct {
	ID       string `yaml:"id"`
	RaftAddr string `yaml:"raft_addr"`
	APIURL   string `yaml:"api_url"` // https://host:port
}

// DefaultControl is a Control without names and addresses.
func DefaultControl() Control {
	return Control{Process: Process{DrainMax: drainNormal}, Election: time.Second}
}

// Validate lists every fault at once.
func (c Control) Validate() error {
	var f faults
	c.validate(&f)
	f.check(c.ID != "", "id", "must name the node")
	f.addr("raft_addr", c.RaftAddr)
	f.addr("api_addr", c.APIAddr)
	f.check(len(c.Peers) > 0, "peers", "must name all voters, this node among them")
	for _, p := range c.Peers {
		f.addr("peers.raft_addr", p.RaftAddr)
		f.check(strings.HasPrefix(p.APIURL, "https://"), "peers.api_url", "%q must be https://host:port", p.APIURL)
	}
	return f.err()
}

// RunControl runs a control-plane node until ctx ends.
func RunControl(ctx context.Context, ready func(), c Control, log *slog.Logger) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := makeDir(c.Dir); err != nil {
		return err
	}
	unlock, err := lock(c.Dir, "control-plane node "+c.ID)
	if err != nil {
		return err
	}
	defer unlock()
	identity, err := pki.LoadBundle(c.CertDir)
	if err != nil {
		return err
	}
	cfg := controlplane.Config{ID: c.ID, RaftAddr: c.RaftAddr, APIAddr: c.APIAddr, Dir: c.Dir, Election: c.Election}
	for _, p := range c.Peers {
		cfg.Peers = append(cfg.Peers, controlplane.Peer(p))
	}
	if c.BootstrapTokenFile != "" {
		b, err := os.ReadFile(c.BootstrapTokenFile)
		if err != nil {
			return problem.Wrap(err, problem.Invalid, "bootstrap_token_file: %s can't be read", c.BootstrapTokenFile)
		}
		cfg.BootstrapToken = strings.TrimSpace(string(b))
	}
	metrics := newMetrics()
	n, err := controlplane.New(cfg, controlplane.Deps{Identity: identity, Now: time.Now, Log: log, Metrics: metrics})
	if err != nil {
		return err
	}
	return c.serve(ctx, ready, &admin.Server{Metrics: metrics, Check: n.Ready}, log, []lifecycle.Part{{Name: "control plane", Run: n.Run}})
}
