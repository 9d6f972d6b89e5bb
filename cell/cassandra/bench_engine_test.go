//go:build engines

package cassandra_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"parley/cell/cassandra"
	"parley/cell/change"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/internal/topology"
)

const (
	benchChannels = 64
	benchText     = 300 // bytes of an ordinary message, with its names
)

func benchDB(b *testing.B) (cassandra.Config, *cassandra.DB) {
	b.Helper()
	cfg := keyspace(b)
	db, err := cassandra.Open(b.Context(), cfg, "eu-1", nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return cfg, db
}

// plain is a minimal client: prepared statements, quorum, nothing else.
func plain(b *testing.B, cfg cassandra.Config) *gocql.Session {
	b.Helper()
	cl := gocql.NewCluster(cfg.Hosts...)
	cl.Keyspace, cl.Consistency, cl.Timeout = cfg.Keyspace, gocql.Quorum, 10*time.Second
	cl.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.RoundRobinHostPolicy())
	s, err := cl.CreateSession()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	if err := s.Query(`CREATE TABLE IF NOT EXISTS plain (ch text, rev bigint, body blob, PRIMARY KEY (ch, rev))`).Exec(); err != nil {
		b.Fatal(err)
	}
	return s
}

func benchRef(i int) topology.ChannelRef {
	return topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: topology.ChannelID(fmt.Sprint("C", i))}
}

// BenchmarkCommit is posts of 64 busy channels, a commit of one to 32 rows at a
// time, beside as many rows in plain quorum writes: one batch a partition, and one
// write a row.
func BenchmarkCommit(b *testing.B) {
	cfg, db := benchDB(b)
	s := plain(b, cfg)
	l := msglog.NewLog(db.Log(), "me")
	holds, heads := make([]*msglog.Hold, benchChannels), make([]topology.Rev, benchChannels)
	byShard := map[topology.Shard]*msglog.Hold{}
	for i := range benchChannels {
		sh := benchRef(i).Shard()
		if byShard[sh] == nil {
			hs, err := l.Take(b.Context(), []topology.Shard{sh})
			if err != nil || len(hs) != 1 {
				b.Fatalf("Take: %v, %v", hs, err)
			}
			byShard[sh] = hs[0]
		}
		holds[i] = byShard[sh]
		if _, err := holds[i].Recover(b.Context(), benchRef(i), 1); err != nil {
			b.Fatal(err)
		}
	}
	body := []byte(strings.Repeat("x", benchText))
	next := make([]int64, benchChannels)
	for _, rows := range []int{1, 32} {
		b.Run(fmt.Sprintf("rows=%d/protocol", rows), func(b *testing.B) {
			parallel(b, rows, func(i int) error {
				cs := make([]change.Change, rows)
				for k := range cs {
					heads[i]++
					cs[k] = change.Change{Rev: heads[i], Kind: change.Message, Seq: topology.Seq(heads[i]), Author: "U1", Text: string(body[:benchText-50])}
				}
				return holds[i].Commit(b.Context(), []msglog.Batch{{Channel: benchRef(i), Changes: cs}})
			})
		})
		b.Run(fmt.Sprintf("rows=%d/plain_batches", rows), func(b *testing.B) {
			parallel(b, rows, func(i int) error {
				batch := s.NewBatch(gocql.UnloggedBatch).WithContext(b.Context())
				for range rows {
					next[i]++
					batch.Query(`INSERT INTO plain (ch, rev, body) VALUES (?, ?, ?)`, fmt.Sprint("C", i), next[i], body)
				}
				return s.ExecuteBatch(batch)
			})
		})
		b.Run(fmt.Sprintf("rows=%d/plain_rows", rows), func(b *testing.B) {
			parallel(b, rows, func(i int) error {
				for range rows {
					next[i]++
					err := s.Query(`INSERT INTO plain (ch, rev, body) VALUES (?, ?, ?)`, fmt.Sprint("C", i), next[i], body).WithContext(b.Context()).Exec()
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// parallel shares b.N calls out to one worker a channel.
func parallel(b *testing.B, rows int, do func(i int) error) {
	b.Helper()
	b.ResetTimer()
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range benchChannels {
		wg.Go(func() {
			for done.Add(1) <= int64(b.N) {
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkPage is a page of 50 of a channel with some history, beside one raw
// range read of the same rows.
func BenchmarkPage(b *testing.B) {
	cfg, db := benchDB(b)
	s := plain(b, cfg)
	const n, limit = 20_000, 50
	for from := topology.Rev(1); from <= n; from += 500 {
		cs := posts(from, 500, time.Now(), strings.Repeat("x", benchText-100))
		if err := db.History().Apply(b.Context(), []history.Batch{{Channel: ref, Changes: cs}}); err != nil {
			b.Fatal(err)
		}
	}
	before := func(i int) int64 { return int64(limit + 1 + i*7919%(n-limit)) }
	b.Run("driver", func(b *testing.B) {
		timed(b, func(i int) (int, error) {
			ms, err := db.History().Page(b.Context(), ref, history.PageQuery{Before: topology.Seq(before(i)), Limit: limit})
			return len(ms), err
		})
	})
	b.Run("raw", func(b *testing.B) {
		timed(b, func(i int) (int, error) {
			at := before(i)
			it := s.Query(`SELECT seq, body, thread FROM message WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND seq < ? LIMIT ?`,
				string(ref.Workspace), int64(ref.Generation), string(ref.Channel), (at-1)/4096, at, limit).WithContext(b.Context()).Iter()
			var seq int64
			var body, thread []byte
			rows := 0
			for it.Scan(&seq, &body, &thread) {
				rows++
			}
			return rows, it.Close()
		})
	})
}

// timed makes b.N reads, one after the other, and tells their median.
func timed(b *testing.B, do func(i int) (int, error)) {
	b.Helper()
	took := make([]time.Duration, 0, b.N)
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		if n, err := do(i); err != nil || n == 0 {
			b.Fatalf("%d rows, %v", n, err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
