// Package controlplane keeps the record of truth in Raft, serves the operators'
// API on every node, and, on the leader, places workspaces, opens them in their
// cells, and publishes routes to the regions. Nothing on the data path waits for
// it.
//
// Invariants: P1 every change is one entry of the log, applied alike on all nodes.
// P2 what a region's etcd reflects never goes back: writes carry the Raft index.
// P3 an entry that this build does not know stops the node before it is applied.
package controlplane

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/problem"
)

// Peer is a node of the control plane.
type Peer struct {
	ID       string
	RaftAddr string // host:port
	APIURL   string // https://host:port
}

// Config is a node's settings.
type Config struct {
	ID       string
	RaftAddr string // host:port to listen on, and how peers reach it
	APIAddr  string // host:port to listen on
	Peers    []Peer // all voters, this node among them: what a first start begins with
	Dir      string
	// BootstrapToken becomes the first operator token, on the very first start of
	// the cluster. Ignored later.
	BootstrapToken string

	// Election is how long followers wait for a leader: 100 ms to 10 s, default
	// 1 s. Less finds a dead leader sooner and mistakes a slow disk for one.
	Election time.Duration
	// SnapshotEvery is after how many entries a snapshot is taken; default 8,192.
	SnapshotEvery uint64
	// GatherEvery is how often the leader looks which edges and gateways live;
	// default 1 s.
	GatherEvery time.Duration
}

// Deps is what a node works on.
type Deps struct {
	Identity *pki.Bundle // role control; its hosts are those of the API's URL
	Now      func() time.Time
	Log      *slog.Logger
	Metrics  *prometheus.Registry
	Net      network.Network
}

const (
	electionNormal = time.Second
	snapshotNormal = 8192
	gatherNormal   = time.Second
)

func (c Config) withDefaults() Config {
	if c.Election == 0 {
		c.Election = electionNormal
	}
	if c.SnapshotEvery == 0 {
		c.SnapshotEvery = snapshotNormal
	}
	if c.GatherEvery == 0 {
		c.GatherEvery = gatherNormal
	}
	return c
}

func (c Config) validate(d Deps) error {
	var faults []error
	check := func(ok bool, field, fault string) {
		if !ok {
			faults = append(faults, problem.Field(field, "%s", fault))
		}
	}
	check(c.ID != "", "id", "is empty")
	check(c.RaftAddr != "" && c.APIAddr != "", "raft_addr, api_addr", "must be host:port")
	check(c.Dir != "", "dir", "must name a directory")
	check(c.Election >= 100*time.Millisecond && c.Election <= 10*time.Second, "election", "must be 100 ms to 10 s")
	check(len(c.Peers)%2 == 1 && len(c.Peers) <= 7, "peers", "must be 1, 3, 5 or 7, this node among them")
	_, ok := c.peer(c.ID)
	check(ok, "peers", "must name this node, too")
	check(d.Identity != nil, "identity", "is missing")
	return errors.Join(faults...)
}

func (c Config) peer(id string) (Peer, bool) {
	for _, p := range c.Peers {
		if p.ID == id {
			return p, true
		}
	}
	return Peer{}, false
}
