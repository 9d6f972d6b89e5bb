package blevedb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/blevesearch/bleve/v2/index/scorch"
	index "github.com/blevesearch/bleve_index_api"

	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/internal/topology"
)

func doc(n int) search.Doc {
	return search.Doc{
		Channel: topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}, ID: topology.MessageID(fmt.Sprintf("m%08d", n)), Version: 1,
		TS: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC).UnixMicro() + int64(n), Seq: topology.Seq(n), Author: "Uann",
		Text: fmt.Sprintf("The deploy number %d of checkout-api has failed again, see https://ci.example.com/job/%d and ask @ann or somebody else who was there at the time", n, n*7),
	}
}

// BenchmarkPut measures indexing, in the batches of an import and of a live feed,
// beside scorch alone, which is handed documents that were prepared before and
// looks for no versions.
func BenchmarkPut(b *testing.B) {
	for _, batch := range []int{1_000, 100} {
		b.Run(fmt.Sprintf("by-%d", batch), func(b *testing.B) { putBy(b, batch) })
	}
}

func putBy(b *testing.B, batch int) {
	b.Helper()
	var n int
	next := func() []search.Doc {
		docs := make([]search.Doc, batch)
		for i := range docs {
			n++
			docs[i] = doc(n)
		}
		return docs
	}
	b.Run("driver", func(b *testing.B) {
		db, err := blevedb.Open(blevedb.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			b.StopTimer()
			docs := next()
			b.StartTimer()
			if err := db.Put(b.Context(), docs); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "docs/s")
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("raw", func(b *testing.B) {
		queue := index.NewAnalysisQueue(2)
		defer queue.Close()
		made, err := scorch.NewScorch(scorch.Name, map[string]any{"path": b.TempDir(), "unsafe_batch": false}, queue)
		if err != nil {
			b.Fatal(err)
		}
		if err := made.Open(); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			b.StopTimer()
			batch := index.NewBatch()
			for _, d := range next() {
				batch.Update(blevedb.DocumentOf(&d))
			}
			b.StartTimer()
			if err := made.Batch(batch); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "docs/s")
		if err := made.Close(); err != nil {
			b.Fatal(err)
		}
	})
}
