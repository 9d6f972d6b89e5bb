// Package quorum is the floor of a cell on Cassandra: a client that writes rows, each
// in a plain quorum write, and does nothing else.
package quorum

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gocql/gocql"

	"parley/internal/problem"
)

// Config is a client's.
type Config struct {
	Hosts      []string // of the nodes, host:port
	Datacenter string
	Rows       int // of each post, each in a partition of its own
	Bytes      int // of each row's blob
}

// Client is a connected client. It may be used from any goroutine.
type Client struct {
	cfg  Config
	s    *gocql.Session
	blob []byte
}

// Bounds of the client's work, and its settings: those of the store.
const (
	openMax  = time.Minute
	writeMax = 10 * time.Second
	conns    = 2
)

const insert = `INSERT INTO post (channel, kind, rev, body) VALUES (?, ?, ?, ?)`

// Open connects, and makes a keyspace with one table.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, blob: []byte(strings.Repeat("x", cfg.Bytes))}
	ctx, cancel := context.WithTimeout(ctx, openMax)
	defer cancel()
	first, err := cfg.session("")
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the floor's Cassandra can't be reached")
	}
	err = first.Query(fmt.Sprintf(`CREATE KEYSPACE IF NOT EXISTS floor WITH replication = {'class': 'NetworkTopologyStrategy', '%s': %d}`,
		cfg.Datacenter, len(cfg.Hosts))).WithContext(ctx).Exec()
	if err == nil {
		err = first.Query(`CREATE TABLE IF NOT EXISTS floor.post (channel int, kind int, rev bigint, body blob, PRIMARY KEY ((channel, kind), rev))
			WITH compaction = {'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}`).WithContext(ctx).Exec()
	}
	first.Close()
	if err == nil {
		c.s, err = cfg.session("floor")
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the floor's table can't be made")
	}
	return c, nil
}

// session connects. Each has its own policy: it can't be shared.
func (c Config) session(keyspace string) (*gocql.Session, error) {
	cl := gocql.NewCluster(c.Hosts...)
	cl.Keyspace, cl.Consistency, cl.Timeout, cl.NumConns = keyspace, gocql.Quorum, writeMax, conns
	cl.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.DCAwareRoundRobinPolicy(c.Datacenter))
	return cl.CreateSession()
}

// Post writes the rows of a channel's nth post, side by side; it returns when all
// are at quorum.
func (c *Client) Post(ctx context.Context, channel int, n int64) error {
	errs := make(chan error, c.cfg.Rows)
	for kind := range c.cfg.Rows {
		go func() {
			errs <- c.s.Query(insert, channel, kind, n, c.blob).WithContext(ctx).Exec()
		}()
	}
	var failed error
	for range c.cfg.Rows {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	return failed
}

// Close disconnects.
func (c *Client) Close() { c.s.Close() }
