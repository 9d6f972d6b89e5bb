//go:build engines

package redisdb

import (
	"context"
	"testing"
	"time"

	"parley/cell/presence"
	"parley/cell/presence/presencetest"
	"parley/cell/readstate"
	"parley/cell/readstate/readstatetest"
	"parley/cell/router"
	"parley/cell/router/routertest"
)

type busInstance struct {
	*DB
	queueMax int
}

func (b busInstance) QueueMax() int { return b.queueMax }

func TestBus(t *testing.T) {
	eachServer(t, func(t *testing.T, cfg Config) {
		t.Helper()
		routertest.Run(t, func(queueMax int) (routertest.Instance, error) {
			cfg := cfg
			cfg.KeyPrefix = testPrefix()
			d, err := Open(context.Background(), cfg, Deps{})
			if err != nil {
				return nil, err
			}
			// Only what waits for a receiver is to be scarce, not what waits to be sent.
			d.bus.local = router.NewLocal(router.LocalConfig{QueueMax: queueMax})
			return busInstance{d, queueMax}, nil
		})
	})
}

func TestPresence(t *testing.T) {
	eachServer(t, func(t *testing.T, cfg Config) {
		t.Helper()
		presencetest.Run(t, presencetest.Harness{New: func(t *testing.T) (presence.Store, func(time.Duration)) {
			t.Helper()
			cfg := cfg
			cfg.KeyPrefix = testPrefix()
			t.Cleanup(func() { wipe(t, cfg) })
			d := open(t, cfg, Deps{})
			return d.Presence(), func(by time.Duration) { pass(t, d, by) }
		}})
	})
}

// pass lets time pass for the leases: it has them end earlier.
func pass(t *testing.T, d *DB, by time.Duration) {
	t.Helper()
	ctx := t.Context()
	for _, name := range d.client.ZRange(ctx, d.presence.leases, 0, -1).Val() {
		if err := d.client.ZIncrBy(ctx, d.presence.leases, -float64(by.Milliseconds()), name).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// readsInstance loses everything in Redis with every fourth crash, the first
// included: the journal has it.
type readsInstance struct {
	t       testing.TB
	cfg     Config
	journal *journal
	db      *DB
	crashes int
}

func (i *readsInstance) Store() readstate.Store { return i.db.ReadState() }

func (i *readsInstance) Crash() error {
	if err := i.db.Close(); err != nil {
		return err
	}
	if i.crashes++; i.crashes%4 == 1 {
		wipe(i.t, i.cfg)
	}
	return i.open()
}

func (i *readsInstance) open() (err error) {
	i.db, err = Open(context.Background(), i.cfg, Deps{Name: "s1", Journal: i.journal})
	return err
}

func (i *readsInstance) Close() error {
	defer wipe(i.t, i.cfg)
	return i.db.Close()
}

func TestReadState(t *testing.T) {
	eachServer(t, func(t *testing.T, cfg Config) {
		t.Helper()
		readstatetest.Run(t, func() (readstatetest.Instance, error) {
			cfg := cfg
			cfg.KeyPrefix = testPrefix()
			in := &readsInstance{t: t, cfg: cfg, journal: &journal{}}
			return in, in.open()
		})
	})
}
