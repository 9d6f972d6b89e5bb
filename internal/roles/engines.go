package roles

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"parley/cell/cassandra"
	"parley/cell/directory"
	"parley/cell/kafka"
	"parley/cell/redisdb"
	"parley/cell/search/elastic"
	"parley/internal/detour"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/regions"
)

// Engines are the servers that a cell stores in. What none is named for is embedded.
type Engines struct {
	Cassandra     cassandra.Config `yaml:"cassandra"`
	Kafka         kafka.Config     `yaml:"kafka"`
	Redis         redisdb.Config   `yaml:"redis"`
	Postgres      directory.Config `yaml:"postgres"`
	Elasticsearch elastic.Config   `yaml:"elasticsearch"`
	// Via says where to connect instead of an address that an engine goes by, in the
	// sections above or in what its cluster says of its nodes: host:port to host:port.
	// For engines behind a NAT or a bastion, and for drills.
	Via detour.Map `yaml:"via"`
}

// routed are the engines with what leads to them.
func (e Engines) routed() Engines {
	e.Cassandra.Via, e.Kafka.Via, e.Redis.Via, e.Postgres.Via, e.Elasticsearch.Via = e.Via, e.Via, e.Via, e.Via, e.Via
	return e
}

// defaultEngines names no server.
func defaultEngines() Engines {
	return Engines{Cassandra: cassandra.Default(), Kafka: kafka.Default(), Redis: redisdb.Config{KeyPrefix: "parley"}, Postgres: directory.DefaultConfig()}
}

func (e Engines) cassandra() bool     { return len(e.Cassandra.Hosts) > 0 }
func (e Engines) kafka() bool         { return len(e.Kafka.Brokers) > 0 }
func (e Engines) redis() bool         { return len(e.Redis.Addrs) > 0 }
func (e Engines) postgres() bool      { return e.Postgres.URL != "" || e.Postgres.Host != "" }
func (e Engines) elasticsearch() bool { return len(e.Elasticsearch.Addresses) > 0 }

// shared reports whether several processes can use the stores at once.
func (e Engines) shared() bool {
	return e.cassandra() && e.kafka() && e.redis() && e.postgres() && e.elasticsearch()
}

// engine is one of them that the config names.
type engine struct {
	name     string
	used     bool
	validate func() error
	check    func(context.Context) error
	ready    func(context.Context) error // as check, but tolerant of nodes that are away
}

func (e Engines) all(log *slog.Logger) []engine {
	e = e.routed()
	redis := func(ctx context.Context) error { return redisdb.Check(ctx, e.Redis) }
	postgres := func(ctx context.Context) error { return directory.Check(ctx, e.Postgres) }
	return []engine{
		{
			"cassandra", e.cassandra(), e.Cassandra.Validate,
			func(ctx context.Context) error { return cassandra.Check(ctx, e.Cassandra) },
			func(ctx context.Context) error { return cassandra.Ready(ctx, e.Cassandra) },
		},
		{
			"kafka", e.kafka(), e.Kafka.Validate,
			func(ctx context.Context) error { return kafka.Check(ctx, e.Kafka) },
			func(ctx context.Context) error { return kafka.Ready(ctx, e.Kafka, log) },
		},
		{"redis", e.redis(), e.Redis.Validate, redis, redis},
		{"postgres", e.postgres(), e.Postgres.Validate, postgres, postgres},
		{
			"elasticsearch", e.elasticsearch(), e.Elasticsearch.Validate,
			func(ctx context.Context) error { return elastic.Check(ctx, e.Elasticsearch) },
			func(ctx context.Context) error { return elastic.Ready(ctx, e.Elasticsearch) },
		},
	}
}

// validate checks what can be checked without the servers.
func (e Engines) validate(f *faults) {
	f.check(e.cassandra() == e.kafka(), "stores.kafka", "and stores.cassandra go together: what is marked as emitted in the one is in the other")
	f.check(!e.redis() || e.kafka(), "stores.redis", "needs stores.kafka, from which read state is filled again when Redis has lost it")
	f.within("stores", e.Via.Validate())
	for _, g := range e.all(nil) {
		if g.used {
			f.within("stores."+g.name, g.validate())
		}
	}
}

// engineCheckMax bounds the look at one engine: they all have it at once.
const engineCheckMax = 15 * time.Second

// Check asks every server that the config names, changes nothing, and tells all
// that is wrong: also of a node that is away and without which a cell would start.
func (c Cell) Check(ctx context.Context) error {
	if err := c.Validate(); err != nil {
		return err
	}
	identity, err := c.loadIdentity()
	if err == nil {
		err = c.checkEtcd(ctx, identity)
	}
	return errors.Join(err, c.askEngines(ctx, slog.New(slog.DiscardHandler), func(g engine) func(context.Context) error { return g.check }))
}

// loadIdentity reads the cell's certificate.
func (c Cell) loadIdentity() (*pki.Bundle, error) {
	b, err := pki.LoadBundle(c.CertDir)
	if err != nil {
		return nil, under("cert_dir", err)
	}
	return b, c.checkIdentity(b.Identity())
}

func (c Cell) checkEtcd(ctx context.Context, identity *pki.Bundle) error {
	away, faults := regions.Check(ctx, c.Etcd, identity.Client(pki.RoleEtcd))
	return under("etcd", errors.Join(append(away, faults...)...))
}

// readyEtcd refuses what is there and can't be the region's etcd. One that is away
// may come: until then a cell goes by what it last knew.
func (c Cell) readyEtcd(ctx context.Context, identity *pki.Bundle, log *slog.Logger) error {
	away, faults := regions.Check(ctx, c.Etcd, identity.Client(pki.RoleEtcd))
	if len(faults) > 0 && len(away)+len(faults) == len(c.Etcd) {
		return under("etcd", errors.Join(append(away, faults...)...))
	}
	for _, err := range append(away, faults...) {
		log.Warn("an etcd can't be used for now", "err", err)
	}
	return nil
}

// readyEngines asks all engines, so that what is wrong with one is told before
// anything is made in another.
func (c Cell) readyEngines(ctx context.Context, log *slog.Logger) error {
	return c.askEngines(ctx, log, func(g engine) func(context.Context) error { return g.ready })
}

func (c Cell) askEngines(ctx context.Context, log *slog.Logger, how func(engine) func(context.Context) error) error {
	engines := c.Stores.all(log)
	errs := make([]error, len(engines))
	var all sync.WaitGroup
	for i, g := range engines {
		if !g.used {
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, engineCheckMax)
			defer cancel()
			errs[i] = under("stores."+g.name, how(g)(ctx))
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// under names, in each of the errors joined in err, the section of the config that
// it is about.
func under(section string, err error) error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range many.Unwrap() {
			out = append(out, under(section, e))
		}
		return errors.Join(out...)
	}
	e, ok := errors.AsType[*problem.Error](err)
	if !ok {
		return problem.Wrap(err, problem.KindOf(err), "%s: %s", section, problem.Show(err))
	}
	named, between := *e, ": "
	_, engine, _ := strings.Cut(section, ".")
	named.Msg = strings.TrimPrefix(e.Msg, engine+".") // some drivers say whose field it is
	if named.Field != "" {
		named.Field, between = section+"."+strings.TrimPrefix(e.Field, engine+"."), "."
	}
	named.Msg = section + between + named.Msg
	return &named
}

func (f *faults) within(section string, err error) {
	if err := under(section, err); err != nil {
		f.list = append(f.list, err)
	}
}
