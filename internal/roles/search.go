package roles

import (
	"time"

	"parley/cell/finder"
)

// finder answers searches, on the cell's index.
func (w *cell) finder() *finder.Finder {
	return finder.New(finder.Config{}, finder.Deps{
		Index: w.index, Directory: w.cached, Messages: w.servers, Now: time.Now, Log: w.log,
	})
}
