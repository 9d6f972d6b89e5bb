package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"parley/cell/eventlog"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Settings of topics that are looked at or set.
const (
	cleanupPolicy = "cleanup.policy"
	minInSync     = "min.insync.replicas"
	retentionMs   = "retention.ms"
	unclean       = "unclean.leader.election.enable"
	messageBytes  = "max.message.bytes"
)

// Segments are small and short: retention and compaction take whole ones only.
const (
	segmentBytes = 64 << 20
	segmentAge   = 24 * time.Hour
)

// spec is what a topic must be like.
type spec struct {
	name       string
	partitions int
	policy     string
	configs    map[string]string // when it is made
}

func (c Config) specs() []spec {
	common := func(more map[string]string) map[string]string {
		more[minInSync] = strconv.Itoa(c.inSync())
		more[unclean] = "false"
		more["segment.bytes"] = strconv.Itoa(segmentBytes)
		more["segment.ms"] = milliseconds(segmentAge)
		return more
	}
	return []spec{
		{c.changesTopic(), topology.Shards, "delete", common(map[string]string{
			cleanupPolicy: "delete", retentionMs: milliseconds(eventlog.Retention),
			"message.timestamp.type": "LogAppendTime", // retention goes by the brokers' clocks, not by a writer's
		})},
		{c.readStateTopic(), journalPartitions, "compact", common(map[string]string{
			cleanupPolicy: "compact", "max.compaction.lag.ms": milliseconds(segmentAge),
		})},
	}
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// makeTopics makes those that are missing. Several processes may do so at once.
func (d *DB) makeTopics(ctx context.Context) error {
	specs := d.cfg.specs()
	there, err := d.admin.ListTopics(ctx, specs[0].name, specs[1].name)
	if err != nil {
		return away(err, "does not say which topics there are")
	}
	for _, s := range specs {
		if there.Has(s.name) {
			continue
		}
		configs := map[string]*string{}
		for k, v := range s.configs {
			configs[k] = &v
		}
		made, err := d.admin.CreateTopic(ctx, int32(s.partitions), int16(d.cfg.Replication), configs, s.name) //nolint:gosec // both are small
		switch {
		case errors.Is(err, kerr.TopicAlreadyExists):
			continue
		case errors.Is(err, kerr.InvalidReplicationFactor):
			return problem.Wrap(err, problem.Precond, "kafka: the topic %s needs %d brokers that are up; start the missing ones, or set replication lower (for tests: 1)", s.name, d.cfg.Replication)
		case err != nil:
			return problem.Wrap(err, problem.Precond, "kafka: the topic %s can't be made: %s", s.name, made.ErrMessage)
		}
		d.log.Info("made a topic", "topic", s.name, "partitions", s.partitions, "replication", d.cfg.Replication)
	}
	return d.untilThere(ctx, specs)
}

// untilThere waits until the brokers have told one another of new topics.
func (d *DB) untilThere(ctx context.Context, specs []spec) error {
	for n := 0; ; n++ {
		there, err := d.admin.ListTopics(ctx, specs[0].name, specs[1].name)
		ready := err == nil && !slices.ContainsFunc(specs, func(s spec) bool {
			t, ok := there[s.name]
			return !ok || t.Err != nil || slices.ContainsFunc(t.Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return p.Leader < 0 })
		})
		if ready {
			return nil
		}
		if n >= 2*tries || !pause(ctx, backoff(n)) {
			return away(errors.Join(err, ctx.Err()), "has no leaders for all partitions of its topics")
		}
	}
}

// checkTopics lists what is wrong with the topics that are there.
func checkTopics(ctx context.Context, c Config, admin *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	specs := c.specs()
	there, err := admin.ListTopics(ctx, specs[0].name, specs[1].name)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: does not say which topics there are", c.addresses())
	}
	var errs []error
	for _, s := range specs {
		t, ok := there[s.name]
		switch {
		case !ok || errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			continue // Open makes it
		case t.Err != nil:
			errs = append(errs, problem.Wrap(t.Err, problem.Precond, "kafka: the topic %s can't be looked at; allow the user to read, write and describe it", s.name))
			continue
		}
		settings, err := settingsOf(ctx, admin, s.name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, c.faults(s, t, settings)...)
	}
	return errors.Join(errs...)
}

// offsetsTopic is where Kafka keeps how far groups are.
const offsetsTopic = "__consumer_offsets"

// checkOffsets wants as many replicas of the groups' positions as of the topics:
// with fewer, one broker's death stops the groups. Kafka makes that topic with the
// first group, as its own setting says. What may not be read is trusted.
func checkOffsets(ctx context.Context, c Config, admin *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	there, err := admin.Metadata(ctx, offsetsTopic)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: does not say how it keeps %s", c.addresses(), offsetsTopic)
	}
	t := there.Topics[offsetsTopic]
	if t.Err == nil && len(t.Partitions) > 0 {
		if n := fewestReplicas(t); n < c.Replication {
			return problem.New(problem.Precond,
				"kafka: the topic %s has %d replicas, it needs %d, or one broker's death stops mentions and search: "+
					"kafka-reassign-partitions.sh --bootstrap-server %s --execute with a plan of %d replicas each, and set offsets.topic.replication.factor=%d on the brokers",
				offsetsTopic, n, c.Replication, c.Brokers[0], c.Replication, c.Replication)
		}
		return nil
	}
	if !errors.Is(t.Err, kerr.UnknownTopicOrPartition) || len(there.Brokers) == 0 {
		return nil
	}
	return c.offsetsToCome(ctx, there.Brokers[0].NodeID, admin)
}

