//go:build engines

package kafka_test

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"parley/cell/eventlog"
	"parley/cell/kafka"
	"parley/internal/topology"
)

// openBench opens a log on the set under test.
func openBench(b *testing.B) eventlog.Log {
	b.Helper()
	v := os.Getenv(addressVariable)
	if v == "" {
		b.Fatalf("%s is not set: run make test-engines", addressVariable)
	}
	cfg := newConfig(strings.Split(v, ","))
	db, err := kafka.Open(b.Context(), cfg, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		db.Close()
		if err := remove(cfg); err != nil {
			b.Error(err)
		}
	})
	return db.Events()
}

const benchBatch = 50

func benchEvents(p topology.Shard) []eventlog.Event {
	es := make([]eventlog.Event, benchBatch)
	for i := range es {
		es[i] = eventlog.Event{Channel: channelOf(p), Rev: topology.Rev(i + 1), Kind: 1}
	}
	return es
}

// BenchmarkAppend has many tailers append batches side by side.
func BenchmarkAppend(b *testing.B) {
	l := openBench(b)
	for p := range topology.Shard(topology.Shards) { // what a first append costs is not the question
		if err := l.Append(b.Context(), p, benchEvents(p)); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Uint32
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		p := topology.Shard(next.Add(1) % topology.Shards)
		es := benchEvents(p)
		for pb.Next() {
			if err := l.Append(b.Context(), p, es); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkRead reads a backlog of one partition, as a worker does.
func BenchmarkRead(b *testing.B) {
	l := openBench(b)
	for range 400 {
		if err := l.Append(b.Context(), 0, benchEvents(0)); err != nil {
			b.Fatal(err)
		}
	}
	read := 0
	var at eventlog.Position
	b.ResetTimer()
	for range b.N {
		es, next, err := l.Read(b.Context(), 0, at, 500)
		if err != nil {
			b.Fatal(err)
		}
		read += len(es)
		if at = next; len(es) == 0 {
			at = 0
		}
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "events/s")
}
