//go:build engines

package kafka_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"parley/cell/eventlog"
	"parley/cell/eventlog/eventlogtest"
	"parley/cell/kafka"
	"parley/cell/readstate"
	"parley/cell/readstate/journaltest"
	"parley/internal/topology"
)

const addressVariable = "PARLEY_TEST_KAFKA"

// TestMain has the model of the suite run fewer times than on embedded engines: each
// run makes a topic of 128 partitions, whose files brokers keep open for a minute
// after it is gone.
func TestMain(m *testing.M) {
	if name := os.Getenv(memberVariable); name != "" {
		if err := beMember(name); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if err := flag.Set("rapid.checks", "12"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}

// addresses are the brokers of the set under test.
func addresses(t *testing.T) []string {
	t.Helper()
	v := os.Getenv(addressVariable)
	if v == "" {
		t.Fatalf("%s is not set: run make test-engines", addressVariable)
	}
	return strings.Split(v, ",")
}

// replicas fits the set: three brokers, or one.
func replicas(brokers []string) int {
	if len(brokers) >= 3 {
		return 3
	}
	return 1
}

var prefixes atomic.Int64 // gives each test topics of its own

func newConfig(brokers []string) kafka.Config {
	cfg := kafka.Default()
	cfg.Brokers, cfg.Replication = brokers, replicas(brokers)
	cfg.Prefix = fmt.Sprintf("test-%d-%d-%d", os.Getpid(), time.Now().UnixNano(), prefixes.Add(1))
	cfg.SessionMax = 6 * time.Second
	return cfg
}

// admin is a client of the test's own, to bring topics about and take them away.
func admin(brokers []string) (*kadm.Client, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(cl), nil
}

// remove deletes a config's topics.
func remove(cfg kafka.Config) error {
	adm, err := admin(cfg.Brokers)
	if err != nil {
		return err
	}
	defer adm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = adm.DeleteTopics(ctx, cfg.Prefix+".changes", cfg.Prefix+".readstate")
	return err
}

// instance is one event log under test.
type instance struct {
	cfg kafka.Config
	db  *kafka.DB
	age time.Duration
	// seen is where partitions ended at an age: what was there then is as old.
	seen []agedEnds
}

type agedEnds struct {
	age  time.Duration
	ends kadm.ListedOffsets
}

func (i *instance) open() (err error) {
	i.db, err = kafka.Open(context.Background(), i.cfg, nil, nil)
	return err
}

func (i *instance) Log() eventlog.Log { return i.db.Events() }

// Crash ends the client as a dying process would: nothing is flushed or told.
func (i *instance) Crash() error {
	i.db.Close()
	return i.open()
}

// Age does what a broker's cleaner does when time has passed: it cuts off what is
// older than the retention.
func (i *instance) Age(ctx context.Context, d time.Duration) error {
	adm, err := admin(i.cfg.Brokers)
	if err != nil {
		return err
	}
	defer adm.Close()
	ends, err := adm.ListEndOffsets(ctx, i.cfg.Prefix+".changes")
	if err != nil {
		return err
	}
	i.seen = append(i.seen, agedEnds{i.age, ends})
	i.age += d
	for _, s := range i.seen {
		if i.age-s.age <= eventlog.Retention {
			continue
		}
		deleted, err := adm.DeleteRecords(ctx, s.ends.Offsets())
		if err == nil {
			err = deleted.Error()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *instance) Close() error {
	i.db.Close()
	return remove(i.cfg)
}

func TestKafka_Events(t *testing.T) {
	brokers := addresses(t)
	eventlogtest.Run(t, func() (eventlogtest.Instance, error) {
		i := &instance{cfg: newConfig(brokers)}
		return i, i.open()
	})
}

// open opens a log of the test's own.
func open(t *testing.T, cfg kafka.Config) *kafka.DB {
	t.Helper()
	db, err := kafka.Open(t.Context(), cfg, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// newPrefix is a config whose topics go with the test.
func newPrefix(t *testing.T) kafka.Config {
	t.Helper()
	cfg := newConfig(addresses(t))
	t.Cleanup(func() {
		if err := remove(cfg); err != nil {
			t.Error(err)
		}
	})
	return cfg
}

func TestKafka_Journal(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) readstate.Journal {
		t.Helper()
		return open(t, newPrefix(t)).Journal()
	})
}

// TestKafka_AppendIsOneBatch looks at the topic with another client: an append of
// many events has one batch, so it is there whole or not at all.
func TestKafka_AppendIsOneBatch(t *testing.T) {
	cfg := newPrefix(t)
	db := open(t, cfg)
	es := make([]eventlog.Event, 2048)
	for i := range es {
		es[i] = eventlog.Event{Channel: topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}, Rev: topology.Rev(i + 1), Kind: 1}
	}
	if err := db.Events().Append(t.Context(), 5, es); err != nil {
		t.Fatal(err)
	}
	batches := &batchCount{}
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.WithHooks(batches),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{cfg.Prefix + ".changes": {5: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for n := 0; n < len(es); {
		fs := cl.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		n += fs.NumRecords()
	}
	if n := batches.n.Load(); n != 1 {
		t.Errorf("the append is %d batches", n)
	}
}

type batchCount struct{ n atomic.Int64 }

func (b *batchCount) OnFetchBatchRead(kgo.BrokerMetadata, string, int32, kgo.FetchBatchMetrics) {
	b.n.Add(1)
}