// offsetsToCome looks with how many replicas a broker would make it.
func (c Config) offsetsToCome(ctx context.Context, broker int32, admin *kadm.Client) error {
	const setting = "offsets.topic.replication.factor"
	found, err := admin.DescribeBrokerConfigs(ctx, broker)
	if err != nil {
		return nil //nolint:nilerr // it may not be read
	}
	rc, err := found.On(strconv.Itoa(int(broker)), nil)
	if err != nil || rc.Err != nil {
		return nil //nolint:nilerr // as above
	}
	for _, s := range rc.Configs {
		if n, err := strconv.Atoi(s.MaybeValue()); s.Key == setting && err == nil && n < c.Replication {
			return problem.New(problem.Precond, "kafka at %s: would keep the groups' positions on %d brokers, %d are needed: set %s=%d in each broker's server.properties, before the first start of a cell",
				c.addresses(), n, c.Replication, setting, c.Replication)
		}
	}
	return nil
}

// settingsOf asks until the broker that is asked has heard of the topic, too.
func settingsOf(ctx context.Context, admin *kadm.Client, name string) (map[string]string, error) {
	settings := map[string]string{}
	err := repeat(ctx, func() error {
		found, err := admin.DescribeTopicConfigs(ctx, name)
		if err != nil {
			return err
		}
		rc, err := found.On(name, nil)
		if err != nil {
			return err
		}
		for _, c := range rc.Configs {
			settings[c.Key] = c.MaybeValue()
		}
		return rc.Err
	})
	if err != nil {
		return nil, problem.Wrap(err, problem.Precond, "kafka: the settings of the topic %s can't be read; allow the user DescribeConfigs", name)
	}
	return settings, nil
}

// faults are what is wrong with one topic: what it has, what it needs, and how to
// give it that.
func (c Config) faults(s spec, t kadm.TopicDetail, settings map[string]string) []error {
	var errs []error
	fault := func(has, needs, fix string) {
		errs = append(errs, problem.New(problem.Precond, "kafka: the topic %s has %s, it needs %s: %s", s.name, has, needs, fix))
	}
	set := func(key, value string) string {
		return fmt.Sprintf("kafka-configs.sh --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config %s=%s", c.Brokers[0], s.name, key, value)
	}
	if n := len(t.Partitions); n < s.partitions {
		fault(fmt.Sprintf("%d partitions", n), strconv.Itoa(s.partitions),
			fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --alter --topic %s --partitions %d (while it is empty; else take another prefix)", c.Brokers[0], s.name, s.partitions))
	}
	if n := fewestReplicas(t); n < c.Replication {
		fault(fmt.Sprintf("%d replicas", n), strconv.Itoa(c.Replication),
			fmt.Sprintf("kafka-reassign-partitions.sh --bootstrap-server %s --execute with a plan of %d replicas each, or set replication: %d", c.Brokers[0], c.Replication, n))
	}
	if has := settings[cleanupPolicy]; has != s.policy {
		fault(cleanupPolicy+" "+has, s.policy, set(cleanupPolicy, s.policy))
	}
	if has, err := strconv.Atoi(settings[minInSync]); err != nil || has != c.inSync() {
		fault(minInSync+" "+settings[minInSync], strconv.Itoa(c.inSync()), set(minInSync, strconv.Itoa(c.inSync())))
	}
	if settings[unclean] == "true" {
		fault(unclean+" true", "false, or acknowledged events get lost", set(unclean, "false"))
	}
	if has, err := strconv.ParseInt(settings[messageBytes], 10, 64); err == nil && has < batchBytesMax {
		fault(fmt.Sprintf("%s %d", messageBytes, has), fmt.Sprintf("at least %d", batchBytesMax), set(messageBytes, strconv.Itoa(1<<20)))
	}
	if want := eventlog.Retention; strings.Contains(s.policy, "delete") {
		if has, err := strconv.ParseInt(settings[retentionMs], 10, 64); err == nil && has >= 0 && has < want.Milliseconds() {
			fault(fmt.Sprintf("%s %d", retentionMs, has), milliseconds(want)+" (7 days) or more", set(retentionMs, milliseconds(want)))
		}
	}
	return errs
}

func fewestReplicas(t kadm.TopicDetail) int {
	n := -1
	for _, p := range t.Partitions {
		if n < 0 || len(p.Replicas) < n {
			n = len(p.Replicas)
		}
	}
	return n
}
