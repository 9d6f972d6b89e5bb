package pebbledb_test

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/cell/eventlog"
	"parley/cell/eventlog/eventlogtest"
	"parley/cell/history"
	"parley/cell/history/historytest"
	"parley/cell/pebbledb"
	"parley/cell/readstate"
	"parley/cell/readstate/readstatetest"
)

// derived is a database on a crashable file system, with a clock that ages.
type derived struct {
	mem *vfs.MemFS
	db  *pebbledb.DB
	age time.Duration
}

func newDerived() (*derived, error) {
	d := &derived{mem: vfs.NewCrashableMem()}
	return d, d.open()
}

func (d *derived) open() (err error) {
	d.db, err = pebbledb.Open(pebbledb.Config{Dir: "db", FS: d.mem, Now: func() time.Time { return time.Now().Add(d.age) }})
	return err
}

func (d *derived) Crash() error {
	left := d.mem.CrashClone(vfs.CrashCloneCfg{})
	_ = d.db.Close() // of a process that is gone; what it still writes is not in left
	d.mem = left
	return d.open()
}

func (d *derived) Close() error { return d.db.Close() }

type historyInstance struct{ *derived }

func (h historyInstance) Store() history.Store { return h.db.History() }

// sweeper is what a driver has that may forget.
type sweeper interface {
	Sweep(ctx context.Context, now time.Time) (more bool, err error)
}

func (h historyInstance) Sweep(ctx context.Context, now time.Time) error {
	s, _ := h.db.History().(sweeper)
	_, err := s.Sweep(ctx, now)
	return err
}

func TestHistory(t *testing.T) {
	historytest.Run(t, func() (historytest.Instance, error) {
		d, err := newDerived()
		return historyInstance{d}, err
	})
}

type eventsInstance struct{ *derived }

func (e eventsInstance) Log() eventlog.Log { return e.db.Events() }

type trimmer interface{ Trim(ctx context.Context) error }

func (e eventsInstance) Age(ctx context.Context, d time.Duration) error {
	e.age += d
	t, _ := e.db.Events().(trimmer)
	return t.Trim(ctx)
}

func TestEvents(t *testing.T) {
	eventlogtest.Run(t, func() (eventlogtest.Instance, error) {
		d, err := newDerived()
		return eventsInstance{d}, err
	})
}

type readStateInstance struct{ *derived }

func (r readStateInstance) Store() readstate.Store { return r.db.ReadState() }

func TestReadState(t *testing.T) {
	readstatetest.Run(t, func() (readstatetest.Instance, error) {
		d, err := newDerived()
		return readStateInstance{d}, err
	})
}
