package roles

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"parley/cell/directory"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/pebbledb"
	"parley/cell/presence"
	"parley/cell/readstate"
	"parley/cell/router"
	"parley/cell/search"
	"parley/cell/search/blevedb"
)

// stores are a cell's engines. Who uses them does not know which drivers they are.
type stores struct {
	messages msglog.Store
	history  history.Store
	events   eventlog.Log
	marks    readstate.Store
	bus      router.Bus
	presence presence.Store
	rows     *directory.Directory
	index    search.Index

	failed func() <-chan struct{} // closed when one has failed for good; nil = none can
	why    func() error           // then
	closes []func() error
}

// openStores opens the drivers that the config names, all or none.
func (c Cell) openStores(ctx context.Context, log *slog.Logger) (_ *stores, err error) {
	s := &stores{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeAll())
		}
	}()
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(c.Dir, "store"), Log: log})
	if err != nil {
		return nil, err
	}
	s.closes = append(s.closes, db.Close)
	s.messages, s.history, s.events, s.marks = db.Log(), db.History(), db.Events(), db.ReadState()
	s.failed, s.why = db.Failed, db.Err
	s.bus, s.presence = router.NewLocal(router.LocalConfig{}), presence.NewMemory(time.Now)
	if s.rows, err = directory.Open(ctx, filepath.Join(c.Dir, "directory.db"), time.Now, log); err != nil {
		return nil, err
	}
	s.closes = append(s.closes, s.rows.Close)
	found, err := blevedb.Open(blevedb.Config{Dir: filepath.Join(c.Dir, "search"), Log: log})
	if err != nil {
		return nil, err
	}
	s.closes = append(s.closes, found.Close)
	s.index = found
	return s, nil
}

// closeAll closes what is open, in reverse.
func (s *stores) closeAll() (err error) {
	for _, c := range slices.Backward(s.closes) {
		err = errors.Join(err, c())
	}
	s.closes = nil
	return err
}

// watchStores is the Run of a part that ends the cell when a store has failed for good:
// a restart finds out what is on disk.
func (s *stores) watchStores(ctx context.Context, ready func()) error {
	ready()
	var failed <-chan struct{}
	if s.failed != nil {
		failed = s.failed()
	}
	select {
	case <-failed:
		return s.why()
	case <-ctx.Done():
		return nil
	}
}
