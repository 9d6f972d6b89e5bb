// Package elastic is search.Index on Elasticsearch 8, with plain indexes, aliases
// and bulks only: no data streams, scripts, reindexing or updates by query, which
// not every build of it has, and no analysis but that at white space, as package
// text has done the rest. The client's types stay in here.
//
// # Indexes
//
// There is one per quarter of a year, by the time of the message, which never
// changes: so a message's versions meet in one index, and Elasticsearch's external
// versions hold for it. A rollover by size would put an edit into another index
// than the message. All are behind the alias PREFIX for reading; each is written
// through an alias of its own, PREFIX-2026q1, and is called PREFIX-2026q1-000001,
// so that another may take its place.
//
// All of a workspace is routed to one shard of each. A document's id is workspace,
// generation and message id.
package elastic

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"parley/cell/search"
	"parley/internal/problem"
)

// DB is a cell's indexes in a cluster.
type DB struct {
	*client
	cfg Config
	log *slog.Logger

	mu   sync.Mutex
	made map[string]bool // write aliases that are known to be there
}

var _ search.Index = (*DB)(nil)

// Open asks what Ready asks, puts the index template, and serves.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*DB, error) {
	cfg = cfg.defaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := Ready(ctx, cfg); err != nil {
		return nil, err
	}
	s, err := cfg.secrets()
	if err != nil {
		return nil, err
	}
	c, err := newClient(&cfg, &s, cfg.Addresses)
	if err != nil {
		return nil, err
	}
	d := &DB{client: c, cfg: cfg, log: log, made: map[string]bool{}}
	if err := d.putTemplate(ctx); err != nil {
		c.close()
		return nil, err
	}
	return d, nil
}

// Close lets go of the connections. Nothing may be under way.
func (d *DB) Close() error {
	d.close()
	return nil
}

func (d *DB) putTemplate(ctx context.Context) error {
	err := d.do(ctx, esapi.IndicesPutIndexTemplateRequest{Name: d.cfg.Prefix, Body: template(&d.cfg)}, nil)
	if statusOf(err) == http.StatusBadRequest {
		return problem.Wrap(err, problem.Invalid, "elasticsearch refuses the index template %s: %v; if another template is for the same names, choose another prefix", d.cfg.Prefix, err)
	}
	return failed(err, "putting the index template")
}

// quarter names the index of a time, as its write alias.
func (d *DB) quarter(us int64) string {
	t := time.UnixMicro(us).UTC()
	return fmt.Sprintf("%s-%04dq%d", d.cfg.Prefix, t.Year(), (int(t.Month())+2)/3)
}

// ensure makes a quarter's index if there is none.
func (d *DB) ensure(ctx context.Context, alias string) error {
	d.mu.Lock()
	known := d.made[alias]
	d.mu.Unlock()
	if known {
		return nil
	}
	// Whoever comes second finds it there: the name is the same for all.
	err := d.do(ctx, esapi.IndicesCreateRequest{Index: alias + "-000001", Body: aliased(alias)}, nil)
	if statusOf(err) == http.StatusBadRequest {
		found, look := d.schemas(ctx, alias)
		if look != nil {
			return failed(look, "looking at the index "+alias)
		}
		if len(found) == 0 {
			return failed(err, "making the index "+alias)
		}
		if wrong := foreign(found, d.cfg.Prefix); wrong != nil {
			return wrong
		}
		err = nil
	}
	if err != nil {
		return failed(err, "making the index "+alias)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made[alias] = true
	return nil
}

// forget makes the next write look whether the indexes are there.
func (d *DB) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.made)
}
