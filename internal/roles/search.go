package roles

import (
	"time"

	"parley/cell/finder"
	"parley/cell/worker"
	"parley/internal/lifecycle"
)

// finder answers searches, on the cell's index.
func (w *cell) finder() *finder.Finder {
	return finder.New(finder.Config{}, finder.Deps{
		Index: w.index, Directory: w.cached, Messages: w.servers, Now: time.Now, Log: w.log,
	})
}

// wireSearch makes the worker that feeds the index.
func (w *cell) wireSearch() error {
	indexer, err := worker.NewSearch(w.events, worker.FromLog(w.messages), w.cached, w.index, w.log)
	if err != nil {
		return err
	}
	if err := w.metrics.of("search").Register(indexer); err != nil {
		return err
	}
	w.add(lifecycle.Part{Name: "search", Run: indexer.Run})
	return nil
}
