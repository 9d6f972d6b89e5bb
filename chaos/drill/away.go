package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"parley/client"
)

// engineMax bounds one order to the script of the engines: Cassandra takes half a
// minute to start on a busy machine.
const engineMax = 2 * time.Minute

// Spans of the engines' drills; longer ones are a third in the short form.
const (
	awayFor  = 15 * time.Second
	standFor = 30 * time.Second
	kafkaFor = 60 * time.Second
)

// silentDirectory is what a post may wait when Postgres falls silent: each process finds
// that out by itself, by a look a second and two seconds for the answer, and a post may
// meet two of them that have not yet.
const silentDirectory = 5 * time.Second

// faultsOfEngines are the drills in which an engine of the target goes away.
func faultsOfEngines() []Drill {
	return []Drill{
		{
			Name: "cassandra-node-kill", Title: "one of three Cassandra nodes is killed", Row: "8", Short: true, P99: 2 * time.Second, Max: 5 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineAway(ctx, "cassandra-2", awayFor) },
		}, {
			Name: "cassandra-node-stands", Title: "one of three Cassandra nodes stands still for 30 s", Row: "8", P99: 4 * time.Second, Max: 6 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineStands(ctx, "cassandra-2") },
		}, {
			Name: "cassandra-quorum-gone", Title: "two of three Cassandra nodes are killed", Row: "9", P99: time.Minute, Max: time.Minute,
			Do: func(ctx context.Context, w *world) error {
				return errors.Join(w.engine(ctx, "kill", "cassandra-1"), w.engineAway(ctx, "cassandra-2", awayFor), w.engine(ctx, "start", "cassandra-1"))
			},
		}, {
			Name: "kafka-broker-kill", Title: "one of three Kafka brokers is killed", Row: "10", Short: true, P99: 2 * time.Second, Max: 5 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineAway(ctx, "kafka-2", awayFor) },
		}, {
			Name: "kafka-gone", Title: "all Kafka brokers are killed", Row: "11", P99: 2 * time.Second, Max: 2 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineAway(ctx, "kafka", kafkaFor) },
		}, {
			Name: "redis-kill", Title: "Redis is killed", Row: "7", Short: true, P99: 5 * time.Second, Max: 12 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineAway(ctx, "redis", awayFor) },
		}, {
			Name: "redis-stands", Title: "Redis stands still for 30 s", Row: "7", P99: 5 * time.Second, Max: 12 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineStands(ctx, "redis") },
		}, {
			Name: "redis-empty", Title: "Redis is killed and comes back empty", Row: "6", P99: 5 * time.Second, Max: 12 * time.Second,
			Do: func(ctx context.Context, w *world) error {
				return errors.Join(w.engine(ctx, "wipe", "redis"), w.wait(ctx, w.away(awayFor)))
			},
		}, {
			Name: "postgres-kill", Title: "Postgres is killed", Row: "13", Short: true, P99: 2 * time.Second, Max: 3 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineAway(ctx, "postgres", awayFor) },
		}, {
			Name: "postgres-stands", Title: "Postgres stands still for 30 s", Row: "13", P99: silentDirectory, Max: 6 * time.Second,
			Do: func(ctx context.Context, w *world) error { return w.engineStands(ctx, "postgres") },
		}, {
			Name: "elasticsearch-kill", Title: "Elasticsearch is killed", Row: "12", Short: true, P99: 2 * time.Second, Max: 2 * time.Second,
			Do: func(ctx context.Context, w *world) error {
				return w.searchedMeanwhile(ctx, true, func() error { return w.engineAway(ctx, "elasticsearch", awayFor) })
			},
		}, {
			Name: "elasticsearch-stands", Title: "Elasticsearch stands still for 30 s", Row: "12", P99: 2 * time.Second, Max: 2 * time.Second,
			Do: func(ctx context.Context, w *world) error {
				return w.searchedMeanwhile(ctx, true, func() error { return w.engineStands(ctx, "elasticsearch") })
			},
		},
	}
}

// engineAway kills an engine, or a node of it, and starts it again after a while.
func (w *world) engineAway(ctx context.Context, what string, d time.Duration) error {
	if err := w.engine(ctx, "kill", what); err != nil {
		return err
	}
	err := w.wait(ctx, w.away(d))
	return errors.Join(err, w.engine(ctx, "start", what))
}

// engineStands lets an engine, or a node of it, stand still for a while.
func (w *world) engineStands(ctx context.Context, what string) error {
	if err := w.engine(ctx, "stop", what); err != nil {
		return err
	}
	err := w.wait(ctx, w.away(standFor))
	return errors.Join(err, w.engine(ctx, "cont", what))
}

// searchEvery is how often somebody searches while the index is away, and searchMax
// how long an answer may take.
const (
	searchEvery = 500 * time.Millisecond
	searchMax   = 2 * time.Second
)

// searchedMeanwhile has somebody search while do lasts: every search must be answered in
// time, and, if the index is away, some must say that they only cover what is recent.
func (w *world) searchedMeanwhile(ctx context.Context, away bool, do func() error) error {
	c, _, err := w.client(0)
	if err != nil {
		return err
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() { done <- do() }()
	degraded := 0
	for {
		began := time.Now()
		ask, cancel := context.WithTimeout(ctx, searchMax)
		page, err := c.Search(ask, client.SearchQuery{Text: "the"})
		cancel()
		if err != nil {
			return errors.Join(fmt.Errorf("a search after %s: %w", time.Since(began), err), <-done)
		}
		if page.Degraded {
			degraded++
		}
		select {
		case err := <-done:
			if err == nil && away && degraded == 0 {
				err = errors.New("no search said that the index was away")
			}
			return err
		case <-time.After(searchEvery):
		}
	}
}
