package pebbledb_test

import (
	"context"
	"math/rand/v2"
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
	mem     *vfs.MemFS
	db      *pebbledb.DB
	now     func() time.Time
	age     time.Duration
	crashes uint64
}

func newDerived(now func() time.Time) (*derived, error) {
	d := &derived{mem: vfs.NewCrashableMem(), now: now}
	return d, d.open()
}

func (d *derived) open() (err error) {
	d.db, err = pebbledb.Open(pebbledb.Config{Dir: "db", FS: d.mem, Now: func() time.Time { return d.now().Add(d.age) }})
	return err
}

// Crash keeps none, some, or all of what was not synced, in turns.
func (d *derived) Crash() error {
	d.crashes++
	left := d.mem.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: []int{0, 50, 100, 20}[d.crashes%4],
		RNG:                 rand.New(rand.NewPCG(1, d.crashes)),
	})
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
	for {
		if more, err := s.Sweep(ctx, now); !more || err != nil {
			return err
		}
	}
}

func TestHistory(t *testing.T) {
	historytest.Run(t, func() (historytest.Instance, error) {
		// The suite's channels begin at this time, and it asks as of then.
		d, err := newDerived(func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) })
		return historyInstance{d}, err
	})
}

type eventsInstance struct{ *derived }

func (e eventsInstance) Log() eventlog.Log { return e.db.Events() }

type trimmer interface {
	Trim(ctx context.Context) error
}

func (e eventsInstance) Age(ctx context.Context, d time.Duration) error {
	e.age += d
	t, _ := e.db.Events().(trimmer)
	return t.Trim(ctx)
}

func TestEvents(t *testing.T) {
	eventlogtest.Run(t, func() (eventlogtest.Instance, error) {
		d, err := newDerived(time.Now)
		return eventsInstance{d}, err
	})
}

type readStateInstance struct{ *derived }

func (r readStateInstance) Store() readstate.Store { return r.db.ReadState() }

func TestReadState(t *testing.T) {
	readstatetest.Run(t, func() (readstatetest.Instance, error) {
		d, err := newDerived(time.Now)
		return readStateInstance{d}, err
	})
}
