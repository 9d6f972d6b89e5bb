package presence

import (
	"context"
	"sync"
	"time"

	"parley/internal/topology"
)

// Memory keeps the statuses of a cell that is one process.
type Memory struct {
	now func() time.Time

	mu     sync.Mutex
	leases map[topology.GatewayID]*lease
}

type lease struct {
	until time.Time
	users map[userKey]Status
}

type userKey struct {
	topology.Place
	user topology.UserID
}

var _ Store = (*Memory)(nil)

// NewMemory makes an empty store.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, leases: make(map[topology.GatewayID]*lease)}
}

// Set implements Store.
func (m *Memory) Set(_ context.Context, g topology.GatewayID, cs []Change) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	l := m.leases[g]
	kept := l != nil && now.Before(l.until)
	if !kept {
		l = &lease{users: make(map[userKey]Status)}
		m.leases[g] = l
	}
	l.until = now.Add(LeaseTTL)
	for _, c := range cs {
		if c.Status == Offline {
			delete(l.users, userKey{c.Place, c.User})
		} else {
			l.users[userKey{c.Place, c.User}] = c.Status
		}
	}
	return kept, nil
}

// Leave implements Store.
func (m *Memory) Leave(_ context.Context, g topology.GatewayID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.leases, g)
	return nil
}

// Read implements Store.
func (m *Memory) Read(_ context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	out := make(map[topology.UserID]Status, len(us))
	for _, u := range us {
		out[u] = Offline
		for _, l := range m.leases {
			if now.Before(l.until) {
				out[u] = max(out[u], l.users[userKey{p, u}])
			}
		}
	}
	return out, nil
}

// Present implements Store.
func (m *Memory) Present(_ context.Context, p topology.Place, limit int) (map[topology.UserID]Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	out := map[topology.UserID]Status{}
	for _, l := range m.leases {
		if !now.Before(l.until) {
			continue
		}
		for u, s := range l.users {
			if _, known := out[u.user]; u.Place == p && (known || len(out) < limit) {
				out[u.user] = max(out[u.user], s)
			}
		}
	}
	return out, nil
}
