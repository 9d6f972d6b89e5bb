package roles

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"parley/cell/cassandra"
	"parley/cell/directory"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/kafka"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/presence"
	"parley/cell/readstate"
	"parley/cell/redisdb"
	"parley/cell/router"
	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/cell/search/elastic"
)

// stores are a cell's engines. Who uses them does not know which drivers they are.
type stores struct {
	messages msglog.Store
	history  history.Store
	events   eventlog.Log
	marks    readstate.Store
	bus      router.Bus
	presence presence.Store
	rows     *directory.Directory
	index    search.Index

	failed func() <-chan struct{} // closed when one has failed for good; nil = none can
	why    func() error           // then
	closes []func() error
}

// opening is stores being opened.
type opening struct {
	*stores
	c       Cell
	log     *slog.Logger
	metrics *metricSet
	journal readstate.Journal
}

// openStores opens the drivers that the config names, all or none.
func (c Cell) openStores(ctx context.Context, log *slog.Logger, metrics *metricSet) (_ *stores, err error) {
	c.Stores = c.Stores.routed()
	o := opening{stores: &stores{}, c: c, log: log, metrics: metrics}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.closeAll())
		}
	}()
	if err := c.readyEngines(ctx, log); err != nil {
		return nil, err
	}
	for _, open := range []func(context.Context) error{o.openEmbedded, o.openKafka, o.openCassandra, o.openRedis, o.openDirectory, o.openIndex} {
		if err := open(ctx); err != nil {
			return nil, err
		}
	}
	return o.stores, nil
}

// openEmbedded opens Pebble for what no engine is named for.
func (o *opening) openEmbedded(context.Context) error {
	if e := o.c.Stores; e.cassandra() && e.kafka() && e.redis() {
		return nil
	}
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(o.c.Dir, "store"), Log: o.log})
	if err != nil {
		return err
	}
	o.closes = append(o.closes, db.Close)
	o.messages, o.history, o.events, o.marks = db.Log(), db.History(), db.Events(), db.ReadState()
	o.failed, o.why = db.Failed, db.Err
	o.bus, o.presence = router.NewLocal(router.LocalConfig{}), presence.NewMemory(time.Now)
	return nil
}

func (o *opening) openKafka(ctx context.Context) error {
	if !o.c.Stores.kafka() {
		return nil
	}
	db, err := kafka.Open(ctx, o.c.Stores.Kafka, o.log, o.metrics.of("kafka"))
	if err != nil {
		return under("stores.kafka", err)
	}
	o.closes = append(o.closes, func() error { db.Close(); return nil })
	o.events, o.journal = db.Events(), db.Journal()
	return nil
}

func (o *opening) openCassandra(ctx context.Context) error {
	if !o.c.Stores.cassandra() {
		return nil
	}
	db, err := cassandra.Open(ctx, o.c.Stores.Cassandra, o.c.ID, o.log, o.metrics.of("cassandra"))
	if err != nil {
		return under("stores.cassandra", err)
	}
	o.closes = append(o.closes, db.Close)
	o.messages, o.history = db.Log(), db.History()
	return nil
}

func (o *opening) openRedis(ctx context.Context) error {
	if !o.c.Stores.redis() {
		return nil
	}
	db, err := redisdb.Open(ctx, o.c.Stores.Redis, redisdb.Deps{Name: o.c.name(), Journal: o.journal, Log: o.log, Metrics: o.metrics.of("redis")})
	if err != nil {
		return under("stores.redis", err)
	}
	o.closes = append(o.closes, db.Close)
	o.bus, o.presence, o.marks = db.Bus(), db.Presence(), db.ReadState()
	return nil
}

func (o *opening) openDirectory(ctx context.Context) (err error) {
	if o.c.Stores.postgres() {
		o.rows, err = directory.OpenPostgres(ctx, o.c.Stores.Postgres, time.Now, o.log)
		err = under("stores.postgres", err)
	} else {
		o.rows, err = directory.Open(ctx, filepath.Join(o.c.Dir, "directory.db"), time.Now, o.log)
	}
	if err == nil {
		o.closes = append(o.closes, o.rows.Close)
	}
	return err
}

func (o *opening) openIndex(ctx context.Context) error {
	if o.c.Stores.elasticsearch() {
		db, err := elastic.Open(ctx, o.c.Stores.Elasticsearch, o.log)
		if err != nil {
			return under("stores.elasticsearch", err)
		}
		o.index, o.closes = db, append(o.closes, db.Close)
		return nil
	}
	db, err := blevedb.Open(blevedb.Config{Dir: filepath.Join(o.c.Dir, "search"), Log: o.log})
	if err != nil {
		return err
	}
	o.index, o.closes = db, append(o.closes, db.Close)
	return nil
}

// closeAll closes what is open, in reverse.
func (s *stores) closeAll() (err error) {
	for _, c := range slices.Backward(s.closes) {
		err = errors.Join(err, c())
	}
	s.closes = nil
	return err
}

// watchStores is the Run of a part that ends the cell when a store has failed for
// good: a restart finds out what is on disk.
func (s *stores) watchStores(ctx context.Context, ready func()) error {
	ready()
	var failed <-chan struct{}
	if s.failed != nil {
		failed = s.failed()
	}
	select {
	case <-failed:
		return s.why()
	case <-ctx.Done():
		return nil
	}
}
