package roles

import (
	"slices"

	"parley/cell/worker"
	"parley/internal/lifecycle"
)

// Names of workers.
const (
	workerMentions = "mentions"
	workerSearch   = "search"
)

// workers are all there are.
func workers() []string { return []string{workerMentions, workerSearch} }

// wireWorkers makes the workers that the config names.
func (w *cell) wireWorkers() error {
	changes := worker.FromLog(w.messages)
	for name, build := range map[string]func() (*worker.Worker, error){
		workerMentions: func() (*worker.Worker, error) { return worker.NewMentions(w.events, changes, w.marks, w.log) },
		workerSearch:   func() (*worker.Worker, error) { return worker.NewSearch(w.events, changes, w.cached, w.index, w.log) },
	} {
		if !slices.Contains(w.Workers, name) {
			continue
		}
		made, err := build()
		if err != nil {
			return err
		}
		if err := w.metrics.of(name).Register(made); err != nil {
			return err
		}
		w.add(lifecycle.Part{Name: name, Run: made.Run})
	}
	return nil
}
