// Package kafka keeps a cell's event log, and the journal of its read state, in
// Apache Kafka. Partition p of the topic <prefix>.changes is shard p, and an event's
// position is its offset plus one; <prefix>.readstate is compacted. Everything of the
// client library stays in here.
package kafka

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"parley/cell/eventlog"
	"parley/cell/readstate"
	"parley/internal/problem"
)

// DB is an open connection to the brokers. Its methods may be called by many
// goroutines at once.
type DB struct {
	cfg       Config
	log       *slog.Logger
	client    *kgo.Client
	admin     *kadm.Client
	squeeze   kgo.Compressor
	unsqueeze kgo.Decompressor
	events    *eventLog
	journal   *journal
	metrics   *metrics

	ctx    context.Context //nolint:containedctx // ends with Close: that of the goroutines here, not of a caller
	cancel context.CancelFunc

	mu      sync.Mutex // for closed, and for running to grow
	closed  bool
	running sync.WaitGroup
}

// Open connects, makes the topics that are missing, and refuses what does not suit:
// as Check, but some brokers may be away. log and reg may be nil.
func Open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	opts, err := cfg.options(log)
	if err != nil {
		return nil, err
	}
	squeeze, err := kgo.DefaultCompressor(kgo.Lz4Compression())
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "no compressor")
	}
	client, err := kgo.NewClient(append(opts, journalOptions(cfg)...)...)
	if err != nil {
		return nil, problem.Wrap(err, problem.Internal, "the event log's client can't be made")
	}
	d := &DB{
		cfg: cfg, log: log, client: client, admin: kadm.NewClient(client),
		squeeze: squeeze, unsqueeze: kgo.DefaultDecompressor(),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.events, d.journal = newEventLog(d), newJournal(d)
	d.metrics = newMetrics(d, reg)
	if err := d.start(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *DB) start(ctx context.Context) error {
	if err := Ready(ctx, d.cfg, d.log); err != nil {
		return err
	}
	if err := d.makeTopics(ctx); err != nil {
		return err
	}
	if err := checkTopics(ctx, d.cfg, d.admin); err != nil {
		return err
	}
	return d.metrics.register()
}

// Events is the event log. It is an eventlog.Assigner, too.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) Events() eventlog.Log { return d.events }

// Journal is the read state's journal.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) Journal() readstate.Journal { return d.journal }

// Close ends what is under way, with errors, and disconnects.
func (d *DB) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.metrics.unregister()
	d.client.Close()
	d.running.Wait()
}

// spawn starts a goroutine that Close waits for; false when it is too late.
func (d *DB) spawn(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.running.Go(f)
	return true
}

func errClosed() error {
	return problem.New(problem.Unavailable, "the event log is closed")
}
