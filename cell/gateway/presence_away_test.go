package gateway_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/cell/gateway"
	"parley/cell/presence"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// frailStore is a store of presence that can be away, or emptied.
type frailStore struct {
	now  func() time.Time
	away atomic.Bool

	mu sync.Mutex
	in *presence.Memory
}

func (f *frailStore) empty() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in = presence.NewMemory(f.now)
}

func (f *frailStore) store() (*presence.Memory, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away.Load() {
		return nil, problem.New(problem.Unavailable, "away")
	}
	return f.in, nil
}

func (f *frailStore) Set(ctx context.Context, g topology.GatewayID, cs []presence.Change) (bool, error) {
	m, err := f.store()
	if err != nil {
		return false, err
	}
	return m.Set(ctx, g, cs)
}

func (f *frailStore) Leave(ctx context.Context, g topology.GatewayID) error {
	m, err := f.store()
	if err != nil {
		return err
	}
	return m.Leave(ctx, g)
}

func (f *frailStore) Read(ctx context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]presence.Status, error) {
	m, err := f.store()
	if err != nil {
		return nil, err
	}
	return m.Read(ctx, p, us)
}

func (f *frailStore) Present(ctx context.Context, p topology.Place, limit int) (map[topology.UserID]presence.Status, error) {
	m, err := f.store()
	if err != nil {
		return nil, err
	}
	return m.Present(ctx, p, limit)
}

// TestGateway_PresenceIsUnknownWhileItsStoreIsAway: not offline; and it heals by
// itself when the store comes back empty.
func TestGateway_PresenceIsUnknownWhileItsStoreIsAway(t *testing.T) {
	c := newCell(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	there := &frailStore{now: now}
	there.empty()
	c.there = there
	us := c.people(3)
	c.channel("C1", false, us...)
	clock := func(_ *gateway.Config, d *gateway.Deps) { d.Now = now }
	e, other := c.edge(c.gateway("gw", clock), 1), c.edge(c.gateway("gw2", clock), 1)
	a := e.open(us[0], nil)
	a.live("C1")
	other.open(us[1], nil)
	seen := func(s *client, u topology.UserID) (last string) { // as a client takes it
		for _, ev := range s.got(chat.TypePresence) {
			var p chat.PresenceEvent
			decode(t, ev.raw, &p)
			if p.UserID == u || p.UserID == "" {
				last = p.Status
			}
		}
		return last
	}
	eventually(t, "online is told", func() bool { return seen(a, us[1]) == "online" })
	pass := func() { ahead.Add(int64(15 * time.Millisecond)) } // per look: some seven times as fast

	there.away.Store(true)
	eventually(t, "unknown is told", func() bool { pass(); return seen(a, us[1]) == "unknown" })
	late := e.open(us[2], nil)
	eventually(t, "unknown is told to who comes", func() bool { return seen(late, us[1]) == "unknown" })

	there.empty()
	there.away.Store(false)
	eventually(t, "online is told again", func() bool { pass(); return seen(a, us[1]) == "online" })
	eventually(t, "who came meanwhile is told, too", func() bool { pass(); return seen(late, us[1]) == "online" })
	eventually(t, "and of whom nobody had told", func() bool { pass(); return seen(a, us[2]) == "online" })
}

// TestGateway_PresenceIsWrittenAgainWhenItsStoreWasEmptied, without having been away.
func TestGateway_PresenceIsWrittenAgainWhenItsStoreWasEmptied(t *testing.T) {
	c := newCell(t)
	there := &frailStore{now: time.Now}
	there.empty()
	c.there = there
	us := c.people(1)
	c.channel("C1", false, us...)
	c.edge(c.gateway("gw"), 1).open(us[0], nil)
	eventually(t, "it is written", func() bool { return statusOf(c, us[0]) == presence.Online })
	there.empty()
	eventually(t, "it is written again", func() bool { return statusOf(c, us[0]) == presence.Online })
}
